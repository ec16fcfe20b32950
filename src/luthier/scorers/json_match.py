"""The scorer for answers that are JSON: compares values, so the order of keys and white space do not matter."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from luthier.scorers.metric import Metric, reference, text
from luthier.types import Example, Response

_FENCE = re.compile(r"```[\w-]*\s*\n?(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
TRIES = 1000
"""Brackets that may open no JSON before the search is given up: each costs a look at the whole text."""
NOTHING = object()
"""No value at all; JSON's null is a value."""


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def json_values(text: str) -> Iterator[Any]:
    """The JSON values of a text, the likeliest meant first: the whole text, fenced blocks, objects and lists within it.

    Within running text only objects and lists count: a number in a sentence is not JSON.
    """
    for whole in (text, *_FENCE.findall(text)):
        try:
            yield _DECODER.decode(whole.strip())
        except (ValueError, RecursionError):
            continue
    position = failed = 0
    while failed < TRIES and (opening := _OPENING.search(text, position)):
        try:
            value, position = _DECODER.raw_decode(text, opening.start())
        except ValueError:
            position, failed = opening.end(), failed + 1
            continue
        except RecursionError:  # tried again from each bracket within, it would take minutes
            return
        yield value


def whole_value(text: str) -> Any:
    """The JSON value that a text is, white space around it aside; NOTHING where it is none."""
    try:
        return _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return NOTHING


def _kind(value: Any) -> type:
    return float if type(value) is int else type(value)


def equal(left: Any, right: Any) -> bool:
    """Equality of JSON values: 1 = 1.0, but true ≠ 1 (Python thinks otherwise)."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return bool(left == right)


@dataclass(frozen=True)
class JsonMatch(Metric):
    """1 when the response holds the JSON value of the reference, whatever the order of keys, otherwise 0.

    The value may stand alone, in a fenced block or within a sentence; of several, the first of the reference's kind
    (object, list, …) counts. No JSON scores 0. None when the reference is not JSON.
    """

    fields: bool | tuple[str, ...] = False
    """Partial credit for objects. true: the share of equal top-level fields, out of those either side has, so that
    invented fields cost. A list of names: the share of these that are equal, whatever else there is."""

    def lacks(self, example: Example) -> str | None:
        found = next(json_values(reference(example) or ""), NOTHING)
        return "no `answer` that is JSON" if found is NOTHING else None

    def __call__(self, example: Example, response: Response) -> float | None:
        expected: Any = next(json_values(reference(example) or ""), NOTHING)
        if expected is NOTHING:
            return None
        found: Any = next((value for value in json_values(text(response)) if _kind(value) is _kind(expected)), NOTHING)
        if found is NOTHING:
            return 0.0
        if self.fields and isinstance(expected, dict):
            return self._share(expected, found)
        return float(equal(expected, found))

    def _share(self, expected: dict[str, Any], found: dict[str, Any]) -> float:
        names = self.fields if isinstance(self.fields, tuple) else expected.keys() | found.keys()
        if not names:  # two empty objects
            return 1.0
        right = sum(equal(expected.get(name, NOTHING), found.get(name, NOTHING)) for name in names)
        return right / len(names)
