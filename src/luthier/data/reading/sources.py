"""Files into rows. Each reader yields (row number from 1, columns); faults name the file and the line."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from luthier.data.reading.cutting.parts import Part
from luthier.data.reading.encodings import kind_of_file
from luthier.data.reading.json_files import read_json, read_jsonl
from luthier.data.reading.tables import once, read_csv, read_tsv, remarks
from luthier.data.reading.text_files import NumberedRow, lines, whole_text
from luthier.data.reading.unpacking import PACKED, beginning, unpacked_name
from luthier.errors import LuthierError

WHOLE = 64 * 2**20
"""Larger files are known by size and time, smaller ones by their content."""


def read_txt(path: Path) -> Iterator[NumberedRow]:
    """The whole file as one text; several documents belong in several files (or in a jsonl file)."""
    text = whole_text(path)
    if text.strip():
        yield 1, {"text": text}


def read_text_lines(path: Path) -> Iterator[NumberedRow]:
    """Each line as a text; empty lines are passed over."""
    for number, line in lines(path):
        if line.strip():
            yield number, {"text": line}


KINDS = {".parquet": "a parquet file", ".arrow": "an Arrow file"}
"""What `kind_of_file` calls them."""


@contextmanager
def _arrow_faults(path: Path) -> Iterator[None]:
    """Turns the many faults of a damaged columnar file into one that says what to do."""
    import pyarrow as pa

    kind = suffix(path)[1:]
    if path.suffix.lower() in PACKED:
        raise LuthierError(
            f"a {kind} file cannot be read through {path.suffix}",
            where=str(path),
            fix="unpack it: its columns are packed",
        )
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, PermissionError):
            raise
        text, other = isinstance(error, UnicodeDecodeError), kind_of_file(beginning(path))
        why = f"it seems to be {other}" if other and other != KINDS[path.suffix.lower()] else str(error)
        raise LuthierError(
            f"cannot be read as {kind}: " + (f"a text in it is not UTF-8 ({error})" if text else why),
            where=str(path),
            fix="write the file again with texts in UTF-8"
            if text
            else "fetch or write the file again; if it is of another kind, give it that ending",
        ) from error


def read_parquet(path: Path, groups: Sequence[int] | None = None, before: int = 0) -> Iterator[NumberedRow]:
    """Parquet, batch by batch. `groups`: only these row groups, with so many rows before them."""
    import pyarrow.parquet as pq

    number = before
    with _arrow_faults(path), pq.ParquetFile(path) as file:
        once(file.schema_arrow.names, str(path))
        for batch in file.iter_batches(batch_size=1024, row_groups=None if groups is None else list(groups)):
            for row in batch.to_pylist():
                number += 1
                yield number, _without_nulls(row)


def read_arrow(path: Path) -> Iterator[NumberedRow]:
    """Arrow IPC, file or stream."""
    import pyarrow as pa

    number = 0
    with _arrow_faults(path), pa.memory_map(str(path)) as source:
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        opened: Any = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        once(opened.schema.names, str(path))
        batches = (opened.get_batch(i) for i in range(opened.num_record_batches)) if is_file else iter(opened)
        for batch in batches:
            for row in batch.to_pylist():
                number += 1
                yield number, _without_nulls(row)


def _without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    """Columns stay; inside them, keys that Arrow filled with null for want of a value go."""

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: clean(item) for key, item in value.items() if item is not None}
        return [clean(item) for item in value] if isinstance(value, list) else value

    return {key: clean(value) for key, value in row.items()}


READERS: dict[str, Callable[[Path], Iterator[NumberedRow]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": read_txt,
}


TABLES = {".csv": ",", ".tsv": "\t"}
"""Kinds of tables → what separates their columns."""


def suffix(path: Path) -> str:
    """The ending that says how to read a file, that of compression (`.gz` and its like) taken off."""
    return unpacked_name(path).suffix.lower()


def said_of(path: Path) -> tuple[str, ...]:
    """What is to be said about how a file is read."""
    separator = TABLES.get(suffix(path))
    return tuple(remarks(path, separator)) if separator else ()


def fingerprint(path: Path) -> str:
    """What the token cache knows a file by: its content, or for a large one its size and time."""
    stat = path.stat()
    if stat.st_size > WHOLE:
        return f"{path.absolute()}:{stat.st_size}:{stat.st_mtime_ns}"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def part(path: Path, reader: Callable[[Path], Iterator[NumberedRow]] | None = None) -> Part:
    """A file as part of a feed."""
    reader = reader or READERS[suffix(path)]
    own = path if reader is READERS.get(suffix(path)) else None
    return Part(str(path), partial(reader, path), partial(fingerprint, path), partial(said_of, path), own)
