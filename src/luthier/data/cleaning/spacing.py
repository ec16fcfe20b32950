"""White space: ends of lines, empty lines, runs of blanks. Indentation, tables and aligned columns stay."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.data.cleaning.edits import Edit

_RETURN = re.compile(r"\r\n?")
_ODD = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f]")
_TRAILING = re.compile("(?<![ \t\u3000])[ \t\u3000]++(?=\n|\\Z)")
_EMPTY = re.compile(r"\n{3,}")
_RUN = re.compile(r"(?<=\S)[ \t]{2,}+(?=\S)")
_FIRST = re.compile(r"\A(?:[ \t]*\n)+|\A[ \t]+(?=\S)")
_INDENTED = re.compile(r"\n[ \t]+\S")


def returns(text: str) -> list[Edit]:
    """Ends of lines from other systems as plain ones."""
    return [Edit(found.start(), found[0], "\n") for found in _RETURN.finditer(text)] if "\r" in text else []


def odd_blanks(text: str) -> list[Edit]:
    """Blanks of other widths, and those that do not break, as plain ones. The wide blank of Chinese stays."""
    if text.isascii():
        return []
    return [Edit(found.start(), found[0], " ") for found in _ODD.finditer(text)]


def ends(text: str) -> list[Edit]:
    """Blanks at the ends of lines, empty lines at both ends of the text, and blanks before a single paragraph."""
    edits = []
    if text[:1] in ("\n", " ", "\t"):
        found = _FIRST.search(text)
        if found is not None and ("\n" in found[0] or not _INDENTED.search(text)):
            edits.append(Edit(0, found[0], ""))
    if " \n" in text or "\t\n" in text or "\u3000\n" in text or text[-1:] in (" ", "\t", "\u3000", "\n"):
        edits += _after(text, edits[0].end if edits else 0)
    return edits


def _after(text: str, begin: int) -> Iterator[Edit]:
    body = len(text.rstrip(" \t\u3000\n"))
    for found in _TRAILING.finditer(text, begin, body):
        if found.end() < body:  # what ends the searched piece and not a line is no end of a line
            yield Edit(found.start(), found[0], "")
    if body < len(text) and body >= begin:
        yield Edit(body, text[body:], "")


def empty_lines(text: str) -> list[Edit]:
    """Two empty lines and more as one."""
    return [Edit(found.start(), found[0], "\n\n") for found in _EMPTY.finditer(text)] if "\n\n\n" in text else []


def runs(text: str) -> list[Edit]:
    """Several blanks between two words as one; in a table, or where lines are set in columns, they stay."""
    if "  " not in text and "\t\t" not in text and " \t" not in text and "\t " not in text:
        return []
    lines, start = [], 0
    for line in text.split("\n"):
        found = [Edit(start + one.start(), one[0], " ") for one in _RUN.finditer(line)] if len(line) > 3 else []
        if found and "|" not in line:
            lines.append(found)
        start += len(line) + 1
    wide = [any(len(edit.old) > 2 or "\t" in edit.old for edit in found) for found in lines]
    columns = sum(wide) > 1
    return [edit for found, is_wide in zip(lines, wide, strict=True) if not (columns and is_wide) for edit in found]
