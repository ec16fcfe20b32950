"""Rows of a stage, read again one by one: what a set step decides on, and what is told of those that go."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luthier.data.curation import lines
from luthier.data.curation.chunks import Shard
from luthier.types import Example, Source

OPEN = 128
"""Shards that are open at a time."""


class Rows:
    """Rows of shards, some left out. They are read and not mapped: what was read is not kept in memory."""

    def __init__(self, shards: Sequence[Shard], keys: Path, places: NDArray[np.int64] | None) -> None:
        self.places = places
        self._shards, self._keys = shards, keys
        self._starts = [one.start for one in shards]
        self._count = sum(one.rows for one in shards)
        self._opened = lru_cache(OPEN)(_opened)

    def __len__(self) -> int:
        return self._count if self.places is None else len(self.places)

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Of each row its content as 128 bits."""
        if not self._count:
            return np.empty((0, 2), np.uint64)
        keys = np.load(self._keys, mmap_mode="r")
        return keys if self.places is None else keys[self.places]

    def line(self, index: int) -> bytes:
        """A row as its line."""
        place = index if self.places is None else int(self.places[index])
        shard = self._shards[bisect_right(self._starts, place) - 1]
        return self._opened(shard.stem).line(place - shard.start)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return lines.read(self.line(index))

    def source(self, index: int) -> Source:
        """The file and line that it came from."""
        return lines.source_of(self.line(index))


class _Lines:
    """The lines of a shard. It is closed when nobody holds it any more."""

    def __init__(self, file: int, offsets: NDArray[np.int64]) -> None:
        self._file, self._offsets = file, offsets

    def line(self, number: int) -> bytes:
        start, end = self._offsets[number : number + 2].tolist()
        return os.pread(self._file, end - start, start)

    def __del__(self) -> None:
        os.close(self._file)


def _opened(stem: str) -> _Lines:
    offsets = np.load(f"{stem}.offsets.npy")
    return _Lines(os.open(f"{stem}.jsonl", os.O_RDONLY), offsets)


__all__ = ["Rows"]
