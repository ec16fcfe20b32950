"""What all shapes share: checked access to a row's columns, and the fault of a row that cannot be read."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar

from luthier.types import Example

Row = Mapping[str, Any]

NEAR: dict[str, tuple[str, ...]] = {
    "prompt": (
        "question",
        "query",
        "input",
        "instruction",
        "user",
        "human",
        "source",
        "q",
        "request",
        "problem",
        "context",
        "questions",
        "prompts",
        "message",
    ),
    "completion": (
        "answer",
        "response",
        "output",
        "reply",
        "target",
        "assistant",
        "bot",
        "a",
        "solution",
        "label",
        "answers",
        "responses",
        "completions",
        "replies",
    ),
    "answer": ("response", "reply", "solution", "target", "output"),
    "instruction": ("prompt", "question", "query", "task", "command"),
    "output": ("response", "completion", "answer", "reply", "target"),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns", "conversations"),
    "conversations": ("conversation", "dialog", "dialogue", "chat", "turns"),
    "chosen": ("preferred", "better", "winner", "accepted", "good"),
    "rejected": ("dispreferred", "worse", "loser", "bad"),
    "text": ("content", "document", "body", "article", "passage", "story", "sentence"),
    "responses": ("completions", "candidates", "answers", "outputs", "generations"),
    "scores": ("ratings", "rewards", "score", "rating"),
    "ranks": ("ranking", "ranks", "rank", "order"),
    "label": ("tag", "thumb", "rating", "is_correct"),
}
"""What people call a column, for the hint in the error of unknown columns."""


class BadRow(ValueError):
    """This row cannot be read. The message is the ledger's reason: short, and the same for all rows with the fault."""

    def __init__(self, reason: str, fix: str | None = None) -> None:
        super().__init__(reason)
        self.fix = fix
        """What to do, where the reason does not say it."""


class Shape(ABC):
    """A row shape. `needs`: for each required column the names it may have. `gives` says what becomes of a row."""

    needs: ClassVar[tuple[tuple[str, ...], ...]]
    optional: ClassVar[tuple[str, ...]] = ()
    gives: ClassVar[str] = ""
    published: ClassVar[bool] = False
    """Is it the shape of one data set? Then unknown columns are not likened to it."""

    def matches(self, columns: frozenset[str]) -> bool:
        """Are all required columns there?"""
        return all(any(name in columns for name in names) for names in self.needs)

    @abstractmethod
    def read(self, row: Row) -> Example:
        """The row as an Example. Raises BadRow."""

    def variants(self) -> list[tuple[str, ...]]:
        """The sets of required columns, the usual one first."""
        return list(product(*self.needs))


def kind(value: Any) -> str:
    """The type of a value in the user's words."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    words: dict[type, str] = {str: "text", list: "a list", dict: "an object", tuple: "a list"}
    return words.get(type(value), type(value).__name__)


def column(row: Row, *names: str) -> str:
    """The first of these columns that the row has."""
    return next((name for name in names if name in row), names[0])


def not_text(value: Any, name: str) -> BadRow:
    """The fault of a value that should be text. How a number is spelt that trains is not for us to choose."""
    said = isinstance(value, bool | int | float)
    return BadRow(f"{name!r} is {kind(value)}, not text", "write it as text, as it is to be said" if said else None)


def text(row: Row, *names: str) -> str:
    """The text in the first of these columns that the row has. Raises BadRow when it is no text."""
    name = column(row, *names)
    value = row.get(name)
    if not isinstance(value, str):
        raise not_text(value, name)
    return value


def filled(row: Row, *names: str) -> str:
    """Like `text`, and it must not be empty."""
    value = text(row, *names)
    if not value.strip():
        raise BadRow(f"{column(row, *names)!r} is empty")
    return value


def optional_text(row: Row, *names: str) -> str:
    """Like `text`; '' when the column is absent or null."""
    return text(row, *names) if row.get(column(row, *names)) is not None else ""


def answered(value: Any) -> str | None:
    """A known answer: a text, or a number as JSON spells it (4, 3.0). None where it is absent, null or empty.

    Raises BadRow for anything else: a model's words for true or false may be any.
    """
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(
            f"'answer' is {kind(value)}, not text or a number",
            fix="write the answer as the text that the model should give",
        )
    if not math.isfinite(value):
        raise BadRow("'answer' is not finite")
    return json.dumps(value)


def parsed(value: Any, name: str) -> Any:
    """The value, or what it says as JSON when it is text (as in CSV cells and ShareGPT's tools). Raises BadRow."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise BadRow(f"{name!r} is text, but not JSON") from error
    except RecursionError:
        raise BadRow(f"{name!r} is JSON that is nested too deeply") from None


def listed(row: Row, *names: str) -> list[Any]:
    """The list in the first of these columns that the row has. Raises BadRow when it is no list or empty."""
    name = column(row, *names)
    value = parsed(row.get(name), name)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise BadRow(f"{name!r} is {kind(value)}, not a list")
    if not value:
        raise BadRow(f"{name!r} is an empty list")
    return list(value)


def number(value: Any, name: str) -> float:
    """A finite number, also as the text of a CSV cell. Raises BadRow."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise BadRow(f"{name!r} is text, not a number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f"{name!r} is {kind(value)}, not a number")
    if not math.isfinite(value):
        raise BadRow(f"{name!r} is not finite")
    return float(value)


def truth(value: Any, name: str) -> bool:
    """A label as true or false; 0, 1 and the words of CSV files count (a column with gaps has 1.0). Raises BadRow."""
    words = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    other = "another text" if isinstance(value, str) and value.strip() else kind(value)
    raise BadRow(f"{name!r} is {other}, not true or false (allowed: true, false, 1, 0, also as text)")
