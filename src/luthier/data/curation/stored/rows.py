"""Rows of a stage, read again one by one: what a set step decides on, and what is told of those that go."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO

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
        file, offsets = self._opened(shard.stem)
        start, end = offsets[place - shard.start : place - shard.start + 2].tolist()
        file.seek(start)
        return file.read(end - start)

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return lines.read(self.line(index))

    def source(self, index: int) -> Source:
        """The file and line that it came from."""
        return lines.source_of(self.line(index))


def _opened(stem: str) -> tuple[IO[bytes], NDArray[np.int64]]:
    """A shard, and where its lines begin and end. It is closed when nobody holds it any more."""
    return Path(f"{stem}.jsonl").open("rb", buffering=0), np.load(f"{stem}.offsets.npy")


__all__ = ["Rows"]
