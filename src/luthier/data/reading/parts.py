"""What a feed is read from: its files, each opened when it is read, and in pieces where it can be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from luthier.data.reading.json_files import read_jsonl
from luthier.data.reading.materials import PlacedRow, Tell
from luthier.data.reading.text_files import cut
from luthier.types import Source


@dataclass(frozen=True)
class Part:
    """One file (or hub split) of a feed, opened when it is read."""

    name: str
    rows: Callable[[], Iterator[PlacedRow]]
    fingerprint: Callable[[], str]
    said: Callable[[], tuple[str, ...]] = tuple
    """What the ledger is to say about how it is read."""
    lined: Path | None = None
    """The file, where each of its lines is a row: it may be read in pieces."""
    begins: PlacedRow | None = None
    """The first row of the whole, where this is a piece: it says the shape."""
    telling: Callable[[Tell], Iterator[PlacedRow]] | None = None
    """The rows of a material, which has things to say while it is read."""
    mixed: bool = False
    """May its rows have different shapes?"""

    def pieces(self, size: int) -> list[Part]:
        """The part in pieces of about so many bytes, where it can be cut."""
        if self.lined is None or self.lined.stat().st_size <= size:
            return [self]
        first, read = next(self.rows(), None), partial(read_jsonl, self.lined)
        return [
            replace(self, rows=partial(read, span), said=tuple if span.start else self.said, begins=first)
            for span in cut(self.lined, size)
        ]

    def read(self, tell: Tell) -> Iterator[tuple[Source, Any]]:
        """The rows with their places."""
        for place, row in self.telling(tell) if self.telling else self.rows():
            yield place if isinstance(place, Source) else Source(self.name, place), row
