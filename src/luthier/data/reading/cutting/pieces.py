"""A file's pieces as readers, and why a file has none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

from luthier import cache
from luthier.data.reading.cutting import places
from luthier.data.reading.cutting.places import Part
from luthier.data.reading.json_files import read_json, read_jsonl, rows_of
from luthier.data.reading.sources import TABLES, fingerprint, read_parquet, suffix
from luthier.data.reading.tables import read_csv, read_tsv
from luthier.data.reading.text_files import NumberedRow, Span, cut
from luthier.data.reading.unpacking import PACKED
from luthier.errors import LuthierError
from luthier.run import write_atomically

Rows = Callable[[], Iterator[NumberedRow]]
CUT = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
KEPT = 64 * 2**20
"""Of larger files it is remembered where they are cut."""


def pieces(path: Path, size: int) -> list[Rows]:
    """The file as readers of pieces of about so many bytes; none where it is one piece."""
    kind = suffix(path)
    if path.suffix.lower() in PACKED or kind not in CUT or path.stat().st_size <= size:
        return []
    if kind == ".parquet":
        return _of_parquet(path, size)
    found = _places(path, size, kind)
    if kind in TABLES:
        read = read_csv if kind == ".csv" else read_tsv
        return [partial(read, path, Span(*one)) for one in found]
    if kind == ".json":
        return [partial(_of_list, path, Part(*one)) for one in found]
    return [partial(read_jsonl, path, Span(*one)) for one in found]


def why_whole(path: Path) -> str:
    """Why a file is read by one process."""
    if path.suffix.lower() in PACKED:
        return f"what is packed ({path.suffix.lower()}) can only be read from its beginning"
    return {
        ".parquet": "it is written as one row group",
        ".json": "it is no list of rows, or not in UTF-8",
        ".csv": "its quotes do not stand as in a table",
        ".tsv": "its quotes do not stand as in a table",
        ".arrow": "an Arrow file is not cut",
        ".txt": "the file is one text",
    }.get(suffix(path), "it cannot be cut")


def _places(path: Path, size: int, kind: str) -> Sequence[tuple[int, int, int]]:
    """Where each piece begins and ends, and the number of its first line or row."""
    remembered = cache.root() / "cuts" / f"{path.name}.{_name(path, size)}.json"
    large = path.stat().st_size > KEPT
    if large and remembered.is_file():
        return [(int(a), int(b), int(c)) for a, b, c in json.loads(remembered.read_text(encoding="utf-8"))]
    found: Sequence[Span | Part] | None
    if kind in TABLES:
        found = places.of_table(path, size, TABLES[kind])
    else:
        found = places.of_list(path, size) if kind == ".json" else cut(path, size)
    told = [_told(one) for one in found or ()]
    told = told if len(told) > 1 else []
    if large:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(remembered, json.dumps(told))
    return told


def _told(one: Span | Part) -> tuple[int, int, int]:
    return (one.start, one.end, one.line if isinstance(one, Span) else one.first)


def _name(path: Path, size: int) -> str:
    import hashlib

    return hashlib.blake2b(f"{fingerprint(path)} {size}".encode(), digest_size=8).hexdigest()


def _of_list(path: Path, part: Part) -> Iterator[NumberedRow]:
    """The rows of a piece of a list. Whatever is wrong with it is told by who reads the whole file."""
    with path.open("rb") as file:
        file.seek(part.start)
        content = file.read(part.end - part.start)
    try:
        text = content.decode("utf-8")
        rows = rows_of(text) if text.strip() and "\0" not in text else None
    except (UnicodeDecodeError, LuthierError):
        rows = None
    if rows is None:
        for _ in read_json(path):
            continue
        raise LuthierError("the file changes while it is read", where=str(path), fix="run it again")
    yield from enumerate(rows, part.first)


def _of_parquet(path: Path, size: int) -> list[Rows]:
    """Row groups, as many together as make a piece."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        told = pq.read_metadata(path)
    except (pa.ArrowException, OSError, ValueError):
        return []  # the reader says what is wrong with it
    starts, held, row, first = [0], 0, 0, [0]
    for number in range(told.num_row_groups):
        group = told.row_group(number)
        if held and held + group.total_byte_size > size:
            starts.append(number)
            first.append(row)
            held = 0
        held, row = held + group.total_byte_size, row + group.num_rows
    if len(starts) < 2:
        return []
    edges = [*starts, told.num_row_groups]
    groups = [range(a, b) for a, b in pairwise(edges)]
    return [partial(read_parquet, path, list(these), begin) for these, begin in zip(groups, first, strict=True)]


__all__ = ["Rows", "pieces", "why_whole"]
