"""The bytes of a file, unpacked where it is compressed. One that is cut short, or not compressed at all, is told."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from luthier.data.reading.encodings import kind_of_file
from luthier.errors import LuthierError


def _zstd(path: Path) -> IO[bytes]:
    import pyarrow as pa

    stream: Any = pa.input_stream(str(path), compression="zstd")
    return io.BufferedReader(stream)


PACKED: dict[str, tuple[str, bytes, Callable[[Path], Any]]] = {
    ".gz": ("gzip", b"\x1f\x8b", gzip.open),
    ".bz2": ("bzip2", b"BZh", bz2.open),
    ".xz": ("xz", b"\xfd7zXZ\0", lzma.open),
    ".zst": ("zstd", b"\x28\xb5\x2f\xfd", _zstd),
}
"""Ending → what packs such files, how they begin, and what opens them."""
FAULTS = (EOFError, zlib.error, lzma.LZMAError, OSError)
"""What the packers raise for a damaged file; an OSError with a number is the system's own."""


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of a file, unpacked. Raises LuthierError for a file that is damaged, cut short or not packed at all."""
    if path.suffix.lower() not in PACKED:
        with path.open("rb") as plain:
            yield plain
        return
    packer, begin, unpack = PACKED[path.suffix.lower()]
    first = beginning(path)
    if first and not first.startswith(begin):
        kind = kind_of_file(first)
        raise LuthierError(
            f"the file is not {packer}-compressed, though its name ends with {path.suffix}"
            + (f": it seems to be {kind}" if kind else ""),
            where=str(path),
            fix=f"call it {path.stem} if it is not compressed at all; else fetch or write it again",
        )
    if not first:
        yield io.BytesIO()  # zstd and xz call it a fault, and it is empty as any other empty file
        return
    try:
        with unpack(path) as file:
            yield file
    except FAULTS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(path, packer, error) from error


def _damaged(path: Path, packer: str, error: Exception) -> LuthierError:
    cut = isinstance(error, EOFError) or "truncated" in str(error).lower()
    what = f"the {packer}-compressed file " + ("is cut short: its end is missing" if cut else f"is damaged: {error}")
    return LuthierError(what, where=str(path), fix="fetch, copy or write the file again")


def beginning(path: Path) -> bytes:
    """The first bytes of a file as they lie on the disk."""
    with path.open("rb") as file:
        return file.read(32)


def unpacked_name(path: Path) -> Path:
    """The path without the ending of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in PACKED else path


__all__ = ["PACKED", "beginning", "opened", "unpacked_name"]
