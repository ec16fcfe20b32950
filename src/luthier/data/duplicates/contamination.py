"""Rows that hold what the model will be tested on.

A row holds a test item if `WORDS` words of the item's question (of Chinese, as many signs) stand in it, one after the
other. A shorter question must stand in it whole, and with it the item's answer, unless the row asks that question and
nothing else; one of fewer than `TELLING` words counts only with both. An answer alone never counts: many are "yes",
"B" or "Paris". Spacing, case, width and punctuation do not matter (units.py). What the questions of more than `OFTEN`
items share, `SHARED` words in a row or more, is how the test is worded, and no leak: most of the `WORDS` must be the
item's own, where it has as many.

Shapes: N rows, I items, U units, G n-grams of the index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import units
from luthier.data.duplicates.shingles import Text
from luthier.data.duplicates.units import Hashes
from luthier.data.tally import number
from luthier.errors import LuthierError

WORDS = 13
TELLING = 5
OFTEN = 10
SHARED = 4
SHOWN = 3
FILTER = 1 << 24
"""Places of a table that tells most n-grams to be none of the index, before it is searched."""


class Item(NamedTuple):
    """A test item. `name` says which: a task or file, and the row in it."""

    name: str
    question: str
    answer: str = ""


class Hit(NamedTuple):
    """A row of those asked about holds an item of the index. `text` is what the two have in common, as the row has
    it."""

    row: int
    item: int
    text: str


class Index:
    """Test items, found by the n-grams of their questions."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.items = tuple(items)
        asked = [item.question for item in items]
        questions = units.of(asked, symbols=False)
        self._asked, self._at_U = "\n".join(asked), questions.at_U
        answers = units.of([item.answer for item in items], symbols=False)
        self._answers = [answers.hashes_U[a : min(a + WORDS, b)] for a, b in _pairs(answers.starts)]
        self._lengths_I = np.diff(questions.starts)
        grams_G, of_G, at_G = self._grams(questions)
        self.unsearchable = tuple(np.setdiff1d(np.arange(len(items)), of_G).tolist())
        """Items whose question has no word, or that many others ask, too: no row can be said to hold them."""
        order = np.argsort(grams_G, kind="stable")
        self._grams_G, self._of_G, self._at_G = grams_G[order], of_G[order], at_G[order]
        self._widths = [int(width) for width in np.unique(np.minimum(self._lengths_I[self._of_G], WORDS))]

    @cached_property
    def _filter(self) -> NDArray[np.bool_]:
        filled = np.zeros(FILTER, np.bool_)
        filled[self._grams_G & np.uint64(FILTER - 1)] = True
        return filled

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which fills a table of its own."""
        return {name: value for name, value in vars(self).items() if name != "_filter"}

    def _grams(self, questions: units.Units) -> tuple[Hashes, NDArray[np.int64], NDArray[np.int64]]:
        """The n-grams that tell an item, the item of each, and where it begins in the questions."""
        at, owner, hashes = _windows(questions.hashes_U, questions.starts, WORDS)
        grams, of, begins = [hashes[at]], [owner], [at]
        own = self._own(at, questions)
        most_I = np.zeros(len(self.items), np.int64)
        np.maximum.at(most_I, owner, own)
        telling = own >= np.clip(most_I[owner], 1, WORDS // 2 + 1)
        grams[0], of[0], begins[0] = grams[0][telling], owner[telling], at[telling]
        for width in range(1, WORDS):
            at, owner, hashes = _windows(questions.hashes_U, questions.starts, width)
            whole = self._lengths_I[owner] == width
            rare = _askers(hashes[at[whole]], owner[whole]) <= OFTEN
            grams.append(hashes[at[whole]][rare])
            of.append(owner[whole][rare])
            begins.append(at[whole][rare])
        return np.concatenate(grams), np.concatenate(of), np.concatenate(begins)

    @staticmethod
    def _own(at: NDArray[np.int64], questions: units.Units) -> NDArray[np.int64]:
        """How many units of each n-gram are the item's own: no part of `SHARED` units in a row that many items have."""
        short, owner, hashes = _windows(questions.hashes_U, questions.starts, SHARED)
        often = short[_askers(hashes[short], owner) > OFTEN]
        shared_U = np.zeros(len(questions.hashes_U) + 1, np.int64)
        np.add.at(shared_U, often, 1)
        np.add.at(shared_U, often + SHARED, -1)
        own_U = np.concatenate([[0], np.cumsum(np.cumsum(shared_U[:-1]) == 0)])
        return own_U[at + WORDS] - own_U[at]

    def search(self, texts: Sequence[Text]) -> list[Hit]:
        """Which rows hold which items, by rows; an item once a row."""
        hits: list[Hit] = []
        for part in units.batches([text.size for text in texts]):
            hits.extend(hit._replace(row=hit.row + part.start) for hit in self._batch(texts[part]))
        return hits

    def _batch(self, texts: Sequence[Text]) -> Iterator[Hit]:
        parts = [part for text in texts for part in (text.prompt, *text.answers)]
        first_N = np.cumsum([0] + [1 + len(text.answers) for text in texts])
        found = units.of(parts, symbols=False)
        starts_N = found.starts[first_N]
        asked_N = found.starts[first_N[:-1] + 1] - starts_N[:-1]
        said = "\n".join(parts)
        met: dict[tuple[int, int], tuple[int, int]] = {}
        for width in self._widths:
            at, row, hashes = _windows(found.hashes_U, starts_N, width, self._filter)
            left = np.searchsorted(self._grams_G, hashes[at], "left")
            right = np.searchsorted(self._grams_G, hashes[at], "right")
            for i in np.flatnonzero(right > left):
                for gram in range(int(left[i]), int(right[i])):
                    key = int(row[i]), int(self._of_G[gram])
                    if key not in met and min(self._lengths_I[key[1]], WORDS) == width:
                        theirs = _span(self._asked, self._at_U, int(self._at_G[gram]), width)
                        if _alike(theirs, _span(said, found.at_U, int(at[i]), width)):
                            met[key] = int(at[i]), width
        for (n, item), (begins, width) in sorted(met.items()):
            own_U = found.hashes_U[starts_N[n] : starts_N[n + 1]]
            if self._counts(item, own_U, bool(asked_N[n] == width)):
                yield Hit(n, item, _between(said, found, begins, width))

    def _counts(self, item: int, own_U: Hashes, nothing_else: bool) -> bool:
        """Does a row hold the item, whose question (or n-gram) stands in it? `nothing_else`: its prompt is as short."""
        answer = self._answers[item]
        length = int(self._lengths_I[item])
        if length >= WORDS:
            return True
        answered = _holds(own_U, answer) if len(answer) else nothing_else or length >= TELLING
        return answered and nothing_else if length < TELLING else answered or nothing_else


@dataclass
class Leaks:
    """What a search over many rows has found."""

    index: Index
    rows: int = 0
    hit: int = 0
    """Rows that hold at least one item."""
    items: dict[int, str] = field(default_factory=dict)
    """The items that were found, and the first row that holds each."""

    def add(self, rows: Sequence[str], hits: Sequence[Hit]) -> None:
        """Counts the hits of a batch, whose rows are called so (file and line)."""
        self.hit += len({hit.row for hit in hits})
        for hit in hits:
            self.items.setdefault(hit.item, rows[hit.row])

    @property
    def share(self) -> float:
        """The share of the test items that stand in the rows."""
        return len(self.items) / max(len(self.index.items), 1)

    def lines(self) -> tuple[str, ...]:
        """What was found, for people."""
        found = f"{len(self.items):,} of {len(self.index.items):,} test items ({self.share:.1%}) stand in"
        told = [f"{found} {self.hit:,} of {number(self.rows)}"]
        for item, row in list(self.items.items())[:SHOWN]:
            told.append(f"{self.index.items[item].name} stands in {row}")
        if self.index.unsearchable:
            first = self.index.items[self.index.unsearchable[0]].name
            told.append(
                f"{len(self.index.unsearchable):,} test items cannot be looked for: their questions have no words of "
                f"their own; the first is {first}"
            )
        return tuple(told)

    def check(self, at_most: float) -> None:
        """Raises LuthierError where a larger share of the items was found: their scores would not be worth telling."""
        if self.share <= at_most or not self.items:
            return
        item, row = next(iter(self.items.items()))
        raise LuthierError(
            f"{len(self.items):,} of {len(self.index.items):,} test items ({self.share:.1%}) stand in rows to train "
            f"on, more than {at_most:.1%}; the first is {self.index.items[item].name}",
            where=row,
            fix="drop these rows with the step `decontaminate`, or score on other rows",
        )


def _askers(grams: Hashes, owner: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many items each n-gram stands in."""
    order = np.lexsort((owner, grams))
    known, of = grams[order], owner[order]
    new = np.ones(len(known), np.bool_)
    new[1:] = known[1:] != known[:-1]
    once = new.copy()
    once[1:] |= of[1:] != of[:-1]
    counts = np.empty(len(known), np.int64)
    if len(known):
        counts[order] = np.add.reduceat(once.astype(np.int64), np.flatnonzero(new))[np.cumsum(new) - 1]
    return counts


def _pairs(starts: NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True))


def _windows(
    hashes_U: Hashes, starts: NDArray[np.int64], width: int, wanted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], Hashes]:
    """The places where a window of so many units lies within one text, the text of each, and the hashes of all windows.
    Only those that the table of `wanted` does not rule out."""
    hashes = units.windows(hashes_U, width)
    at = np.arange(len(hashes)) if wanted is None else np.flatnonzero(wanted[hashes & np.uint64(FILTER - 1)])
    text = np.searchsorted(starts, at, "right") - 1
    inside = at + width <= starts[text + 1]
    return at[inside], text[inside], hashes


def _holds(own_U: Hashes, sought_U: Hashes) -> bool:
    """Do these units stand among the others, one after the other?"""
    windows = (
        np.lib.stride_tricks.sliding_window_view(own_U, len(sought_U)) if len(own_U) >= len(sought_U) else own_U[:0]
    )
    return bool(len(windows) and (windows == sought_U).all(axis=1).any())


def _span(text: str, at_U: NDArray[np.int64], first: int, width: int) -> str:
    """So many units of the text, up to the first sign of the last."""
    return text[int(at_U[first]) : int(at_U[first + width - 1]) + 1]


def _alike(one: str, other: str) -> bool:
    """Do two stretches of the same words have the same symbols, too? a + b = b + a is no theorem like a * b = b * a."""
    found = units.of([one, other])
    return bool(np.array_equal(found.hashes_U[: found.starts[1]], found.hashes_U[found.starts[1] :]))


def _between(text: str, found: units.Units, first: int, width: int) -> str:
    last = first + width
    return text[found.at_U[first] : found.at_U[last] if last < len(found.at_U) else len(text)].strip()
