"""What steps go by that a row does not say in words: a column of its file, or what can be counted of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from luthier.data.cleaning.language import UNKNOWN, language
from luthier.data.steps.said import answers, words
from luthier.data.steps.step import Reread
from luthier.errors import LuthierError
from luthier.types import RAW, Example

MADE = "made"
SHOWN = 12


def _kind(example: Example) -> str:
    if not example.responses:
        return "task"
    if all(turn.role == RAW for turn in (*example.prompt, *example.responses[0].turns)):
        return "text"
    if len(example.responses) > 1:
        return "compared"
    if example.responses[0].reward is not None:
        return "judged"
    return "conversation" if _turns(example) > 2 else "question"


def _turns(example: Example) -> int:
    said = example.responses[0].turns if example.responses else ()
    return sum(turn.role != "system" for turn in (*example.prompt, *said))


def _answer(example: Example) -> str | None:
    return example.answer if example.answer is not None else next(iter(answers(example)), None)


def _language(example: Example) -> str | None:
    found = language("\n".join([*(turn.text for turn in example.prompt), *answers(example)]))
    return None if found.code == UNKNOWN.code else found.code


COUNTED: Mapping[str, Callable[[Example], Any]] = {
    "reward": lambda row: max((one.reward for one in row.responses if one.reward is not None), default=None),
    "answer": _answer,
    "turns": _turns,
    "words": lambda row: max(map(words, answers(row)), default=None),
    "length": lambda row: max(map(len, answers(row)), default=None),
    "responses": lambda row: len(row.responses),
    "language": _language,
    "kind": _kind,
    "file": lambda row: None if row.source is None else row.source.path,
    "step": lambda row: row.meta.get(MADE, {}).get("by"),
}
"""What every row has: `kind` is question, conversation, text, task, judged or compared; `step` made the row."""


def value(example: Example, name: str) -> Any:
    """What a row has of this name: a column of its file, else what can be counted of it; None where there is none."""
    if name in example.meta and name != MADE:
        return example.meta[name]
    counted = COUNTED.get(name)
    return None if counted is None else counted(example)


def number(example: Example, name: str) -> float:
    """The same as a number, also one that a table has as text; NaN where it is none."""
    found = value(example, name)
    if isinstance(found, str):
        try:
            found = float(found)
        except ValueError:
            return math.nan
    return float(found) if isinstance(found, int | float) and not isinstance(found, bool) else math.nan


def of_files(names: frozenset[str]) -> frozenset[str]:
    """Those that are to be taken along from the rows' files: all that are not the answers' own."""
    return names - {"reward", "answer"}


def there(rows: Reread) -> str:
    """What rows have, for people: the columns of the first one's file, and what can be counted of all."""
    names = [*_columns(rows), *COUNTED]
    more = ", …" if len(names) > SHOWN + len(COUNTED) else ""
    return ", ".join(dict.fromkeys([*names[: len(names) - len(COUNTED)][:SHOWN], *COUNTED])) + more


def _columns(rows: Reread) -> tuple[str, ...]:
    """Of the first row's file; none where it cannot be read again by itself."""
    from luthier.data.reading.feeds import feed
    from luthier.recipe import Source as Entry

    if not len(rows):
        return ()
    try:
        return feed(Entry(path=rows.source(0).path)).columns()
    except LuthierError:
        return ()


__all__ = ["COUNTED", "number", "of_files", "there", "value"]
