"""Where a file can be cut: behind a line, a row of a table, a row of a list in JSON.

A table's cells may hold newlines, and texts in JSON may hold brackets: which of them count hangs on the quotes before
them. They are counted in numpy, block by block, so that a first pass costs a small part of reading the rows. Where
quotes do not stand as they should, nothing is cut: the reader, which knows better, has the whole file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.reading.text_files import Span

BLOCK = 2**20
"""Bytes that are looked at together."""
Bytes = NDArray[np.uint8]
QUOTE, BACKSLASH, NEWLINE, COMMA = ord('"'), ord("\\"), ord("\n"), ord(",")
OPENING, CLOSING = b"[{", b"]}"
BLANK = b" \t\r\n"


class Part(NamedTuple):
    """A piece of a list: from one byte up to another, and the number of its first row."""

    start: int
    end: int
    first: int


def _blocks(path: Path) -> Iterator[tuple[int, Bytes]]:
    """The file in blocks, each with the byte at which it begins."""
    at = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield at, np.frombuffer(block, np.uint8)
            at += len(block)


def of_table(path: Path, size: int, delimiter: str) -> list[Span] | None:
    """A table in pieces of about so many bytes, each of whole rows; None where that cannot be told."""
    ends: list[int] = []
    lines: list[int] = []
    odd, before, counted, wanted = False, NEWLINE, 0, size
    may_open = np.zeros(256, np.bool_)
    may_open[[NEWLINE, ord("\r"), QUOTE, ord(delimiter), ord(" "), 0xBF]] = True  # the last ends a byte order mark
    for at, block in _blocks(path):
        quotes = np.flatnonzero(block == QUOTE)
        opening = quotes[int(odd) :: 2]
        ahead = np.concatenate([[np.uint8(before)], block])[opening]  # what stands before each
        if not may_open[ahead].all():
            return None  # a quote within a cell that is not quoted: it opens nothing
        newlines = np.flatnonzero(block == NEWLINE)
        within = (np.searchsorted(quotes, newlines) + int(odd)) % 2 == 1
        rows = newlines[~within]
        while len(rows) and (found := int(np.searchsorted(rows, wanted - at - 1))) < len(rows):
            end = int(rows[found]) + 1
            ends.append(at + end)
            lines.append(counted + int(np.searchsorted(newlines, end)) + 1)
            wanted = at + end + size
        odd, before, counted = odd != (len(quotes) % 2 == 1), int(block[-1]), counted + len(newlines)
    if odd:
        return None
    total = path.stat().st_size
    starts = [(0, 1), *zip(ends, lines, strict=True)]
    stops = [*ends, total]
    return [Span(start, end, line) for (start, line), end in zip(starts, stops, strict=True) if end > start]


def of_list(path: Path, size: int) -> list[Part] | None:
    """A list of rows in JSON in pieces of about so many bytes, each of whole rows; None where the file is none."""
    scan = _Scan(size)
    for at, block in _blocks(path):
        if not scan.block(at, block):
            return None
    if scan.start is None or scan.end is None or scan.depth or scan.inside:
        return None
    edges = [scan.start, *(end for end, _ in scan.cuts), scan.end + 1]
    firsts = [1, *(first for _, first in scan.cuts)]
    return [Part(a, b - 1, first) for a, b, first in zip(edges[:-1], edges[1:], firsts, strict=True)]


def rows_of_list(path: Path) -> int | None:
    """How many rows a list in JSON has; None where the file is none."""
    scan = _Scan(1 << 62)
    if not all(scan.block(at, block) for at, block in _blocks(path)) or scan.end is None or scan.start is None:
        return None
    return scan.rows + 1 if scan.some else 0


class _Scan:
    """How far a list has been looked at."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.start: int | None = None
        """The byte behind the bracket that opens the list."""
        self.end: int | None = None
        """The bracket that closes it."""
        self.depth, self.inside, self.escaped = 0, False, False
        self.rows, self.wanted, self.some = 0, size, False
        """Commas between rows; where the next cut may be; is there anything in the list?"""
        self.cuts: list[tuple[int, int]] = []
        """The byte behind a comma between two rows, and the number of the row that follows."""

    def block(self, at: int, block: Bytes) -> bool:
        """Look at a block. False where the file is no list of rows."""
        if self.start is None:
            text = block.tobytes()
            skipped = 3 if text.startswith(b"\xef\xbb\xbf") and not at else 0
            first = skipped + len(text[skipped:]) - len(text[skipped:].lstrip(BLANK))
            if first == len(text) or text[first : first + 1] != b"[":
                return False
            self.start = at + first + 1
            at, block, self.depth = at + first + 1, block[first + 1 :], 1
        if not len(block):
            return True
        steps, outside = self._steps(block)
        levels = self.depth + np.cumsum(steps, dtype=np.int32)
        if self.end is not None:
            return not block.tobytes().strip(BLANK)
        closed = np.flatnonzero((levels == 0) & (steps < 0))
        if len(closed):
            self.end = at + int(closed[0])
            if block[int(closed[0]) + 1 :].tobytes().strip(BLANK):
                return False
            levels, outside = levels[: int(closed[0])], outside[: int(closed[0])]
            block = block[: int(closed[0])]
            self.depth = 0
        else:
            self.depth = int(levels[-1])
        commas = np.flatnonzero(outside & (block == COMMA) & (levels == 1))
        while len(commas) and (found := int(np.searchsorted(commas, self.wanted - at))) < len(commas):
            place = int(commas[found])
            self.cuts.append((at + place + 1, self.rows + found + 2))
            self.wanted = at + place + 1 + self.size
        self.rows += len(commas)
        self.some = self.some or bool(block.tobytes().strip(BLANK))
        return True

    def _steps(self, block: Bytes) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
        """Where brackets open and close, and what stands outside of texts."""
        quotes = np.flatnonzero(block == QUOTE)
        slashes = np.flatnonzero(block == BACKSLASH)
        if len(slashes) or self.escaped:
            quotes = quotes[~self._escaped(block, slashes)[quotes]]
        toggles = np.zeros(len(block), np.bool_)
        toggles[quotes] = True
        inside = (np.cumsum(toggles, dtype=np.int64) + int(self.inside)) % 2 == 1
        self.inside = bool(inside[-1])
        outside = ~inside & ~toggles
        steps = np.zeros(len(block), np.int8)
        for signs, step in ((OPENING, 1), (CLOSING, -1)):
            for sign in signs:
                steps[outside & (block == sign)] = step
        return steps, outside

    def _escaped(self, block: Bytes, slashes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which bytes stand behind a backslash that is none's second half."""
        escaped = np.zeros(len(block) + 1, np.bool_)
        escaped[0] = self.escaped
        if len(slashes):
            begins = np.flatnonzero(np.diff(slashes, prepend=-2) > 1)
            runs = np.diff([*begins.tolist(), len(slashes)])
            within = slashes - np.repeat(slashes[begins], runs)
            if slashes[0] == 0 and self.escaped:  # the first is itself escaped
                within[: runs[0]] += 1
            escaped[slashes[within % 2 == 0] + 1] = True
        self.escaped = bool(escaped[-1])
        return escaped[:-1]


__all__ = ["Part", "of_list", "of_table", "rows_of_list"]
