"""The server itself: uvicorn around the application, the engine's thread, and a quiet end."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError, missing_extra
from luthier.serve.api.guard import is_local, must_be_guarded
from luthier.serve.settings import PREFIX, Settings, parse

if TYPE_CHECKING:
    from luthier.serve.connections import Listening
    from luthier.serve.house import House

Say = Callable[[str], None]


def must_be_installed() -> None:
    """Raises LuthierError where uvicorn is absent."""
    try:
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_extra("uvicorn", "serve", "the server") from error


def serve(given: Sequence[str], folder: Path | None, at: tuple[str, int], keys: list[str], say: Say) -> None:
    """Serve until it is told to stop. `given`: runs and models, and settings; `say` is told where it listens."""
    must_be_installed()
    settings = parse([word for word in given if word.startswith(PREFIX)])
    named = [word for word in given if not word.startswith(PREFIX)]
    if not named:
        raise LuthierError(
            "what is to be served?", where="RUN|MODEL", fix="name a run or a model: luthier serve runs/demo"
        )
    host, port = at
    must_be_guarded(host, keys)
    log_to_stderr()
    sock = listen(host, port)  # before the models are opened, which takes time
    house = house_of(named, settings, folder)
    url = f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}"
    names = [name for name, _, _ in house.names()] or [house.opened.name]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    say(f"serving {shown} at {url} (OpenAI's API under {url}/v1)")
    make(house, host, keys).run(sockets=[sock])


def house_of(given: Sequence[str], settings: Settings, folder: Path | None) -> House:
    """Open what is to be served. Raises LuthierError."""
    from luthier.serve.adapters import found_in
    from luthier.serve.house import House
    from luthier.serve.opening import open_all

    if folder is not None and not folder.is_dir():
        raise LuthierError(
            "there is no such folder of adapters", where=str(folder), fix="make it, or leave --adapters out"
        )
    opened = open_all(given)
    house = House(opened, settings, folder)
    if folder is not None:
        if house.adapters is None:
            raise LuthierError(
                "a reward model takes no adapters", where="--adapters", fix="name a base or a run beside it"
            )
        found, left_out = found_in(folder)
        for line in left_out:
            house.log(f"left out: {line}")
        for name, place in found.items():
            if house.adapters.get(name) is None and name != opened.name:
                house.adapters.add(name, place)
    return house


def make(house: House, host: str, keys: list[str]) -> Listening:
    """A server around the house, to be run on a socket."""
    import uvicorn

    from luthier.serve.api.app import App
    from luthier.serve.api.guard import Guard
    from luthier.serve.connections import Listening, patient

    settings = house.settings
    config = uvicorn.Config(
        App(house, Guard(keys, local=is_local(host))),
        http=patient(settings.patience, settings.connections),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=max(1, round(settings.patience)),
        timeout_graceful_shutdown=5,
    )
    return Listening(config, house)


def log_to_stderr() -> None:
    """Lines of the log, each with its time."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log = logging.getLogger("luthier.serve")
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def listen(host: str, port: int) -> socket.socket:
    """A socket that connections come to. Raises LuthierError where there can be none."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise LuthierError(
            f"cannot listen at {host}, port {port}: {error.strerror or error}",
            where="--port",
            fix="name another port, or end what listens there",
        ) from error
