"""JSON files: one row a line, a list of rows, an object that holds one, or a single row."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from luthier.data.reading.formats import recognise
from luthier.data.reading.tables import twofold
from luthier.data.reading.text_files import NumberedRow, Span, lines, whole_text
from luthier.errors import LuthierError


class Twice(Exception):
    """Two keys of one object have this name."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        raise Twice(next(name for name in names if names.count(name) > 1))
    return made


DECODER = json.JSONDecoder(object_pairs_hook=_object)
"""Refuses two keys of one name, of which the usual one keeps the last."""


def read_jsonl(path: Path, span: Span | None = None) -> Iterator[NumberedRow]:
    """One JSON value a line; empty lines are passed over."""
    for number, line in lines(path, span):
        if line.strip():
            try:
                row = DECODER.decode(line)
            except json.JSONDecodeError as error:
                raise _broken(f"{path}:{number}", error) from None
            except Twice as twice:
                raise twofold("keys of one object", str(twice), f"{path}:{number}") from None
            except (RecursionError, ValueError) as error:
                raise _beyond(f"{path}:{number}", error) from None
            yield number, row


def read_json(path: Path) -> Iterator[NumberedRow]:
    """A list of rows, an object that holds one, or one row. A .json file of one object a line is read as what it is."""
    text = whole_text(path)
    if not text.strip():
        return
    try:
        content = DECODER.decode(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            yield from read_jsonl(path)
            return
        raise _broken(f"{path}:{error.lineno}", error) from None
    except Twice as twice:
        raise twofold("keys of one object", str(twice), _place_of_twice(text, path)) from None
    except (RecursionError, ValueError) as error:
        raise _beyond(str(path), error) from None
    del text
    if isinstance(content, dict):
        content = [content] if _is_row(content) else _held(content, path)
    if not isinstance(content, list):
        raise LuthierError("the file holds no list of rows", where=str(path), fix="make it a list of objects")
    yield from enumerate(content, 1)


def rows_of(text: str) -> list[Any]:
    """The rows of a piece of a list, without its brackets. Raises LuthierError, without a place, for what is none."""
    try:
        found: list[Any] = DECODER.decode(f"[{text}]")
    except (ValueError, RecursionError, Twice) as error:
        raise LuthierError(f"broken JSON: {error}", fix="mend or delete that row") from None
    return found


def _broken(where: str, error: json.JSONDecodeError) -> LuthierError:
    return LuthierError(
        f"broken JSON: {error.msg} (column {error.colno})",
        where=where,
        fix="mend or delete that line; `python -m json.tool FILE` shows faults in a .json file",
    )


def _beyond(where: str, error: Exception) -> LuthierError:
    """The error of JSON that is correct, and more than can be read."""
    if isinstance(error, RecursionError):
        return LuthierError(
            "the JSON is nested too deeply to be read",
            where=where,
            fix="rows are objects with texts and lists of messages: look for brackets that are never closed",
        )
    return LuthierError(f"the JSON cannot be read: {error}", where=where, fix="write very long numbers as text")


def _place_of_twice(text: str, path: Path) -> str:
    """The file, and where it is a list of rows the line on which the row with a repeated key begins."""
    at = len(text) - len(text.lstrip())
    if text[at] != "[":
        return str(path)
    try:
        while True:
            at = next(i for i in range(at + 1, len(text)) if text[i] not in " \t\r\n,")
            at = DECODER.raw_decode(text, at)[1] - 1
    except Twice:
        return f"{path}:{text.count(chr(10), 0, at) + 1}"


def _is_row(content: Mapping[str, Any]) -> bool:
    """Is this object one row, and not a file of rows? Then a list of objects in it, if there is one, holds messages."""
    lists = [value for value in content.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    if any({"role", "content"} <= value[0].keys() or {"from", "value"} <= value[0].keys() for value in lists):
        return True
    return not lists and "data" not in content and recognise(content) is not None


def _held(content: Mapping[str, Any], path: Path) -> list[Any]:
    """The one list of rows that an object holds."""
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
    return next(iter(found.values()))


__all__ = ["DECODER", "Twice", "read_json", "read_jsonl", "rows_of"]
