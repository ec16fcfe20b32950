"""Text files: UTF-8, whole or line by line. What is no text, or text in another encoding, is named for what it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.reading.encodings import kind_of_file, likely, mostly_utf8, pretends, wide
from luthier.data.reading.unpacking import opened
from luthier.errors import LuthierError

NumberedRow = tuple[int, Any]
"""A row and its number from 1: its line, or its place."""


@dataclass(frozen=True)
class Span:
    """A piece of a file: whole lines from one byte up to another, the first of which has this number."""

    start: int
    end: int
    line: int


SAMPLE = 4096
"""Bytes that tell an encoding."""
BLOCK = 2**20
"""Bytes read at a time where lines are counted."""


def whole_text(path: Path) -> str:
    """The text of a file, with every line end as it stands. Raises LuthierError for what is no UTF-8 text."""
    with opened(path) as file:
        content = file.read()
    _check_beginning(path, content)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        start = _bad_byte(content)
        raise _not_utf8(path, content[:start].count(b"\n") + 1, start, content[start]) from None
    if "\0" in text:
        raise _zero_byte(path, content[: content.index(0)].count(b"\n") + 1)
    return text


def lines(path: Path, span: Span | None = None) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends, decoded one by one: memory stays bounded. `span`: of a piece of the file.

    A newline alone ends a line: U+2028, U+0085 and their like are characters of a text. Raises LuthierError.
    """
    offset = span.start if span else 0
    with opened(path) as file:
        if offset:
            file.seek(offset)
        for number, line in enumerate(file, span.line if span else 1):
            if span and offset >= span.end:
                return
            if number == 1:
                _check_beginning(path, line)
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                start = _bad_byte(line)
                raise _not_utf8(path, number, offset + start, line[start]) from None
            if "\0" in text:
                raise _zero_byte(path, number)
            offset += len(line)
            yield number, text.rstrip("\r\n")


def _check_beginning(path: Path, first: bytes) -> None:
    """Raises LuthierError for a file of ASCII that holds no text to train on."""
    kind = pretends(first)
    if kind:
        raise LuthierError(f"the file is {kind}", where=str(path), fix="give the file itself, as text")


def _bad_byte(content: bytes) -> int:
    """Offset of the first byte that is not UTF-8 (the byte order mark's decoder counts without the mark)."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return 0


def _not_utf8(path: Path, line: int, offset: int, bad: int) -> LuthierError:
    what, where = f"not UTF-8 text: byte 0x{bad:02x} at offset {offset}", f"{path}:{line}"
    kind, fix = _other_kind(path) or _by_trial(path)
    return LuthierError(f"{what} ({kind})" if kind else what, where=where, fix=fix)


def _zero_byte(path: Path, line: int) -> LuthierError:
    """The error of a text file with a zero byte in this line."""
    other = _other_kind(path)
    if other:
        return LuthierError(f"not UTF-8 text: {other[0]}", where=f"{path}:{line}", fix=other[1])
    return LuthierError(
        "the line holds a zero byte (\\0), which no text has",
        where=f"{path}:{line}",
        fix="mend that line, or write the file again; it may be no text file at all",
    )


def _other_kind(path: Path) -> tuple[str, str] | None:
    """What a file is by its first bytes (wide characters, or no text), and what to do; None where it may be text."""
    with opened(path) as file:
        first = file.read(SAMPLE)
    encoding, kind = wide(first[:4]) or (likely(first) if b"\0" in first else None), kind_of_file(first)
    if encoding and not kind:
        return f"the file seems to be {encoding}", _save_as_utf8(encoding)
    fix = "give the file the ending of its kind, or write it as text"
    return (f"the file seems to be {kind}", fix) if kind else None


def _by_trial(path: Path) -> tuple[str, str]:
    """What the text of a file says about its encoding, and what to do."""
    sample = _beyond_ascii(path)
    if mostly_utf8(sample):
        return "most of the file is UTF-8", "mend or delete that line: one of its characters is cut or broken"
    encoding = likely(sample)
    if encoding is None:
        return "", "save the file as UTF-8 from the program that wrote it, which knows its encoding"
    return f"the file seems to be {encoding}", _save_as_utf8(encoding)


def _save_as_utf8(encoding: str) -> str:
    return f"save the file as UTF-8, for example: iconv -f {encoding} -t UTF-8 old > new"


def _beyond_ascii(path: Path) -> bytes:
    """The first lines of a file that hold more than ASCII."""
    found = b""
    with opened(path) as file:
        for line in file:
            if not line.isascii():
                start = next(i for i, byte in enumerate(line) if byte > 0x7F)
                found += line[max(0, start - 2) : start + SAMPLE]
            if len(found) >= SAMPLE:
                break
    return found


def cut(path: Path, size: int) -> list[Span]:
    """A file of lines in pieces of about so many bytes: the same ones on every machine. Not for packed files."""
    spans: list[Span] = []
    start, line = 0, 1
    with path.open("rb") as file:
        while True:
            counted, end = 0, start
            while block := file.read(min(BLOCK, max(0, start + size - end))):
                counted, end = counted + block.count(b"\n"), end + len(block)
            rest = file.readline()
            counted, end = counted + rest.count(b"\n"), end + len(rest)
            if end == start:
                return spans
            spans.append(Span(start, end, line))
            start, line = end, line + counted


__all__ = ["NumberedRow", "Span", "cut", "lines", "whole_text"]
