"""What was measured of rows, kept by their content: a row that was measured once is never measured again.

A folder for each measure (what decides the numbers is its key; thresholds are not). In it lie segments, each a sorted
array of keys and an array for every column, memory-mapped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import cache
from luthier.data.curation.stored.columns import join, sort
from luthier.data.steps.step import Columns

SEGMENTS = 8
"""More than so many are joined to one."""
KEYS = "keys"


def as_keys(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    """Keys of 16 bytes as two columns of 64 bits."""
    return np.frombuffer(b"".join(digests), "<u8").reshape(-1, 2)


class Scores:
    """All that a measure has found so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments = [_opened(one) for one in _segments(folder)]

    def look_up(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], dict[str, NDArray[Any]]]:
        """Which of the rows are known, and the columns, whose values for all others are 0."""
        known = np.zeros(len(keys), np.bool_)
        columns: dict[str, NDArray[Any]] = {}
        for sorted_keys, values in self._segments:
            places, found = _places(sorted_keys, keys)
            found &= ~known
            for name, column in values.items():
                into = columns.setdefault(name, np.zeros((len(keys), *column.shape[1:]), column.dtype))
                into[found] = column[places[found]]
            known |= found
        return known, columns

    def add(self, keys: NDArray[np.uint64], columns: Columns) -> None:
        """Keep what was measured of these rows, those left out that are known."""
        known = np.zeros(len(keys), np.bool_)
        for sorted_keys, _ in self._segments:
            known |= _places(sorted_keys, keys)[1]
        if known.all():
            return
        self._write(keys, columns, np.flatnonzero(~known))
        self._segments = [_opened(one) for one in _segments(self.folder)]
        if len(self._segments) > SEGMENTS:
            self._join()

    def _join(self) -> None:
        old, number = _segments(self.folder), self._next
        keys = np.concatenate([keys for keys, _ in self._segments])
        found, order = _sorted(keys, np.arange(len(keys)))
        names = list(self._segments[0][1])
        with cache.whole_folder(self.folder / number, "what was measured of rows") as temporary:
            for name in names:
                whole = temporary / "whole.npy"
                join([one / f"column-{name}.npy" for one in old], whole, len(keys))
                sort(partial(np.load, whole, "r"), order, temporary / f"column-{name}.npy")
                whole.unlink()
            _close(temporary, found, names)
        self._segments = []
        for one in old:
            shutil.rmtree(one, ignore_errors=True)
        self._segments = [_opened(one) for one in _segments(self.folder)]

    def _write(self, keys: NDArray[np.uint64], columns: Columns, fresh: NDArray[np.int64]) -> None:
        """What is known of these rows as one more segment, each once."""
        found, order = _sorted(keys, fresh)
        with cache.whole_folder(self.folder / self._next, "what was measured of rows") as temporary:
            for name in columns:
                sort(partial(columns.__getitem__, name), order, temporary / f"column-{name}.npy")
            _close(temporary, found, list(columns))

    @property
    def _next(self) -> str:
        return f"{max((int(one.name) for one in _segments(self.folder)), default=0) + 1:06d}"


def _places(sorted_keys: NDArray[np.uint64], keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Where each key stands among those of a segment, and whether it does."""
    places = np.minimum(np.searchsorted(sorted_keys[:, 0], keys[:, 0]), len(sorted_keys) - 1)
    return places, (sorted_keys[places] == keys).all(axis=1)


def _sorted(keys: NDArray[np.uint64], rows: NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The keys of these rows in order, each once, and whose they are."""
    rows = rows[np.argsort(keys[rows, 0], kind="stable")]
    found = keys[rows]
    once = np.concatenate([[True], (found[1:] != found[:-1]).any(axis=1)])[: len(rows)]
    return found[once], rows[once]


def _close(folder: Path, keys: NDArray[np.uint64], names: Sequence[str]) -> None:
    np.save(folder / f"{KEYS}.npy", keys)
    (folder / "columns.json").write_text(json.dumps(list(names)), encoding="utf-8")


def _segments(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("[0-9]*") if (one / "columns.json").is_file())


def _opened(folder: Path) -> tuple[NDArray[np.uint64], dict[str, NDArray[Any]]]:
    names = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    columns = {name: np.load(folder / f"column-{name}.npy", mmap_mode="r") for name in names}
    return np.load(folder / f"{KEYS}.npy", mmap_mode="r"), columns


__all__ = ["Scores", "as_keys"]
