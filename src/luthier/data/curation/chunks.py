"""What one process works through by itself: a piece of a source, or a shard that an earlier pass has written.

How rows are cut hangs on their files alone, never on how many processes there are; what is made of them is put
together by the number of the chunk. So any number of processes gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from luthier.data.curation import lines
from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import Feed
from luthier.data.steps.step import Step
from luthier.types import Example

PIECE = 4 * 2**20
"""Bytes of a file that one process works through at a time, and that a killed pass begins anew."""
SHARD = 16_384
"""Rows of a shard, at most."""


@dataclass(frozen=True)
class Placed:
    """A step where the recipe has it."""

    at: str
    """steps.0, data.1.steps.0."""
    name: str
    step: Step

    @property
    def label(self) -> str:
        """What the ledger and messages call it."""
        return f"{self.at} {self.name}"


@dataclass(frozen=True)
class Unread:
    """Rows of a source that are yet to be read."""

    feed: Feed

    def examples(self, ledger: Ledger) -> Iterator[Example]:
        """The rows; the ledger counts them."""
        return self.feed.examples(ledger)

    @property
    def weight(self) -> int:
        """Bytes, as far as they are known."""
        paths = [Path(part.name) for part in self.feed.parts]
        return min(PIECE, sum(path.stat().st_size for path in paths if path.is_file()))


@dataclass(frozen=True)
class Shard:
    """Rows that a pass has written: STEM.jsonl, and the places of its lines in STEM.offsets.npy."""

    stem: str
    rows: int
    mask: str | None = None
    """An array that says of all rows of the pass which ones stay."""
    start: int = 0
    """The place of its first row in it."""

    def kept(self) -> Sequence[int]:
        """Which of its rows stay."""
        if self.mask is None:
            return range(self.rows)
        keep = np.load(self.mask, mmap_mode="r")[self.start : self.start + self.rows]
        return [int(i) for i in np.flatnonzero(keep)]

    def raw(self) -> Iterator[bytes]:
        """The lines that stay."""
        keep = None if self.mask is None else np.load(self.mask, mmap_mode="r")[self.start : self.start + self.rows]
        with Path(f"{self.stem}.jsonl").open("rb") as file:
            if keep is None:
                yield from file
                return
            for line, stays in zip(file, keep.tolist(), strict=True):
                if stays:
                    yield line

    def examples(self, ledger: Ledger) -> Iterator[Example]:
        """The rows that stay."""
        del ledger  # they were counted when they were read
        return map(lines.read, self.raw())

    @property
    def weight(self) -> int:
        """Bytes."""
        return Path(f"{self.stem}.jsonl").stat().st_size


@dataclass(frozen=True)
class Chunk:
    """Rows of one source, and the row steps that they have still to go through."""

    feed: int
    """The number of the source."""
    rows: Unread | Shard
    steps: tuple[Placed, ...] = ()

    @property
    def name(self) -> str:
        """What the ledger calls their source, where they are read here."""
        return self.rows.feed.name if isinstance(self.rows, Unread) else ""


def chunks(feed: Feed, number: int) -> list[Chunk]:
    """A source, cut into what processes own."""
    return [Chunk(number, Unread(piece)) for piece in feed.pieces(PIECE)]


__all__ = ["Chunk", "Placed", "Shard", "Unread", "chunks"]
