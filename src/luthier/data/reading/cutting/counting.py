"""How many rows a file has, without reading it all: exactly where that is cheap, else by its beginning."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

from luthier.data.reading.cutting import places
from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.sources import READERS, TABLES, suffix
from luthier.data.reading.unpacking import PACKED

SAMPLE = 8 * 2**20
"""Bytes at whose rate the rest of a file of lines has rows."""
ROWS = 2000
"""Rows of a table that tell how many lines a row has."""


def rows(parts: Sequence[Part]) -> int | None:
    """Of all these files; None where one of them does not say."""
    counts = [None if part.file is None else of_file(part.file) for part in parts]
    return None if None in counts else sum(count for count in counts if count is not None)


def of_file(path: Path) -> int | None:
    """About how many rows a file has; None where only reading all of it would tell."""
    kind = suffix(path)
    if path.suffix.lower() in PACKED:
        return None
    if kind == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    if kind == ".json":
        return places.rows_of_list(path)
    if kind in TABLES:
        last = list(itertools.islice(READERS[kind](path), ROWS))
        lines = _lines(path)
        return round(len(last) * lines / last[-1][0]) if last else 0
    if kind == ".txt":
        return 1
    return _lines(path) if kind in (".jsonl", ".ndjson") else None


def _lines(path: Path) -> int:
    """Lines that are not empty."""
    with path.open("rb") as file:
        content = file.read(SAMPLE)
    found = sum(1 for line in content.split(b"\n") if line.strip())
    size = path.stat().st_size
    return found if len(content) == size else round(found * size / len(content))


__all__ = ["of_file", "rows"]
