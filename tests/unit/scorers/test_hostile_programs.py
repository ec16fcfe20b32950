"""Hostile programs gain nothing, hurt nothing, and leave the machine as it was; behind every kind of walls there is."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from hostile import CHEATS, HARMS, LONG, filled

from luthier.scorers.code import Code
from luthier.scorers.sandbox import Sandbox, _standing
from luthier.scorers.sandbox.walls import KINDS, Kind
from luthier.types import Example, Response, Turn

SECRET = "opensesame4711"
TASK = Example(
    (Turn("user", "Write double(x)."),),
    meta={"tests": ("assert double(2) == 4", "assert double(-5) == -10", "assert double('ab') == 'abab'")},
)
RIGHT = "def double(x):\n    return 2 * x"


class Behind(Code):
    """The scorer behind walls of one kind."""

    kind: Kind

    @property
    def _sandbox(self) -> Sandbox:
        return replace(super()._sandbox, kind=self.kind)


def behind(kind: Kind) -> Code:
    if _standing(kind) is None:
        pytest.skip(f"no {kind} here")
    scorer = Behind(seconds=0.5, memory_mb=256)
    object.__setattr__(scorer, "kind", kind)
    return scorer


class Machine:
    """What must be the same afterwards, and what must not have been reached."""

    def __init__(self, folder: Path) -> None:
        self.canary = folder / "canary"
        self.canary.write_text(SECRET)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.port = self.server.getsockname()[1]
        self.datagrams.bind(("127.0.0.1", self.port))
        self.before = self.state()

    def state(self) -> dict[str, object]:
        stat = self.canary.stat() if self.canary.exists() else None
        return {
            "canary": stat and (stat.st_mode, stat.st_mtime_ns, stat.st_size, stat.st_nlink, self.canary.read_text()),
            "beside": sorted(path.name for path in self.canary.parent.iterdir()),
            "temporary": sorted(path.name for path in Path(tempfile.gettempdir()).iterdir()),
            "elsewhere": [p for at in ("/tmp", "/var/tmp", "/dev/shm", "/") for p in Path(at).glob("luthier-hostile*")],
            "children": sorted(child.pid for child in psutil.Process().children(recursive=True)),
            "threads": threading.active_count(),
            "open files": psutil.Process().num_fds(),
            "limits": psutil.Process().rlimit(psutil.RLIMIT_NOFILE),
        }

    def reached(self) -> bool:
        """Has anything called the server?"""
        for sock in (self.server, self.datagrams):
            sock.setblocking(False)
        try:
            self.server.accept()
            return True
        except BlockingIOError:
            pass
        try:
            self.datagrams.recv(1)
            return True
        except BlockingIOError:
            return False

    def close(self) -> None:
        self.server.close()
        self.datagrams.close()


def strays() -> list[str]:
    """Processes that any sandbox has left behind, whoever is their parent now."""
    found = []
    for process in psutil.process_iter(["cmdline", "ppid"]):
        words, parent = process.info["cmdline"] or [], process.info["ppid"]
        if (parent == 1 and any("job = marshal.loads" in word for word in words)) or words[:2] == ["sleep", "3617"]:
            found.append(" ".join(words)[:60])
    return found


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    monkeypatch.setenv("LUTHIER_CANARY", SECRET)
    for name in ("outside", "temporary"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = Machine(tmp_path / "outside")
    yield made
    made.close()


def run_all(kind: Kind, programs: dict[str, str], machine: Machine) -> None:
    scorer = behind(kind)
    sources = {name: filled(source, str(machine.canary), machine.port, SECRET) for name, source in programs.items()}
    pairs = [
        (TASK, Response((Turn("assistant", f"```python\n{source}\n```"),))) for source in (*sources.values(), RIGHT)
    ]
    memory, others = psutil.virtual_memory().available, set(strays())
    verdicts = scorer.verdicts(pairs)
    wrong = {name: verdict for name, verdict in zip((*sources, "right"), verdicts, strict=True) if verdict.share != 0.0}
    assert wrong.pop("right").share == 1.0
    assert wrong == {}, "a program was paid, or the sandbox failed"
    assert machine.state() == machine.before
    assert not machine.reached()
    if not os.environ.get("PYTEST_XDIST_WORKER"):
        deadline = time.monotonic() + 5
        while set(strays()) - others and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not set(strays()) - others
        assert psutil.virtual_memory().available > memory - 1.5e9


def best_kind() -> Kind:
    return next((kind for kind in KINDS[:-1] if _standing(kind) is not None), "limits")


EVERY_DAY = {name: source for name, source in (CHEATS | HARMS).items() if name not in LONG}


def test_there_are_more_than_fifty() -> None:
    assert len(EVERY_DAY) >= 50 and not CHEATS.keys() & HARMS.keys()


@pytest.mark.parametrize("part", range(4))
def test_hostile_programs_gain_nothing_and_hurt_nothing(part: int, machine: Machine) -> None:
    names = sorted(EVERY_DAY)[part::4]
    run_all(best_kind(), {name: EVERY_DAY[name] for name in names}, machine)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS[:-1])
def test_nor_behind_any_other_walls(kind: Kind, machine: Machine) -> None:
    run_all(kind, CHEATS | HARMS, machine)
