"""A teacher's likeliest tokens, read once before the first step and kept on disk: then no teacher stays in memory.

What is kept hangs on the teacher's weights and on what each row is, so another run on the same rows finds it, whatever
model it trains (as long as that has the same tokens), and does not even load the teacher. The files are mapped, not
read: an epoch holds what its micro-batches need.

Shape suffixes: S = scored tokens, K = tokens that are kept of each, B = K + 1 buckets.
"""

from __future__ import annotations

import errno
import hashlib
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier import cache
from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.forward.buckets import NONE
from luthier.forward.forward import Forward
from luthier.forward.head import Likeliest
from luthier.forward.likelihoods import each, fitting
from luthier.train.loop.budget import Budget
from luthier.types import Encoded, TokenStore

LAYOUT = 1
"""Raise when what is kept changes its meaning: old folders are then not found any more."""
IDS, LOGP, REST, EDGES, KEYS, META = "ids.bin", "logp.bin", "rest.bin", "edges.bin", "keys.bin", "meta.json"
KEY = 16
"""Bytes of `Encoded.key`."""
AT_ONCE = 64
"""Rows whose tokens are held in memory between the model and the disk."""
TYPES = {"fp16": "<f2", "fp32": "<f4"}
Rows = Sequence[Encoded] | TokenStore


class Said(Protocol):
    """What a teacher said of rows, from where it stands already."""

    @property
    def about(self) -> str:
        """Who said it."""
        ...

    @property
    def identity(self) -> tuple[str, ...]:
        """Where it stands, by content."""
        ...

    def read(self, rows: Once, width: int) -> Iterable[Likeliest]:
        """Of each row; at most `width` tokens at a place."""
        ...


@dataclass(frozen=True)
class Form:
    """How a token is kept."""

    count: int
    """K."""
    known: int
    """Tokens that the model has: a teacher may have more rows, which stand for none."""
    dtype: str
    """Of log-probabilities: fp16 or fp32."""

    @property
    def width(self) -> int:
        """K, or all there are."""
        return min(self.count, self.known)

    @property
    def ids(self) -> str:
        """What a token's number is written as; the largest one stands for none."""
        return "<u2" if self.known < 2**16 else "<u4"

    @property
    def token_bytes(self) -> int:
        """What a scored token takes."""
        return self.width * (np.dtype(self.ids).itemsize + np.dtype(TYPES[self.dtype]).itemsize) + 4


@dataclass
class Lost:
    """What keeping so much and no more loses, over all tokens that were kept."""

    tokens: int = 0
    held: float = 0.0
    """The sum over tokens of the probability that the kept ones hold."""
    off: float = 0.0
    """How far the worst log-probability of a kept token is off for being rounded, in nats."""
    apart: float = 0.0
    """The sum over tokens of KL(as it was, as it is kept), in nats."""

    def add(self, exact: Likeliest, kept: Likeliest) -> None:
        """Some more tokens."""
        was_SB, is_SB = exact.buckets_SB.double(), kept.buckets_SB.double()
        there_SB = ~was_SB.isneginf()
        off_SB = torch.where(there_SB, was_SB - is_SB, torch.zeros_like(was_SB))
        self.tokens += len(was_SB)
        self.held += float(len(was_SB) - exact.rest_S.double().exp().sum())
        self.off = max(self.off, float(off_SB.abs().max())) if off_SB.numel() else self.off
        self.apart += float((was_SB.exp() * off_SB).sum())

    def meta(self) -> dict[str, float]:
        """As means."""
        count = max(self.tokens, 1)
        return {"tokens": self.tokens, "held": self.held / count, "off": self.off, "apart": self.apart / count}


class Once:
    """Each row once, however often a mixture repeats it. A sequence of rows that holds none of them in memory."""

    def __init__(self, rows: Rows) -> None:
        self._rows, self.keys, self._places, self.scored = rows, list[bytes](), array("q"), 0
        seen: set[bytes] = set()
        for place in range(len(rows)):
            row = rows[place]
            if row.key not in seen:
                seen.add(row.key)
                self.keys.append(row.key)
                self._places.append(place)
                self.scored += row.scored

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: int) -> Encoded:
        if not 0 <= number < len(self.keys):
            raise IndexError(number)
        return self._rows[self._places[number]]


class Writer:
    """Keeps rows one after another in a folder. Call `close` at the end."""

    def __init__(self, folder: Path, form: Form, stack: ExitStack) -> None:
        self._folder, self._form, self._edges, self._keys = folder, form, [0], bytearray()
        self._files = {name: stack.enter_context((folder / name).open("wb")) for name in (IDS, LOGP, REST)}
        self.lost = Lost()

    def add(self, key: bytes, exact: Likeliest) -> None:
        """One row: what the teacher thinks at each of its scored tokens."""
        ids_SK, logp_SK = exact.ids_SK.cpu().numpy(), exact.logp_SK.float().cpu().numpy()
        short = self._form.width - ids_SK.shape[1]
        if short > 0:  # fewer are known than there is room for
            ids_SK = np.pad(ids_SK, ((0, 0), (0, short)), constant_values=NONE)
            logp_SK = np.pad(logp_SK, ((0, 0), (0, short)), constant_values=-np.inf)
        ids = np.where(ids_SK < 0, np.iinfo(self._form.ids).max, ids_SK).astype(self._form.ids)
        logp = logp_SK.astype(TYPES[self._form.dtype])
        rest = exact.rest_S.float().cpu().numpy().astype("<f4")
        self.lost.add(
            Likeliest(torch.from_numpy(ids_SK), torch.from_numpy(logp_SK), torch.from_numpy(rest)),
            _read(ids, logp, rest),
        )
        for name, values in ((IDS, ids), (LOGP, logp), (REST, rest)):
            self._files[name].write(values.tobytes())
        self._edges.append(self._edges[-1] + len(rest))
        self._keys += key

    def close(self) -> None:
        """All rows are there."""
        np.array(self._edges, "<i8").tofile(self._folder / EDGES)
        (self._folder / KEYS).write_bytes(self._keys)
        meta = {"layout": LAYOUT, "width": self._form.width, **self.lost.meta()}
        (self._folder / META).write_text(json.dumps(meta), encoding="utf-8")


class _Folder:
    """What lies in one folder, mapped."""

    def __init__(self, folder: Path, form: Form) -> None:
        self.meta: dict[str, float] = json.loads((folder / META).read_text(encoding="utf-8"))
        self.edges = np.fromfile(folder / EDGES, "<i8")
        self.keys = (folder / KEYS).read_bytes()
        self._folder, self._form = folder, form
        tokens = int(self.edges[-1])
        widths = ((IDS, form.ids, form.width), (LOGP, TYPES[form.dtype], form.width), (REST, "<f4", 1))
        for name, dtype, width in widths:
            if (folder / name).stat().st_size != tokens * width * np.dtype(dtype).itemsize:
                raise OSError(errno.EIO, "a file is cut off", str(folder / name))
        if len(self.keys) != (len(self.edges) - 1) * KEY:
            raise OSError(errno.EIO, "a file is cut off", str(folder / KEYS))

    @cached_property
    def _ids(self) -> NDArray[Any]:
        return _mapped(self._folder / IDS, self._form.ids, self._form.width)

    @cached_property
    def _logp(self) -> NDArray[Any]:
        return _mapped(self._folder / LOGP, TYPES[self._form.dtype], self._form.width)

    @cached_property
    def _rest(self) -> NDArray[Any]:
        return _mapped(self._folder / REST, "<f4", 1)[:, 0]

    def row(self, place: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """Ids and log-probabilities, S K, and the rest, S."""
        part = slice(int(self.edges[place]), int(self.edges[place + 1]))
        return self._ids[part], self._logp[part], self._rest[part]


@dataclass
class Kept:
    """Implements `luthier.forward.forward.Teaches` from disk: the likeliest tokens of rows, found by what a row is."""

    about: str
    form: Form
    _folders: list[_Folder] = field(default_factory=list)
    _places: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def add(self, folder: Path) -> None:
        """Take in what lies in a folder. Raises LuthierError where it is damaged."""
        try:
            found = _Folder(folder, self.form)
        except (OSError, ValueError, IndexError) as error:
            raise LuthierError(
                f"what was kept of the teacher is damaged: {error}",
                where=str(folder),
                fix="delete that folder; it is made again",
            ) from error
        for place in range(len(found.edges) - 1):
            self._places[found.keys[place * KEY : (place + 1) * KEY]] = len(self._folders), place
        self._folders.append(found)

    def taught(self, batch: Batch) -> Likeliest:
        """Of the batch's scored tokens, in their order."""
        rows = [self._row(example) for example in batch.examples]
        ids, logp, rest = (np.concatenate(parts) for parts in zip(*rows, strict=True))
        found, device = _read(ids, logp, rest), batch.weight_S.device
        return Likeliest(found.ids_SK.to(device), found.logp_SK.to(device), found.rest_S.to(device))

    def _row(self, example: Encoded) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        number, place = self._places[example.key]
        return self._folders[number].row(place)

    @property
    def nbytes(self) -> int:
        """What it takes on disk."""
        return sum(int(folder.edges[-1]) for folder in self._folders) * self.form.token_bytes

    def facts(self) -> dict[str, Any]:
        """What it holds and loses, for the log."""
        total = sum(folder.meta["tokens"] for folder in self._folders) or 1
        means = {
            name: sum(folder.meta[name] * folder.meta["tokens"] for folder in self._folders) / total
            for name in ("held", "apart")
        }
        off = max((folder.meta["off"] for folder in self._folders), default=0.0)
        return {"top": self.form.width, "kept": self.form.dtype, "bytes": self.nbytes, "off": off, **means}

    def told(self) -> str:
        """The same for people."""
        found = self.facts()
        line = f"{self.about}: its {found['top']} likeliest tokens hold {found['held']:.2%} of what it says; on disk, "
        line += f"{found['bytes'] / 2**20:,.1f} MiB"
        if self.form.dtype == "fp32":
            return line
        return f"{line} in {self.form.dtype}: off by {found['off']:.1g} nats at most, {found['apart']:.1g} a token"


def kept(
    about: str,
    form: Form,
    examples: Sequence[Rows],
    identity: Sequence[str],
    read: Callable[[Once], Iterable[Likeliest]],
    say: Callable[[str], None],
) -> Kept:
    """The likeliest tokens of all these examples: found on disk by content, or read now and put there.

    `identity`: who the teacher is, besides the rows. `read` gives what it thinks of each row, and is called only where
    something is missing. Raises LuthierError for a full disk, before
    anything is read.
    """
    made = Kept(about, form)
    for some in examples:
        rows = Once(some)
        keys = hashlib.blake2b(b"".join(rows.keys), digest_size=16).hexdigest()
        key = json.dumps([LAYOUT, *identity, form.count, form.known, form.dtype, keys])
        folder = cache.root() / "teacher" / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        if not folder.is_dir():
            size = form.token_bytes * rows.scored
            say(
                f"{about}: reading its {form.width} likeliest tokens at {rows.scored:,} places of {len(rows):,} rows, "
                f"once: {size / 2**20:,.1f} MiB in {folder}"
            )
            with cache.whole_folder(folder, "what the teacher says", size=size) as temporary:
                _fill(temporary, form, rows, read(rows))
        made.add(folder)
    return made


def _fill(folder: Path, form: Form, rows: Once, found: Iterable[Likeliest]) -> None:
    with ExitStack() as stack:
        writer = Writer(folder, form, stack)
        for key, exact in zip(rows.keys, found, strict=True):
            writer.add(key, exact)
    writer.close()


def thoughts(model: Forward, rows: Once, form: Form, budget: Budget) -> Iterator[Likeliest]:
    """What a model thinks of each row, laid out as it reads them, within the memory that there is."""

    def values(batch: Batch) -> Tensor:
        budget.begins(batch)
        found = model.likeliest(batch, form.count, form.known)
        # numbers of tokens are whole in fp64
        return torch.cat([found.ids_SK.double(), found.logp_SK.double(), found.rest_S[:, None].double()], 1)

    for begin in range(0, len(rows), AT_ONCE):
        some = [rows[place] for place in range(begin, min(begin + AT_ONCE, len(rows)))]

        def read(some: Sequence[Encoded] = some) -> list[NDArray[np.float64]]:
            return list(each(some, fitting(model, budget.tokens), values, budget.device))

        for value_SX in budget.until_it_fits(read, alone=True):
            width = value_SX.shape[1] // 2
            ids, logp, rest = np.split(value_SX, [width, 2 * width], 1)
            yield Likeliest(
                torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(logp).float(), torch.from_numpy(rest[:, 0])
            )


def _read(ids: NDArray[Any], logp: NDArray[Any], rest: NDArray[Any]) -> Likeliest:
    """From what is stored to what is computed with."""
    whole = ids.astype(np.int64)
    whole[ids == np.iinfo(ids.dtype).max] = NONE
    return Likeliest(
        torch.from_numpy(whole), torch.from_numpy(logp.astype(np.float32)), torch.from_numpy(rest.astype(np.float32))
    )


def _mapped(path: Path, dtype: str, width: int) -> NDArray[Any]:
    if not path.stat().st_size:
        return np.empty((0, width), dtype)
    return np.memmap(path, dtype, "r").reshape(-1, width)
