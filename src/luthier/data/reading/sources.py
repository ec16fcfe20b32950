"""Files into rows. Each reader yields (row number from 1, columns); faults name the file and the line."""

from __future__ import annotations

import csv
import difflib
import glob
import gzip
import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from luthier.errors import LuthierError

NumberedRow = tuple[int, Any]
WHOLE = 64 * 2**20
"""Larger files are known by size and time, smaller ones by their content."""


def _open(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked."""
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _wide(path: Path) -> str | None:
    """The encoding of a file whose characters are two or four bytes, by its byte order mark or its zeros; else None."""
    with _open(path) as file:
        first = file.read(4)
    if first in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return "UTF-32"
    if first[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "UTF-16"
    zeros = [not byte for byte in first]  # rows begin with characters of ASCII, one byte of which is zero
    kinds = {
        "UTF-16LE": [False, True] * 2,
        "UTF-16BE": [True, False] * 2,
        "UTF-32LE": [False, True, True, True],
        "UTF-32BE": [True, True, True, False],
    }
    return next((name for name, places in kinds.items() if places == zeros), None)


def _save_as_utf8(encoding: str) -> str:
    return f"save the file as UTF-8, for example: iconv -f {encoding} -t UTF-8 old > new"


def _not_utf8(path: Path, line: int, offset: int, bad: int) -> LuthierError:
    wide = _wide(path)
    return LuthierError(
        f"not UTF-8 text: byte 0x{bad:02x} at offset {offset}" + (f" (the file seems to be {wide})" if wide else ""),
        where=f"{path}:{line}",
        fix=_save_as_utf8(wide or "LATIN1"),
    )


def _whole_text(path: Path) -> str:
    with _open(path) as file:
        content = file.read()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        start = _bad_byte(content)
        raise _not_utf8(path, content[:start].count(b"\n") + 1, start, content[start]) from None


def _bad_byte(content: bytes) -> int:
    """Offset of the first byte that is not UTF-8 (the byte order mark's decoder counts without the mark)."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, decoded one by one: memory stays bounded."""
    offset = 0
    with _open(path) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                start = _bad_byte(line)
                raise _not_utf8(path, number, offset + start, line[start]) from None
            offset += len(line)
            yield number, text.rstrip("\r\n")


def _broken_json(path: Path, line: int, error: json.JSONDecodeError) -> LuthierError:
    column, wide = error.colno, _wide(path)
    if wide:  # all of it ASCII, so that only the zeros between the characters show it
        return LuthierError(f"not UTF-8 text: the file seems to be {wide}", where=str(path), fix=_save_as_utf8(wide))
    return LuthierError(
        f"broken JSON: {error.msg} (column {column})",
        where=f"{path}:{line}",
        fix="mend or delete that line; `python -m json.tool FILE` shows faults in a .json file",
    )


@contextmanager
def _shallow(path: Path, line: int | None = None) -> Iterator[None]:
    """Turns the fault of JSON that is nested more deeply than it can be read into a clear one."""
    try:
        yield
    except RecursionError:
        raise LuthierError(
            "the JSON is nested too deeply to be read",
            where=str(path) if line is None else f"{path}:{line}",
            fix="rows are objects with texts and lists of messages: look for brackets that are never closed",
        ) from None


def read_jsonl(path: Path) -> Iterator[NumberedRow]:
    """One JSON value a line; empty lines are passed over."""
    for number, line in _lines(path):
        if line.strip():
            try:
                with _shallow(path, number):
                    row = json.loads(line)
                yield number, row
            except json.JSONDecodeError as error:
                raise _broken_json(path, number, error) from None


def read_json(path: Path) -> Iterator[NumberedRow]:
    """A list of rows, or an object that holds one. A .json file of one object a line is read as what it is."""
    text = _whole_text(path)
    if not text.strip():
        return
    try:
        with _shallow(path):
            content = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from read_jsonl(path)
            return
        raise _broken_json(path, error.lineno, error) from None
    del text
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        held = {key: value for key, value in lists.items() if value and isinstance(value[0], dict)}
        found = held if len(held) == 1 or not lists else lists
        if "data" in lists:
            found = {"data": lists["data"]}
        if len(found) != 1:
            keys = ", ".join(content) or "none"
            raise LuthierError(
                f"the file holds one object with {len(found) or 'no'} lists of rows (keys: {keys})",
                where=str(path),
                fix="make it a list of objects, or an object with the rows under `data`",
            )
        content = next(iter(found.values()))
    if not isinstance(content, list):
        raise LuthierError("the file holds no list of rows", where=str(path), fix="make it a list of objects")
    yield from enumerate(content, 1)


def _check_header(path: Path, names: list[str], delimiter: str) -> None:
    """Raises LuthierError for a header that another separator divides (spreadsheets write ; in many countries)."""
    other = (
        next((mark for mark in (";", "\t", ",", "|") if mark != delimiter and mark in names[0]), None)
        if names
        else None
    )
    if len(names) == 1 and other:
        raise LuthierError(
            f"the header is one column, {names[0]!r}: its separator seems to be {other!r}, not {delimiter!r}",
            where=f"{path}:1",
            fix=f"save the table with {delimiter!r} between the columns"
            + (", or give the file the ending .tsv" if other == "\t" else ""),
        )


def _read_table(path: Path, delimiter: str) -> Iterator[NumberedRow]:
    csv.field_size_limit(sys.maxsize)
    before = 1

    def ended() -> Iterator[str]:
        for _, line in _lines(path):
            yield line + "\n"

    reader = csv.DictReader(ended(), delimiter=delimiter, strict=True)
    try:
        _check_header(path, list(reader.fieldnames or ()), delimiter)
        for row in reader:
            number, before = before + 1, reader.line_num
            if None in row or None in row.values():
                count = len(reader.fieldnames or ())
                raise LuthierError(
                    f"the row has {'more' if None in row else 'fewer'} fields than the header's {count}",
                    where=f"{path}:{number}",
                    fix='put fields that contain the separator or a newline in double quotes (a quote inside: "")',
                )
            yield number, row
    except csv.Error as error:
        raise LuthierError(
            f"broken table: {error}", where=f"{path}:{before + 1}", fix="mend that line, or save the table anew"
        ) from None


def read_csv(path: Path) -> Iterator[NumberedRow]:
    """Comma-separated values with a header. The row number is the line where the row begins."""
    return _read_table(path, ",")


def read_tsv(path: Path) -> Iterator[NumberedRow]:
    """Tab-separated values with a header."""
    return _read_table(path, "\t")


def read_txt(path: Path) -> Iterator[NumberedRow]:
    """The whole file as one text; several documents belong in several files (or in a jsonl file)."""
    text = _whole_text(path)
    if text.strip():
        yield 1, {"text": text}


def read_text_lines(path: Path) -> Iterator[NumberedRow]:
    """Each line as a text; empty lines are passed over."""
    for number, line in _lines(path):
        if line.strip():
            yield number, {"text": line}


@contextmanager
def _arrow_faults(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise LuthierError(
            f"cannot be read as {path.suffix[1:]}: {error}",
            where=str(path),
            fix="fetch or write the file again; if it is of another kind, give it that ending",
        ) from error


def read_parquet(path: Path) -> Iterator[NumberedRow]:
    """Parquet, batch by batch."""
    import pyarrow.parquet as pq

    number = 0
    with _arrow_faults(path), pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024):
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
        batches = (
            (file.get_batch(i) for i in range(file.num_record_batches))
            if is_file and (file := pa.ipc.open_file(source))
            else iter(pa.ipc.open_stream(source))
        )
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


def suffix(path: Path) -> str:
    """The ending that says how to read a file, `.gz` taken off."""
    return (Path(path.stem).suffix if path.suffix == ".gz" else path.suffix).lower()


def find(path: str) -> list[Path]:
    """The files behind a file, folder or glob, sorted. Raises LuthierError when there are none."""
    place = Path(path).expanduser()
    known = ", ".join(ending[1:] for ending in READERS)
    if place.is_dir():
        files = sorted(f for f in place.rglob("*") if f.is_file() and suffix(f) in READERS and not _hidden(f, place))
        if not files:
            raise LuthierError("the folder holds no data files", where=str(place), fix=f"known kinds: {known}")
        return files
    if place.is_file():
        if suffix(place) not in READERS:
            raise LuthierError(f"unknown kind of file {place.suffix!r}", where=str(place), fix=f"known kinds: {known}")
        return [place]
    if glob.has_magic(path):
        matches = map(Path, glob.glob(str(place), recursive=True))  # noqa: PTH207  (Path.glob takes no absolute pattern)
        files = sorted(f for f in matches if f.is_file() and suffix(f) in READERS)
        if not files:
            raise LuthierError("no data file matches this pattern", where=path, fix=f"known kinds: {known}")
        return files
    raise missing(place)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def missing(path: Path) -> LuthierError:
    """The error of a file that is not there, with near names."""
    if not path.parent.is_dir():
        return LuthierError("no such file: its folder does not exist", where=str(path), fix=f"check {path.parent}")
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    data = [name for name in names if suffix(Path(name)) in READERS]
    if near:
        fix = f"did you mean {' or '.join(near)}?"
    else:
        fix = f"data files there: {', '.join(data[:8])}" if data else "there are no data files in that folder"
    return LuthierError("no such file", where=str(path), fix=fix)


def fingerprint(path: Path) -> str:
    """What the token cache knows a file by: its content, or for a large one its size and time."""
    stat = path.stat()
    if stat.st_size > WHOLE:
        return f"{path.absolute()}:{stat.st_size}:{stat.st_mtime_ns}"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
