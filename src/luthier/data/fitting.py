"""Rows longer than train.max_tokens: refused, left out, cut behind a turn, or, where responses are judged, in one.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from luthier.data.ledger import Ledger
from luthier.data.mask import Tokens
from luthier.data.template import Coded, Score
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.types import Source

NO_ROOM = "no scored token is left within train.max_tokens"
LONG_PROMPT = "its prompt alone is as long as train.max_tokens, so nothing of a response is left"
NO_STEP = "not one whole step is left within train.max_tokens"
EQUAL = "its responses are the same tokens, so none is better than another"
CUT_EQUAL = "its responses differ only behind train.max_tokens, so nothing of the difference is left"


@dataclass(frozen=True)
class Rules:
    """What of a recipe decides how a row becomes tokens."""

    max_tokens: int
    long_rows: Literal["error", "drop", "truncate"]
    score: Score
    dedup: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Rules:
        """The recipe's rules. Pre-training scores every token."""
        train = recipe.train
        score: Score = "all" if recipe.objective.name == "pretrain" else train.score
        return cls(train.max_tokens, train.long_rows, score, train.dedup)


@dataclass
class Fitting:
    """Fits rows to train.max_tokens and remembers those that do not fit."""

    rules: Rules
    too_long: int = 0
    longest: int = 0
    first: Source | None = None
    judged: bool = False
    """Was one of them judged?"""

    def fit(self, coded: Coded, ledger: Ledger, source: Source) -> list[Coded] | str:
        """The row as it is, in parts, cut behind a turn or in a response, or the reason why it is dropped."""
        limit = self.rules.max_tokens
        if coded.scores and (told := _distinct(coded)) is not coded:
            if told is None:
                return EQUAL
            coded = told
        length = max(len(tokens.ids_T) for tokens in coded.sequences)
        if length <= limit:
            return [coded]
        if coded.text:
            ledger.split += 1
            parts = [part for part in _split(coded.sequences[0], limit) if part.weights_T.any()]
            return [replace(coded, sequences=[part]) for part in parts]
        if self.rules.long_rows == "error":
            self.too_long, self.longest, self.first = self.too_long + 1, max(self.longest, length), self.first or source
            self.judged = self.judged or not coded.turns
            return f"longer than train.max_tokens={limit}"
        if self.rules.long_rows == "drop":
            return f"longer than train.max_tokens={limit} (train.long_rows: drop)"
        cut = _cut_behind_turn(coded, limit) if coded.turns else _cut_in_response(coded, limit)
        if isinstance(cut, str):
            ledger.unscored += cut != CUT_EQUAL
            return cut
        if coded.turns:
            ledger.truncated += 1
        else:
            ledger.cut += 1
        ledger.steps_lost += sum(map(len, coded.labels)) - sum(map(len, cut.labels))
        return [cut]

    def complain(self, ledger: Ledger) -> None:
        """Raises LuthierError for rows that are too long, if the recipe calls that an error."""
        if self.too_long:
            how = "cuts responses at their end" if self.judged else "keeps whole turns"
            raise LuthierError(
                f"{self.too_long:,} of {ledger.rows_read:,} rows are longer than "
                f"train.max_tokens={self.rules.max_tokens} (the longest has {self.longest:,} tokens)",
                where=str(self.first),
                fix=f"raise train.max_tokens, or set train.long_rows to truncate ({how}) or drop",
            )


def _split(tokens: Tokens, limit: int) -> list[Tokens]:
    """A plain text in parts of at most `limit` tokens, each token in exactly one."""
    parts = []
    for start in range(0, len(tokens.ids_T), limit):
        weights_T = tokens.weights_T[start : start + limit].copy()
        weights_T[:1] = 0  # nothing predicts a part's first token
        parts.append(Tokens(tokens.ids_T[start : start + limit], weights_T, []))
    return parts


def _cut_behind_turn(coded: Coded, limit: int) -> Coded | str:
    """Each sequence up to its last scored turn that ends within `limit`, those without one left out."""
    kept = []
    for tokens in coded.sequences:
        ends = [end for end in tokens.ends if end <= limit]
        if ends:
            kept.append(Tokens(tokens.ids_T[: ends[-1]], tokens.weights_T[: ends[-1]], ends))
    return replace(coded, sequences=kept) if kept else NO_ROOM


def _cut_in_response(coded: Coded, limit: int) -> Coded | str:
    """Each response up to `limit`, and where steps are judged up to the last whole one; all of the prompt is kept.

    A response that is cut does not train its end token: the model is not taught to stop there.
    """
    sequences, labels = [], []
    for i, tokens in enumerate(coded.sequences):
        end = min(limit, len(tokens.ids_T))
        steps = [place for place in tokens.steps if place < limit]
        if coded.labels and end < len(tokens.ids_T):
            if not steps:
                return NO_STEP
            end = steps[-1] + 1
        if not tokens.weights_T[:end].any():
            return LONG_PROMPT
        sequences.append(Tokens(tokens.ids_T[:end], tokens.weights_T[:end], [], steps))
        labels.append(coded.labels[i][: len(steps)] if coded.labels else ())
    cut = replace(coded, sequences=sequences, labels=tuple(labels) if coded.labels else ())
    told = _distinct(cut) if cut.scores else cut
    return CUT_EQUAL if told is None else told


def _distinct(coded: Coded) -> Coded | None:
    """The example without responses that are the same tokens as one before them but have another score.

    None when no two responses with different scores are left of several. The example itself when all differ.
    """
    kept: list[int] = []
    for i, tokens in enumerate(coded.sequences):
        same = [k for k in kept if np.array_equal(coded.sequences[k].ids_T, tokens.ids_T)]
        if not same or coded.scores[same[0]] == coded.scores[i]:
            kept.append(i)
    if len(kept) == len(coded.sequences):
        return coded
    scores = tuple(coded.scores[i] for i in kept)
    if len({score for score in scores if not math.isnan(score)}) < 2:
        return None
    labels = tuple(coded.labels[i] for i in kept) if coded.labels else ()
    return replace(coded, sequences=[coded.sequences[i] for i in kept], scores=scores, labels=labels)


__all__ = ["EQUAL", "Fitting", "Rules"]
