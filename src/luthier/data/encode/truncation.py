"""Rows longer than train.max_tokens: refused, left out, cut behind a turn, or, where responses are judged, in one.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from luthier import columns
from luthier.data.encode.mask import Tokens
from luthier.data.encode.tokenised import LossOn, Tokenised
from luthier.data.ledger import Ledger
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.types import Needs, Source

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
    loss_on: LossOn
    dedup: bool
    context: int | None = None
    """The longest row that the model can read; None where that is not known."""

    @classmethod
    def of(cls, recipe: Recipe, needs: Needs, context: int | None = None) -> Rules:
        """The recipe's rules; an objective may say itself which tokens train."""
        train = recipe.train
        return cls(train.max_tokens, train.long_rows, needs.loss_on or train.loss_on, train.dedup, context)

    def longer(self, length: int) -> str:
        """What to do about rows of at most `length` tokens that are cut: never more than the model can read."""
        if self.context is None or self.context <= 0 or length <= self.context:
            return "raise train.max_tokens"
        if self.max_tokens < self.context:
            return f"raise train.max_tokens, to {self.context} at most, which is the model's context"
        return f"shorten them, for the model's context is {self.context:,} tokens"


@dataclass
class Truncation:
    """Fits rows to train.max_tokens and remembers those that do not fit."""

    rules: Rules
    too_long: int = 0
    longest: int = 0
    first: Source | None = None
    judged: bool = False
    """Was one of them judged?"""

    def fit(self, tokenised: Tokenised, ledger: Ledger, source: Source) -> list[Tokenised] | str:
        """The row as it is, in parts, cut behind a turn or in a response, or the reason why it is dropped."""
        limit = self.rules.max_tokens
        if "reward" in tokenised.columns:
            distinct = _distinct(tokenised)
            if distinct is None:
                return EQUAL
            tokenised = distinct
        length = max(len(tokens.ids_T) for tokens in tokenised.sequences)
        if length <= limit:
            return [tokenised]
        if tokenised.text:
            ledger.split += 1
            parts = [part for part in _split(tokenised.sequences[0], limit) if part.weights_T.any()]
            return [replace(tokenised, sequences=[part]) for part in parts]
        if self.rules.long_rows == "error":
            self.too_long, self.longest, self.first = self.too_long + 1, max(self.longest, length), self.first or source
            self.judged = self.judged or not tokenised.turns
            return f"longer than train.max_tokens={limit}"
        if self.rules.long_rows == "drop":
            return f"longer than train.max_tokens={limit} (train.long_rows: drop)"
        cut = _cut_behind_turn(tokenised, limit) if tokenised.turns else _cut_in_response(tokenised, limit)
        if isinstance(cut, str):
            ledger.unscored += cut != CUT_EQUAL
            return cut
        if tokenised.turns:
            ledger.truncated += 1
        else:
            ledger.cut += 1
        ledger.steps_lost += _steps(tokenised) - _steps(cut)
        return [cut]

    def complain(self, ledger: Ledger) -> None:
        """Raises LuthierError for rows that are too long, if the recipe calls that an error."""
        if self.too_long:
            how = "cuts responses at their end" if self.judged else "keeps whole turns"
            raise LuthierError(
                f"{self.too_long:,} of {ledger.rows_read:,} rows are longer than "
                f"train.max_tokens={self.rules.max_tokens} (the longest has {self.longest:,} tokens)",
                where=str(self.first),
                fix=f"{self.rules.longer(self.longest)}, or set train.long_rows to truncate ({how}) or drop",
            )


def _steps(tokenised: Tokenised) -> int:
    """How many judged steps it has."""
    return sum(map(len, tokenised.columns.get("step_reward", ())))


def _split(tokens: Tokens, limit: int) -> list[Tokens]:
    """A plain text in parts of at most `limit` tokens, each token in exactly one."""
    parts = []
    for start in range(0, len(tokens.ids_T), limit):
        weights_T = tokens.weights_T[start : start + limit].copy()
        weights_T[:1] = 0  # nothing predicts a part's first token
        parts.append(Tokens(tokens.ids_T[start : start + limit], weights_T, []))
    return parts


def _cut_behind_turn(tokenised: Tokenised, limit: int) -> Tokenised | str:
    """Each sequence up to its last scored turn that ends within `limit`, those without one left out."""
    ends = [max((end for end in tokens.ends if end <= limit), default=0) for tokens in tokenised.sequences]
    kept = [i for i, end in enumerate(ends) if end]
    return _cut(tokenised, kept, [ends[i] for i in kept]) if kept else NO_ROOM


def _cut_in_response(tokenised: Tokenised, limit: int) -> Tokenised | str:
    """Each response up to `limit`, and where steps are judged up to the last whole one; all of the prompt is kept.

    A response that is cut does not train its end token: the model is not taught to stop there.
    """
    lengths = []
    stepwise = "step_reward" in tokenised.columns
    for tokens in tokenised.sequences:
        end = min(limit, len(tokens.ids_T))
        if stepwise and end < len(tokens.ids_T):
            steps = [place for place in tokens.steps if place < limit]
            if not steps:
                return NO_STEP
            end = steps[-1] + 1
        if not tokens.weights_T[:end].any():
            return LONG_PROMPT
        lengths.append(end)
    cut = _cut(tokenised, range(len(lengths)), lengths)
    distinct = _distinct(cut) if "reward" in cut.columns else cut
    return CUT_EQUAL if distinct is None else distinct


def _cut(tokenised: Tokenised, kept: Sequence[int], lengths: Sequence[int]) -> Tokenised:
    """These sequences, cut to these lengths, with all that is known of what is left."""
    sequences = []
    for i, length in zip(kept, lengths, strict=True):
        tokens = tokenised.sequences[i]
        ends = [end for end in tokens.ends if end <= length]
        steps = [place for place in tokens.steps if place < length]
        sequences.append(Tokens(tokens.ids_T[:length], tokens.weights_T[:length], ends, steps))
    known = columns.cut(columns.pick(tokenised.columns, kept), lengths)
    return replace(tokenised, sequences=sequences, columns=known)


def _distinct(tokenised: Tokenised) -> Tokenised | None:
    """The example without responses that are the same tokens as one before them but have another reward.

    None when no two responses with different rewards are left of several. The example itself when all differ.
    """
    kept: list[int] = []
    rewards = tokenised.columns["reward"]
    for i, tokens in enumerate(tokenised.sequences):
        same = [k for k in kept if np.array_equal(tokenised.sequences[k].ids_T, tokens.ids_T)]
        if not same or rewards[same[0]] == rewards[i]:
            kept.append(i)
    if len(kept) == len(tokenised.sequences):
        return tokenised
    if len({rewards[i] for i in kept if not math.isnan(rewards[i])}) < 2:
        return None
    sequences = [tokenised.sequences[i] for i in kept]
    return replace(tokenised, sequences=sequences, columns=columns.pick(tokenised.columns, kept))


__all__ = ["EQUAL", "Rules", "Truncation"]
