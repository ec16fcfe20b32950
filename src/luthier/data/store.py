"""Tokenised examples on disk, memory-mapped: written once as they come, read without loading.

A store is a folder of flat little-endian arrays. Sequences are laid end to end; an example is a run of sequences.
"""

from __future__ import annotations

import errno
import hashlib
import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from luthier import columns
from luthier.data.encode.tokenised import Tokenised, shared_prefix
from luthier.data.measuring import NOTHING, Told
from luthier.data.statistics import PreferenceStatistics
from luthier.errors import LuthierError
from luthier.types import Encoded, Source

ARRAYS = {
    "ids": "<i4",
    "weights": "<f4",
    "lengths": "<i4",  # of each sequence
    "trained": "<i4",  # of each sequence, its scored tokens
    "steps": "<i4",  # of each sequence, its judged steps
    "sequences": "<i4",  # of each example, how many
    "shared": "<i4",
    "scored": "<i4",
    "files": "<i4",  # of each example, its source's place in meta.json
    "rows": "<i8",
    "feeds": "<i4",
    "languages": "<i4",
    "measured": "<f4",
    "hashes": "<u8",
    "groups": "<u8",  # what is held out together: judged responses to one prompt, else the example
}
"""File name -> element type. The first two lie per token, then per sequence, and the rest per example."""
STORED = ("reward", "margin", "step_end", "step_reward")
"""The columns that rows of data have; each is a file of its own, `column-NAME`, laid out by its level."""
COLUMN = "column-"
JOINED = ("ids", "weights")
"""Kept as arrays until they are written."""
FILES = {**ARRAYS, **{COLUMN + name: columns.of(name).dtype for name in STORED}}


class Writer:
    """Appends examples to a new store. Use as a context manager: `meta.json`, written last, makes it whole."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        self._files: dict[str, IO[bytes]] = {name: (folder / f"{name}.bin").open("wb") for name in FILES}
        self._pending: dict[str, list[Any]] = {name: [] for name in FILES}
        self._paths: dict[str, int] = {}
        self.count = 0

    def add(self, tokenised: Tokenised, source: Source, feed: int, told: Told = NOTHING) -> None:
        """One more example. `told`: what the mix goes by."""
        pending, sequences = self._pending, tokenised.sequences
        trained = [int(np.count_nonzero(tokens.weights_T)) for tokens in sequences]
        pending["ids"] += [tokens.ids_T for tokens in sequences]
        pending["weights"] += [tokens.weights_T for tokens in sequences]
        pending["lengths"] += [len(tokens.ids_T) for tokens in sequences]
        pending["trained"] += trained
        pending["steps"] += [len(tokens.steps) for tokens in sequences]
        ids = [tokens.ids_T for tokens in sequences]
        for name in STORED:
            given, ends = tokenised.columns.get(name), tokenised.columns.get(columns.STEP_END)
            pending[COLUMN + name] += columns.of(name).numbers(given, ids, ends).tolist()
        pending["sequences"].append(len(sequences))
        pending["shared"].append(shared_prefix(sequences))
        pending["scored"].append(sum(trained))
        pending["files"].append(self._paths.setdefault(source.path, len(self._paths)))
        pending["rows"].append(source.row)
        pending["feeds"].append(feed)
        pending["languages"].append(told.language)
        pending["measured"].append(told.measured)
        pending["hashes"].append(content_hash(tokenised))
        pending["groups"].append(group_hash(tokenised))
        self.count += 1
        if self.count % 2048 == 0:
            self.flush()

    def flush(self) -> None:
        """Write what is pending."""
        for name, dtype in FILES.items():
            values = self._pending[name]
            if values:
                array = np.concatenate(values) if name in JOINED else np.asarray(values)
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


def content_hash(tokenised: Tokenised) -> int:
    """64 bits of a hash of an example's tokens, weights and judgements: equal examples are duplicates."""
    made = hashlib.blake2b(digest_size=8)
    for tokens in tokenised.sequences:
        made.update(len(tokens.ids_T).to_bytes(4, "little"))
        made.update(tokens.ids_T.astype("<i4", copy=False).tobytes())
        made.update(tokens.weights_T.astype("<f4", copy=False).tobytes())
        made.update(np.array(tokens.steps, "<i4").tobytes())
    for name, values in sorted(tokenised.columns.items()):
        numbers = columns.of(name).numbers(values, [tokens.ids_T for tokens in tokenised.sequences])
        made.update(name.encode() + numbers.tobytes())
    return int.from_bytes(made.digest(), "little")


def group_hash(tokenised: Tokenised) -> int:
    """The hash of what is held out together: all judged responses to one prompt, so that a judge is never tested on
    prompts that it learnt; of an example without judgements its own content."""
    if not tokenised.judged:
        return content_hash(tokenised)
    first = tokenised.sequences[0]
    scored = np.flatnonzero(first.weights_T)
    prompt = first.ids_T[: scored[0] if len(scored) else None]
    return int.from_bytes(hashlib.blake2b(prompt.astype("<i4").tobytes(), digest_size=8).digest(), "little")


class Store:
    """All examples of a folder, in the order they were written."""

    def __init__(self, folder: Path) -> None:
        try:
            self._paths: list[str] = json.loads((folder / "meta.json").read_text(encoding="utf-8"))["paths"]
            self.arrays: dict[str, NDArray[Any]] = {
                name: _mapped(folder / f"{name}.bin", dtype) for name, dtype in FILES.items()
            }
        except (OSError, ValueError, KeyError) as error:
            raise LuthierError(
                f"the token cache is damaged: {error}", where=str(folder), fix="delete that folder; it is made again"
            ) from error
        self._token_edges = _edges(self.arrays["lengths"])
        self._sequence_edges = _edges(self.arrays["sequences"])
        self._step_edges = _edges(self.arrays["steps"])
        self.lengths: NDArray[np.int32] = np.diff(self._token_edges[self._sequence_edges]).astype(np.int32)
        self.scored: NDArray[np.int32] = self.arrays["scored"]

    def __len__(self) -> int:
        return len(self.arrays["sequences"])

    def encoded(self, index: int) -> Encoded:
        """Example `index`."""
        first, last = self._sequence_edges[index], self._sequence_edges[index + 1]
        runs = _runs(self._token_edges[first : last + 1])
        ids, weights = self.arrays["ids"], self.arrays["weights"]
        return Encoded(
            tuple(ids[run] for run in runs),
            tuple(weights[run] for run in runs),
            int(self.arrays["shared"][index]),
            self._columns(index, slice(int(first), int(last))),
            self.source(index),
        )

    def _columns(self, index: int, sequences: slice) -> dict[str, Any]:
        """What the columns hold of an example, those that say nothing left out."""
        found: dict[str, Any] = {}
        for name in STORED:
            column, values = columns.of(name), self.arrays[COLUMN + name]
            if column.level == "example":
                known: Any = float(values[index])
            elif column.level == "response":
                known = tuple(values[sequences].tolist())
            else:
                edges = self._token_edges if column.level == "token" else self._step_edges
                known = tuple(values[run] for run in _runs(edges[sequences.start : sequences.stop + 1]))
            if column.known(known):
                found[name] = known
        return found

    def sequences(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        """The places of these examples' sequences in the arrays that lie per sequence."""
        counts = self.arrays["sequences"][order].astype(np.int64)
        within = np.arange(counts.sum()) - np.repeat(_edges(counts)[:-1], counts)
        places: NDArray[np.int64] = np.repeat(self._sequence_edges[order], counts) + within
        return places

    def step_rewards(self, sequences: NDArray[np.int64]) -> NDArray[np.float32]:
        """The scores of all steps of these sequences."""
        labels = self.arrays[COLUMN + "step_reward"]
        if not len(labels):
            return np.empty(0, np.float32)
        runs = [slice(*self._step_edges[i : i + 2]) for i in sequences]
        return np.concatenate([labels[run] for run in runs])

    def source(self, index: int) -> Source:
        """Where example `index` came from."""
        return Source(self._paths[int(self.arrays["files"][index])], int(self.arrays["rows"][index]))


class View:
    """Examples of a store in some order, repeated or left out: a TokenStore."""

    def __init__(self, store: Store, order: NDArray[np.int64], digest: str) -> None:
        self._store, self.order, self.digest = store, order, digest
        self.lengths: NDArray[np.int32] = store.lengths[order]
        self.scored: NDArray[np.int32] = store.scored[order]

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Content hash of each example."""
        return np.asarray(self._store.arrays["hashes"])[self.order]

    @property
    def responses(self) -> NDArray[np.int32]:
        """Sequences of each example."""
        return np.asarray(self._store.arrays["sequences"])[self.order]

    @cached_property
    def _sequences(self) -> NDArray[np.int64]:
        return self._store.sequences(self.order)

    @property
    def rewards(self) -> NDArray[np.float32]:
        """The reward of each sequence, example after example; NaN where nothing is known."""
        return np.asarray(self._store.arrays[COLUMN + "reward"])[self._sequences]

    @property
    def steps(self) -> NDArray[np.int32]:
        """Judged steps of each example, all its responses together."""
        owners = np.repeat(np.arange(len(self)), self.responses)
        counts = np.asarray(self._store.arrays["steps"])[self._sequences]
        return np.bincount(owners, counts, minlength=len(self)).astype(np.int32)

    def preference_statistics(self) -> PreferenceStatistics | None:
        """What the judged responses hold; None when none is judged."""
        steps = self._store.step_rewards(self._sequences)
        trained = np.asarray(self._store.arrays["trained"])[self._sequences]
        return PreferenceStatistics.of(self.responses, self.rewards, trained, steps)

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Encoded:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._store.encoded(int(self.order[index]))

    def source(self, index: int) -> Source:
        """The file and row that example `index` came from."""
        return self._store.source(int(self.order[index]))


def digest(store: Store, order: NDArray[np.int64]) -> str:
    """Content hash of these examples in this order, the same on every machine."""
    return hashlib.blake2b(store.arrays["hashes"][order].astype("<u8").tobytes(), digest_size=16).hexdigest()


def _runs(edges: NDArray[np.int64]) -> list[slice]:
    return [slice(int(a), int(b)) for a, b in pairwise(edges)]


def _edges(counts: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def _mapped(path: Path, dtype: str) -> NDArray[Any]:
    size = path.stat().st_size
    if size % np.dtype(dtype).itemsize:
        raise OSError(errno.EIO, "a file is cut off", str(path))
    return np.memmap(path, dtype, "r") if size else np.empty(0, dtype)
