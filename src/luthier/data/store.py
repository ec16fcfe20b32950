"""Tokenised examples on disk, memory-mapped: written once as they come, read without loading.

A store is a folder of flat little-endian arrays. Sequences are laid end to end; an example is a run of sequences.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.mask import Tokens
from luthier.data.template import shared_prefix
from luthier.errors import LuthierError
from luthier.types import Encoded, Source

ARRAYS = {
    "ids": "<i4",
    "weights": "<f4",
    "lengths": "<i4",  # of each sequence
    "sequences": "<i4",  # of each example, how many
    "shared": "<i4",
    "scored": "<i4",
    "files": "<i4",  # of each example, its source's place in meta.json
    "rows": "<i8",
    "feeds": "<i4",
    "hashes": "<u8",
}
"""File name -> element type. The first three lie per token and per sequence, the others per example."""


class Writer:
    """Appends examples to a new store. Use as a context manager: `meta.json`, written last, makes it whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._files: dict[str, IO[bytes]] = {name: (folder / f"{name}.bin").open("wb") for name in ARRAYS}
        self._pending: dict[str, list[Any]] = {name: [] for name in ARRAYS}
        self._paths: dict[str, int] = {}
        self.count = 0

    def add(self, sequences: Sequence[Tokens], source: Source, feed: int) -> None:
        """One more example."""
        pending = self._pending
        pending["ids"] += [tokens.ids_T for tokens in sequences]
        pending["weights"] += [tokens.weights_T for tokens in sequences]
        pending["lengths"] += [len(tokens.ids_T) for tokens in sequences]
        pending["sequences"].append(len(sequences))
        pending["shared"].append(shared_prefix(sequences))
        pending["scored"].append(sum(int(np.count_nonzero(tokens.weights_T)) for tokens in sequences))
        pending["files"].append(self._paths.setdefault(source.path, len(self._paths)))
        pending["rows"].append(source.row)
        pending["feeds"].append(feed)
        pending["hashes"].append(content_hash(sequences))
        self.count += 1
        if self.count % 2048 == 0:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        for name, dtype in ARRAYS.items():
            values = self._pending[name]
            if values:
                array = np.concatenate(values) if name in ("ids", "weights") else np.asarray(values)
                self._files[name].write(array.astype(dtype, copy=False).tobytes())
            values.clear()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.flush()
                (self.folder / "meta.json").write_text(json.dumps({"paths": list(self._paths)}), encoding="utf-8")
        finally:
            for file in self._files.values():
                file.close()


def content_hash(sequences: Sequence[Tokens]) -> int:
    """64 bits of a hash of an example's tokens and weights: equal examples are duplicates."""
    made = hashlib.blake2b(digest_size=8)
    for tokens in sequences:
        made.update(len(tokens.ids_T).to_bytes(4, "little"))
        made.update(tokens.ids_T.astype("<i4", copy=False).tobytes())
        made.update(tokens.weights_T.astype("<f4", copy=False).tobytes())
    return int.from_bytes(made.digest(), "little")


class Store:
    """All examples of a folder, in the order they were written."""

    def __init__(self, folder: Path) -> None:
        try:
            self._paths: list[str] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["paths"]
            self.arrays: dict[str, NDArray[Any]] = {
                name: _mapped(folder / f"{name}.bin", dtype) for name, dtype in ARRAYS.items()
            }
        except (OSError, ValueError, KeyError) as error:
            raise LuthierError(
                f"the token cache is damaged: {error}", where=str(folder), fix="delete that folder; it is made again"
            ) from error
        self._token_edges = _edges(self.arrays["lengths"])
        self._sequence_edges = _edges(self.arrays["sequences"])
        self.lengths: NDArray[np.int32] = np.diff(self._token_edges[self._sequence_edges]).astype(np.int32)
        self.scored: NDArray[np.int32] = self.arrays["scored"]

    def __len__(self) -> int:
        return len(self.arrays["sequences"])

    def encoded(self, index: int, row: int) -> Encoded:
        """Example `index`, named `row`."""
        first, last = self._sequence_edges[index], self._sequence_edges[index + 1]
        edges = self._token_edges[first : last + 1]
        runs = [slice(int(a), int(b)) for a, b in pairwise(edges)]
        ids, weights = self.arrays["ids"], self.arrays["weights"]
        shared = int(self.arrays["shared"][index])
        return Encoded(tuple(ids[run] for run in runs), tuple(weights[run] for run in runs), shared, row)

    def source(self, index: int) -> Source:
        """Where example `index` came from."""
        return Source(self._paths[int(self.arrays["files"][index])], int(self.arrays["rows"][index]))


class View:
    """Examples of a store in some order, repeated or left out: a TokenStore."""

    def __init__(self, store: Store, order: NDArray[np.int64], digest: str) -> None:
        self._store, self.order, self.digest = store, order, digest
        self.lengths: NDArray[np.int32] = store.lengths[order]
        self.scored: NDArray[np.int32] = store.scored[order]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Encoded:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        return self._store.encoded(int(self.order[index]), index)

    def source(self, index: int) -> Source:
        """The file and row that example `index` came from."""
        return self._store.source(int(self.order[index]))


def digest(store: Store, order: NDArray[np.int64]) -> str:
    """Content hash of these examples in this order, the same on every machine."""
    return hashlib.blake2b(store.arrays["hashes"][order].astype("<u8").tobytes(), digest_size=16).hexdigest()


def _edges(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    size = path.stat().st_size
    if size % np.dtype(dtype).itemsize:
        raise OSError(errno.EIO, "a file is cut off", str(path))
    return np.memmap(path, dtype, "r") if size else np.empty(0, dtype)
