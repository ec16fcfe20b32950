"""Tables of text, comma- or tab-separated, with a header line."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from luthier.data.reading.text_files import NumberedRow, Span, lines
from luthier.errors import LuthierError


def read_csv(path: Path, span: Span | None = None) -> Iterator[NumberedRow]:
    """Comma-separated values with a header. The row number is the line where the row begins. `span`: a piece of the
    file, of whole rows."""
    return _read(path, ",", span)


def read_tsv(path: Path, span: Span | None = None) -> Iterator[NumberedRow]:
    """Tab-separated values with a header."""
    return _read(path, "\t", span)


def _read(path: Path, delimiter: str, span: Span | None = None) -> Iterator[NumberedRow]:
    csv.field_size_limit(sys.maxsize)
    names: list[str] | None = None
    skipped = before = 0
    if span is not None and span.start:
        skipped = before = span.line - 1
        names = next((list(row) for _, row in _read(path, delimiter)), None)
    ended = (line + "\n" for _, line in lines(path, span))
    rows = csv.reader(ended, delimiter=delimiter, strict=True, skipinitialspace=_spaced(_header(path, delimiter)))
    try:
        for fields in rows:
            number, before = before + 1, skipped + rows.line_num
            if not fields:
                continue  # a blank line: the next row begins behind it
            if names is None:
                names = _names(path, number, fields, delimiter)
            elif len(fields) != len(names):
                raise LuthierError(
                    f"the row has {'more' if len(fields) > len(names) else 'fewer'} fields than the header's "
                    f"{len(names)}",
                    where=f"{path}:{number}",
                    fix='put fields that contain the separator or a newline in double quotes (a quote inside: "")',
                )
            else:
                yield number, dict(zip(names, fields, strict=True))
    except csv.Error as error:
        raise LuthierError(
            f"broken table: {error}", where=f"{path}:{before + 1}", fix="mend that line, or save the table anew"
        ) from None


def _header(path: Path, delimiter: str) -> list[str]:
    """The names of the columns as they stand on the first line that is not blank."""
    first = next((line for _, line in lines(path) if line), "")
    return next(csv.reader([first], delimiter=delimiter), [])


def _spaced(header: Sequence[str]) -> bool:
    """Is the separator one with a space behind it ("prompt, completion")?"""
    return len(header) > 1 and all(name.startswith(" ") for name in header[1:])


def remarks(path: Path, delimiter: str) -> Iterator[str]:
    """What is to be said about how a table is read."""
    header = _header(path, delimiter)
    padded = [name for name in header if name != name.strip()]
    if padded:
        cells = ", and cells without the spaces that follow a separator" if _spaced(header) else ""
        names = ", ".join(repr(name) for name in padded)
        yield f"{path}: column names are read without the white space around them ({names}){cells}"


def _names(path: Path, line: int, header: Sequence[str], delimiter: str) -> list[str]:
    """The names of the columns. Raises LuthierError for two of one name, and for a header that another separator
    divides (spreadsheets write ; in many countries)."""
    other = next((mark for mark in (";", "\t", ",", "|") if mark != delimiter and mark in header[0]), None)
    if len(header) == 1 and other:
        raise LuthierError(
            f"the header is one column, {header[0]!r}: its separator seems to be {other!r}, not {delimiter!r}",
            where=f"{path}:{line}",
            fix=f"save the table with {delimiter!r} between the columns"
            + (", or give the file the ending .tsv" if other == "\t" else ""),
        )
    names = [name.strip() for name in header]
    once(names, f"{path}:{line}")
    return names


def once(names: Sequence[str], where: str) -> None:
    """Raises LuthierError where two columns have one name. Those without a name are nothing that is read."""
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise twofold("columns", twice, where)


def twofold(what: str, name: str, where: str) -> LuthierError:
    """The error of two columns or keys of one name."""
    return LuthierError(
        f"two {what} are called {name!r}, and only one of them could be read",
        where=where,
        fix="rename or delete one of them",
    )


__all__ = ["once", "read_csv", "read_tsv", "remarks", "twofold"]
