"""What a feed is read from: its files, each opened when it is read, and in pieces where it can be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from luthier.data.reading.materials import PlacedRow, Tell
from luthier.types import Source


@dataclass(frozen=True)
class Part:
    """One file (or hub split) of a feed, opened when it is read."""

    name: str
    rows: Callable[[], Iterator[PlacedRow]]
    fingerprint: Callable[[], str]
    said: Callable[[], tuple[str, ...]] = tuple
    """What the ledger is to say about how it is read."""
    file: Path | None = None
    """The file, where its rows stand in it as they are: it may be read in pieces."""
    beside: bool = False
    """Have other files of the source rows? Then this one may be empty, which is said."""
    begins: PlacedRow | None = None
    """The first row of the whole, where this is a piece: it says the shape."""
    telling: Callable[[Tell], Iterator[PlacedRow]] | None = None
    """The rows of a material, which has things to say while it is read."""
    mixed: bool = False
    """May its rows have different shapes?"""

    def pieces(self, size: int) -> list[Part]:
        """The part in pieces of about so many bytes, where it can be cut."""
        if self.file is None:
            return [self]
        from luthier.data.reading.cutting.pieces import pieces

        found = pieces(self.file, size)
        first = next((row for read in found for row in read()), None)
        if first is None:
            return [self]
        said = [self.said, *([tuple] * (len(found) - 1))]
        return [replace(self, rows=rows, said=one, begins=first) for rows, one in zip(found, said, strict=True)]

    def why_whole(self) -> str:
        """Why it is not cut."""
        if self.file is None:
            return "its rows are made of the whole"
        from luthier.data.reading.cutting.pieces import why_whole

        return why_whole(self.file)

    def read(self, tell: Tell) -> Iterator[tuple[Source, Any]]:
        """The rows with their places."""
        for place, row in self.telling(tell) if self.telling else self.rows():
            yield place if isinstance(place, Source) else Source(self.name, place), row
