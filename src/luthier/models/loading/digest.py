"""The identity of a model's weights by content: the same however they are split into files. Never imports torch."""

from __future__ import annotations

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any

from luthier import cache
from luthier.run import write_atomically


def weights_digest(folder: Path) -> str:
    """sha256 over name, type, shape and bytes of every tensor in the folder's safetensors files, in order of name.

    Remembered in the cache by the files' sizes and times, so that only the first call reads them.
    """
    files = sorted(folder.resolve().glob("*.safetensors"))
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
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


def _digest(files: list[Path]) -> str:
    tensors: dict[str, tuple[Path, int, dict[str, Any]]] = {}
    for path in files:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
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
