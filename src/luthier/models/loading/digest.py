"""The identity of a model's weights by content: the same however they are split into files. Never imports torch."""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from luthier import cache
from luthier.errors import LuthierError
from luthier.run import write_atomically


def weights_digest(folder: Path) -> str:
    """sha256 over name, type, shape and bytes of every tensor in the folder's safetensors files, in order of name.

    Remembered in the cache by the files' sizes and times, so that only the first call reads them. Raises LuthierError
    for a file that is damaged.
    """
    files = sorted(folder.resolve().glob("*.safetensors"))
    stats = [(str(path), each.st_size, each.st_mtime_ns, each.st_ctime_ns) for path in files for each in [path.stat()]]
    key = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    memory = cache.root() / "digests" / key
    if memory.is_file():
        return memory.read_text(encoding="utf-8").strip()
    digest = _digest(files)
    try:
        write_atomically(memory, digest + "\n")
    except OSError:
        return digest  # a full or read-only cache costs the next call its time, nothing else
    return digest


def must_be_whole(folder: Path) -> None:
    """Raises LuthierError where a file of weights is shorter than its header says; reads the headers alone."""
    for path in sorted(folder.glob("*.safetensors")):
        _header(path)


def must_be(known: str | None, found: str, name: str, where: Path, role: str = "reference model") -> None:
    """Raises LuthierError where the weights of the model called `name` are not those that a run was trained with.
    `known`: what it has written down; None in runs that wrote nothing."""
    if known not in (None, found):
        raise LuthierError(
            f"the {role} {name!r} at hand is not the one that was trained with "
            f"(weights {found[:12]}, trained with {known and known[:12]})",
            where=str(where),
            fix="bring back the weights that it had, or train again with these (another `output:`)",
        )


def _digest(files: list[Path]) -> str:
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in files:
        length, header = _header(path)
        tensors |= {name: (path, 8 + length, entry) for name, entry in header.items()}
    digest = hashlib.sha256()
    maps: dict[Path, memoryview] = {}
    for name, (path, data, entry) in sorted(tensors.items()):
        if path not in maps:
            with path.open("rb") as file:
                maps[path] = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        start, end = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        digest.update(maps[path][data + start : data + end])
    return digest.hexdigest()


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """How long the header of a safetensors file is, and what it says of each tensor."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= size else {}
        header.pop("__metadata__", None)
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError):
        end = size  # what it says is nonsense
    if 8 + length + end > size:
        raise LuthierError("the file of weights is damaged or cut short", where=str(path), fix="fetch it again")
    return length, header
