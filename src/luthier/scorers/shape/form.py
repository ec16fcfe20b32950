"""Scorers of form: a pattern, a JSON schema, an answer that is marked as one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import regex

from luthier.errors import LuthierError
from luthier.scorers.json_match import NOTHING, json_values, whole_value
from luthier.scorers.maths.finding import conclusion, marks
from luthier.scorers.metric import Metric, require, text
from luthier.types import Example, Response

SECONDS = 1.0
"""How long a pattern may search one response: some patterns take for ever on some texts."""
_THOUGHT = r"\s*<think>(?:(?!</?think>).)+</think>(?:(?!</?think>).)*[^\s<](?:(?!</?think>).)*"


@dataclass(frozen=True)
class Regex(Metric):
    """1 when a response matches a regular expression, otherwise 0. None where the search takes more than a second."""

    needs_reference: ClassVar[bool] = False
    pattern: str
    """In the dialect of Python; `.` takes no line ends unless it says `(?s)`."""
    whole: bool = False
    """Match the response from end to end (white space around it aside). false: somewhere within."""

    def __post_init__(self) -> None:
        _compiled(self.pattern, "regex")

    def __call__(self, example: Example, response: Response) -> float | None:
        return matches(self.pattern, text(response).strip(), self.whole)


def matches(pattern: str, said: str, whole: bool) -> float | None:
    """1 or 0; None where it could not be told in time."""
    try:
        look = _compiled(pattern, "regex")
        found = (look.fullmatch if whole else look.search)(said, timeout=SECONDS)
    except TimeoutError:
        return None
    return float(found is not None)


@lru_cache(maxsize=64)
def _compiled(pattern: str, scorer: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise LuthierError(
            f"scorer {scorer!r}: not a regular expression: {error}",
            where=repr(pattern),
            fix="mend it; in YAML put it in single quotes",
        ) from error


@dataclass(frozen=True)
class JsonSchema(Metric):
    """1 when a response is JSON that fits a schema, otherwise 0. By jsonschema (extra `schema`)."""

    needs_reference: ClassVar[bool] = False
    schema: str | dict[str, Any]
    """A file, or the schema itself. It must be whole: nothing is fetched."""
    whole: bool = True
    """Nothing but the JSON, in a fence at most. false: the first object or list within the response counts."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "schema", written(self.schema))
        _validator(str(self.schema))

    def __call__(self, example: Example, response: Response) -> float | None:
        return fits(str(self.schema), text(response), self.whole)


def written(schema: str | dict[str, Any]) -> str:
    """A schema, or the file of one, as JSON text. Raises LuthierError where the file is not there or holds none."""
    if not isinstance(schema, str):
        return json.dumps(schema, ensure_ascii=False, sort_keys=True)
    if schema.lstrip().startswith("{"):
        return schema
    path = Path(schema).expanduser()
    try:
        json.loads(held := path.read_text(encoding="utf-8"))
    except OSError as error:
        what = f"the JSON schema cannot be read: {error.strerror}"
        raise LuthierError(what, where=str(path), fix="name a file, or write the schema into the recipe") from error
    except ValueError as error:
        raise LuthierError(f"the schema is not JSON: {error}", where=str(path), fix="mend the file") from error
    return held


@lru_cache(maxsize=16)
def _validator(schema: str) -> Callable[[Any], bool]:
    require("jsonschema", "jsonschema", "json_schema", "schema")
    from jsonschema import exceptions, validators
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    held = json.loads(schema)
    kind = validators.validator_for(held)
    try:
        kind.check_schema(held)
    except exceptions.SchemaError as error:
        raise LuthierError(
            f"not a JSON schema: {error.message}",
            where="/".join(map(str, error.absolute_path)) or "json_schema",
            fix="mend it; https://json-schema.org tells what there is",
        ) from error
    checker = kind(held, registry=Registry())  # empty: by default it would fetch what a `$ref` names

    def valid(value: Any) -> bool:
        try:
            return bool(checker.is_valid(value))
        except Unresolvable as error:
            what = f"the JSON schema refers to {error.ref!r}, which it does not hold"
            raise LuthierError(what, where="json_schema", fix="copy that part into `$defs`") from error

    return valid


def fits(schema: str, said: str, whole: bool) -> float:
    """1 where a text is (or, not whole, holds) JSON that fits."""
    value = whole_value(bare(said)) if whole else next(json_values(said), NOTHING)
    try:
        return float(value is not NOTHING and _validator(schema)(value))
    except RecursionError:  # deeper than any answer that is meant
        return 0.0


def bare(said: str) -> str:
    """A text without the fence around it."""
    fence = re.fullmatch(r"\s*```[\w-]*[ \t]*\n(.*?)\n?```\s*", said, re.DOTALL)
    return said if fence is None else fence[1]


@dataclass(frozen=True)
class Format(Metric):
    """1 when a response has the form that was asked for, otherwise 0: that of `style`, and of each other key set."""

    needs_reference: ClassVar[bool] = False
    style: Literal["answer", "think"] | None = None
    """answer: one final answer is marked (`####`, `\\boxed{}`, `<answer>`), and nothing much follows.
    think: thoughts in `<think>`, once, then something said (arXiv:2501.12948). Default: answer where no other key is
    set, else neither."""
    json: bool | str | dict[str, Any] = False
    """true: it is JSON. A file or a schema: JSON that fits it (extra `schema`)."""
    regex: str | None = None
    """It matches this pattern from end to end."""

    def __post_init__(self) -> None:
        if not isinstance(self.json, bool):
            object.__setattr__(self, "json", written(self.json))
            _validator(str(self.json))
        if self.regex is not None:
            _compiled(self.regex, "format")

    def __call__(self, example: Example, response: Response) -> float | None:
        said = text(response).strip()
        held: list[float | None] = []
        style = self.style or ("answer" if self.json is False and self.regex is None else None)
        if style == "answer":
            held.append(float(marked_once(said)))
        elif style == "think":
            held.append(matches(f"(?s){_THOUGHT}", said, whole=True))
        if self.json is not False:
            held.append(self._is_json(said))
        if self.regex is not None:
            held.append(matches(self.regex, said, whole=True))
        if 0.0 in held:
            return 0.0
        return None if None in held else 1.0

    def _is_json(self, said: str) -> float:
        if self.json is True:
            return float(whole_value(bare(said)) is not NOTHING)
        return fits(str(self.json), said, whole=True)


AFTER = 40
"""Characters that may follow a marked answer: a full stop, `$`, a closing tag."""


def marked_once(said: str) -> bool:
    """Does a solution end with its one marked answer?"""
    ended = conclusion(said).strip()
    found = marks(ended)
    return len(found) == 1 and bool(found[0][2]) and len(ended) - found[0][1] <= AFTER
