"""What was measured of rows, as files: written piece by piece, and looked at one column at a time.

A million rows have hundreds of MB of it. Mapped files count as memory where they were looked at, so nothing here keeps
one open, and what is gone through as a whole is read in the order in which it lies.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

PIECE = 1 << 15
"""Rows that are in memory at a time."""


class Opened(Mapping[str, NDArray[Any]]):
    """Columns of a stage by name, those of some rows alone where their `places` are given. Each is mapped anew when it
    is asked for: whoever lets go of it gives its memory back."""

    def __init__(self, paths: Mapping[str, Path], places: NDArray[np.int64] | None = None) -> None:
        self._paths, self._places = paths, places
        self._chosen: dict[str, tuple[IO[bytes], bool]] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, name: str) -> NDArray[Any]:
        whole = np.load(self._paths[name], mmap_mode="r")
        if self._places is None:
            return whole
        if whole.ndim == 1 or not len(self._places):
            return whole[self._places]
        if name not in self._chosen:
            self._chosen[name] = self._copied(self._paths[name], self._places)
        file, by_column = self._chosen[name]
        shape = (len(self._places), *whole.shape[1:])
        return np.memmap(file, whole.dtype, "r", shape=shape, order="F" if by_column else "C")

    @staticmethod
    def _copied(path: Path, places: NDArray[np.int64]) -> tuple[IO[bytes], bool]:
        """The rows of these places in a file without a name, and whether it goes column by column."""
        file = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with the columns
        whole = np.load(path, mmap_mode="r")
        by_column = is_by_column(whole)
        if by_column:
            for column in range(whole.shape[1]):
                file.write(np.array(np.load(path, mmap_mode="r")[:, column])[places].tobytes())
        else:
            for start in range(0, len(places), PIECE):
                file.write(np.load(path, mmap_mode="r")[places[start : start + PIECE]].tobytes())
        file.flush()
        return file, by_column


def is_by_column(array: NDArray[Any]) -> bool:
    """Does it lie on the disk column by column?"""
    return array.ndim == 2 and bool(array.flags.f_contiguous) and not array.flags.c_contiguous


def join(paths: Sequence[Path], into: Path, rows: int, *, by_column: bool = False) -> None:
    """One array of those of all shards, piece by piece. `by_column`: an array of two dimensions lies so that a column
    of it can be read without the others."""
    first = np.load(paths[0], mmap_mode="r")
    shape, by_column = (rows, *first.shape[1:]), by_column and first.ndim == 2
    temporary = into.with_name(f".{into.name}")
    with temporary.open("wb") as file:
        begins, at = _header(file, first.dtype, shape, by_column), 0
        for piece in _pieces(paths):
            if by_column:
                for column in range(shape[1]):
                    file.seek(begins + (column * rows + at) * first.dtype.itemsize)
                    file.write(np.ascontiguousarray(piece[:, column]).tobytes())
            else:
                file.write(piece.tobytes())
            at += len(piece)
    temporary.replace(into)


def _pieces(paths: Sequence[Path]) -> Iterator[NDArray[Any]]:
    for path in paths:
        for start in range(0, len(np.load(path, mmap_mode="r")), PIECE):
            yield np.array(np.load(path, mmap_mode="r")[start : start + PIECE])


def sort(opened: Callable[[], NDArray[Any]], order: NDArray[np.int64], into: Path) -> None:
    """The rows of a column in this order (of which some may be left out), as a file row by row.

    Each piece of the column is put in order by itself; then the pieces are merged. So everything is read as it lies.
    """
    whole = opened()
    total, dtype, inner = len(whole), whole.dtype, whole.shape[1:]
    del whole
    width = dtype.itemsize * int(np.prod(inner))
    place = np.full(total, -1, np.int64)
    place[order] = np.arange(len(order))
    ends: list[NDArray[np.int64]] = []
    with tempfile.TemporaryFile(dir=into.parent) as pieces, into.open("wb") as file:
        for start in range(0, total, PIECE):
            to = place[start : start + PIECE]
            here = np.argsort(to, kind="stable")[np.count_nonzero(to < 0) :]
            pieces.write(np.asarray(opened()[start : start + PIECE])[here].tobytes())
            ends.append(to[here])
        begins = np.cumsum([0, *map(len, ends)])
        _header(file, dtype, (len(order), *inner), by_column=False)
        for start in range(0, len(order), PIECE):
            stop = min(start + PIECE, len(order))
            found = np.empty((stop - start, *inner), dtype)
            for begin, to in zip(begins.tolist(), ends, strict=False):
                first, last = np.searchsorted(to, (start, stop)).tolist()
                pieces.seek((begin + first) * width)
                found[to[first:last] - start] = np.frombuffer(pieces.read((last - first) * width), dtype).reshape(
                    -1, *inner
                )
            file.write(found.tobytes())


def _header(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...], by_column: bool) -> int:
    """Write what an .npy file begins with; how many bytes that is."""
    told = {"descr": npy.dtype_to_descr(dtype), "fortran_order": by_column, "shape": shape}
    npy.write_array_header_1_0(file, told)
    return file.tell()


__all__ = ["Opened", "is_by_column", "join", "sort"]
