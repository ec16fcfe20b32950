"""Rows that train and are scored on, too: counted before anything trains, whether or not a recipe asks for it.

What a model is scored on must be new to it. A step `decontaminate` in the recipe looks for test items itself; recipes
that have none are looked at here, by the same rules (duplicates/contamination.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier import __version__, cache
from luthier.data.curation.feeds import CuratedFeed
from luthier.data.duplicates.contamination import Hit, Index
from luthier.data.duplicates.rows import digest, item_of, text_of
from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import Feed
from luthier.data.scored import scored_rows
from luthier.data.tally import number
from luthier.errors import LuthierError
from luthier.recipe import Recipe, Task
from luthier.types import Example

LAYOUT = 1
"""Raise it when other rows count as the same."""
BATCH = 4096
SHOWN = 3
STEP = "decontaminate"
MOST = 0.5


@dataclass(frozen=True)
class Overlap:
    """How many of a task's rows stand in rows that train."""

    task: str
    items: int
    """Rows that the task scores."""
    rows: int = 0
    """Rows that train."""
    holding: int = 0
    """Of these, the ones that hold a row of the task."""
    found: Mapping[str, str] = field(default_factory=dict)
    """The task's rows that were found, and the first row that holds each."""
    at_most: float | None = None
    """What the recipe allows."""

    @property
    def share(self) -> float:
        """Of the task's rows, those that train."""
        return len(self.found) / max(self.items, 1)

    @property
    def allowed(self) -> float:
        """The share that is no fault. By default what a score may be off by anyway: of n rows, two standard errors are
        at most 1/√n, and each row that was trained on moves the score by 1/n at most."""
        return min(MOST, 1 / math.sqrt(max(self.items, 1))) if self.at_most is None else self.at_most

    def line(self) -> str:
        """For the ledger."""
        if not self.found:
            return f"{self.task}: none of its {number(self.items)} stands in the {number(self.rows)} that train"
        named = "; ".join(f"{item} in {row}" for item, row in itertools.islice(self.found.items(), SHOWN))
        more = "; …" if len(self.found) > SHOWN else ""
        stand = "stands" if len(self.found) == 1 else "stand"
        return (
            f"{self.task}: {len(self.found):,} of its {number(self.items)} ({self.share:.1%}) {stand} in "
            f"{self.holding:,} of the {number(self.rows)} that train: {named}{more}"
        )

    def check(self) -> None:
        """Raises LuthierError where more of the task's rows train than is allowed: the score would tell what the model
        has learnt by heart."""
        if self.share <= self.allowed:
            return
        item, row = next(iter(self.found.items()))
        raise LuthierError(
            f"{len(self.found):,} of the {number(self.items)} that {self.task!r} scores ({self.share:.1%}) train, too, "
            f"and {self.allowed:.1%} is allowed: the first is {item}",
            where=row,
            fix="leave them out with `steps: [{decontaminate: evaluate}]`, or score on other rows; if it is meant, set "
            "the task's max_overlap",
        )


def overlaps(recipe: Recipe, feeds: Sequence[Feed | CuratedFeed], ledger: Ledger) -> tuple[Overlap, ...]:
    """For each task, how much of it trains, which the ledger tells; nothing where a step of the recipe looks after it.
    Of a stream no more is read than trains. What was found is kept in the cache. Raises LuthierError for rows that are
    not there.
    """
    if any(step.name == STEP and _against(step.args) for step in recipe.steps):
        return ()
    first = recipe.train.steps * recipe.train.batch if recipe.train.steps else None
    found = tuple(_found(task, feeds, first) for task in recipe.evaluate)
    for one in found:
        if not one.items:  # judged by itself: it has no rows with answers
            continue
        if one.found:
            ledger.remarks.append(one.line())
        else:
            ledger.note(one.line())
    return found


def _against(keys: Mapping[str, Any]) -> bool:
    """Does the step look for what the recipe is scored on?"""
    given = keys.get("against", keys.get("", "evaluate"))
    return "evaluate" in ([given] if isinstance(given, str) else list(given))


def _found(task: Task, feeds: Sequence[Feed | CuratedFeed], first: int | None) -> Overlap:
    scored = list(itertools.islice(scored_rows(task), task.limit))
    items = [item_of(example) for example in scored]
    media = [_media(example) for example in scored]
    key = [LAYOUT, __version__, digest(items), media, first, [one.key() for one in feeds]]
    name = hashlib.blake2b(json.dumps(key, default=str).encode(), digest_size=16).hexdigest()
    folder = cache.root() / "overlaps" / name
    if not (folder / "found.json").is_file():
        found = _searched(Index(items), media, feeds, first) if items else (0, 0, {})
        with cache.whole_folder(folder, "what test rows were found") as temporary:
            (temporary / "found.json").write_text(json.dumps(found), encoding="utf-8")
    rows, holding, named = json.loads((folder / "found.json").read_text(encoding="utf-8"))
    where = {items[int(item)].name: row for item, row in named.items()}
    return Overlap(task.name, len(items), rows, holding, where, task.max_overlap)


def _searched(
    index: Index, media: Sequence[Sequence[str]], feeds: Sequence[Feed | CuratedFeed], first: int | None
) -> tuple[int, int, dict[int, str]]:
    """Rows, those that hold an item, and the first row for each item that was found."""
    rows, holding, found = 0, 0, dict[int, str]()
    for one in feeds:
        examples = one.examples(Ledger())  # what is read and left out, another ledger tells
        for batch in _batches(itertools.islice(examples, first if one.entry.streaming else None)):
            hits = [hit for hit in index.search([text_of(row) for row in batch]) if _counts(hit, media, batch)]
            rows, holding = rows + len(batch), holding + len({hit.row for hit in hits})
            for hit in hits:
                found.setdefault(hit.item, str(batch[hit.row].source))
    return rows, holding, found


def _batches(examples: Iterator[Example]) -> Iterator[list[Example]]:
    while batch := list(itertools.islice(examples, BATCH)):
        yield batch


def _counts(hit: Hit, media: Sequence[Sequence[str]], batch: Sequence[Example]) -> bool:
    """The same question about another picture is another question."""
    return not media[hit.item] or bool(set(media[hit.item]) & set(_media(batch[hit.row])))


def _media(example: Example) -> list[str]:
    return [json.dumps(one, sort_keys=True, default=str) for turn in example.prompt for one in turn.media]


__all__ = ["Overlap", "overlaps"]
