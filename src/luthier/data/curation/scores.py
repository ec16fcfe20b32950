"""What was measured of rows, kept by their content: a row that was measured once is never measured again.

A folder for each measure (what decides the numbers is its key; thresholds are not). In it lie segments, each a sorted
array of keys and an array for every column, memory-mapped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from luthier import cache
from luthier.data.steps.step import Columns

SEGMENTS = 8
"""More than so many are joined to one."""
KEYS = "keys"
WRITTEN = 1 << 15
"""Rows that are written at a time."""


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
            places = np.minimum(np.searchsorted(sorted_keys[:, 0], keys[:, 0]), len(sorted_keys) - 1)
            found = (sorted_keys[places] == keys).all(axis=1) & ~known
            for name, column in values.items():
                into = columns.setdefault(name, np.zeros((len(keys), *column.shape[1:]), column.dtype))
                into[found] = column[places[found]]
            known |= found
        return known, columns

    def add(self, keys: NDArray[np.uint64], columns: Columns) -> None:
        """Keep what was measured of these rows, those left out that are known."""
        known, _ = self.look_up(keys)
        if known.all():
            return
        fresh = np.flatnonzero(~known)
        _write(self.folder, keys, columns, fresh)
        self._segments = [_opened(one) for one in _segments(self.folder)]
        if len(self._segments) > SEGMENTS:
            self._join()

    def _join(self) -> None:
        old = _segments(self.folder)
        keys = np.concatenate([keys for keys, _ in self._segments])
        names = self._segments[0][1]
        columns = {name: np.concatenate([values[name] for _, values in self._segments]) for name in names}
        _write(self.folder, keys, columns, np.arange(len(keys)))
        for one in old:
            shutil.rmtree(one, ignore_errors=True)
        self._segments = [_opened(one) for one in _segments(self.folder)]


def _write(folder: Path, keys: NDArray[np.uint64], columns: Columns, rows: NDArray[np.int64]) -> None:
    """What is known of these rows as one more segment, each once. Nothing is copied whole: a million rows are hundreds
    of MB."""
    rows = rows[np.argsort(keys[rows, 0], kind="stable")]
    found = keys[rows]
    rows = rows[np.concatenate([[True], (found[1:] != found[:-1]).any(axis=1)])[: len(rows)]]
    del found
    number = max((int(one.name) for one in _segments(folder)), default=0) + 1
    with cache.whole_folder(folder / f"{number:06d}", "what was measured of rows") as temporary:
        _save(temporary / f"{KEYS}.npy", keys, rows)
        for name, column in columns.items():
            _save(temporary / f"column-{name}.npy", np.asarray(column), rows)
        (temporary / "columns.json").write_text(json.dumps(list(columns)), encoding="utf-8")


def _save(path: Path, column: NDArray[Any], rows: NDArray[np.int64]) -> None:
    header = {
        "descr": npy.dtype_to_descr(column.dtype),
        "fortran_order": False,
        "shape": (len(rows), *column.shape[1:]),
    }
    with path.open("wb") as file:
        npy.write_array_header_1_0(file, header)
        for start in range(0, len(rows), WRITTEN):
            file.write(column[rows[start : start + WRITTEN]].tobytes())


def _segments(folder: Path) -> list[Path]:
    return sorted(one for one in folder.glob("[0-9]*") if (one / "columns.json").is_file())


def _opened(folder: Path) -> tuple[NDArray[np.uint64], dict[str, NDArray[Any]]]:
    names = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
    columns = {name: np.load(folder / f"column-{name}.npy", mmap_mode="r") for name in names}
    return np.load(folder / f"{KEYS}.npy", mmap_mode="r"), columns


__all__ = ["Scores", "as_keys"]
