"""How likely a model finds an answer: with its question before it, and without.

L(A|Q) is the mean negative log-likelihood of the answer's tokens behind the question, L(A) the same with the question
taken out: system message and tools stay, and in the place of all else stands one empty message of the user's. What a
template writes behind an answer, the end of the turn, is one of its tokens, as it is when the model learns.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from luthier.data.steps.measures import Measure
from luthier.data.steps.step import holding
from luthier.data.steps.tools import LOCAL, Speaking, Tools
from luthier.types import RAW, Encoded, Example, Response, Turn


@dataclass(frozen=True)
class Likelihood(Measure):
    """What is read of a model that says how likely an answer is; of several responses the highest value. Rows that do
    not fit into what the model can read, or of which it scores no token, cannot be measured."""

    wants: ClassVar[frozenset[str]] = frozenset({"engine"})
    speaking: ClassVar[Speaking | None] = None

    model: str | None = None
    """A run or a model. Default: the recipe's."""
    engine: str | dict[str, Any] = LOCAL
    """What it runs in; it must tell likelihoods."""

    def identity(self) -> Any:
        return None if self.speaking is None else self.speaking.identity

    def ready(self, tools: Tools) -> Self:
        return holding(self, speaking=tools.speaker((self.model or "", {"engine": self.engine})))

    def measure(self, batch: Sequence[Example], tools: Tools) -> NDArray[np.float64]:
        assert self.speaking is not None, "a step is made ready before it measures"
        rows = [(n, answered(example, one)) for n, example in enumerate(batch) for one in example.responses]
        found = np.full(len(batch), np.nan)
        for (n, _), value in zip(rows, self.values([row for _, row in rows], self.speaking), strict=True):
            found[n] = np.fmax(found[n], value)
        return found

    @abstractmethod
    def values(self, rows: Sequence[Example], speaking: Speaking) -> list[float]:
        """Of each row, whose one response is the answer, its number; NaN where there is none."""


@dataclass(frozen=True)
class Perplexity(Likelihood):
    """How surprised a model is by the answer to its question: exp L(A|Q); 1 is certainty. The usual ones are low:
    `best: low`, or `min` and `max`."""

    def values(self, rows: Sequence[Example], speaking: Speaking) -> list[float]:
        return [_exp(one) for one in losses(speaking, [encoded(speaking, row) for row in rows])]


@dataclass(frozen=True)
class Tokens(Likelihood):
    """Tokens of the whole row as the model reads it, question and template included; of several responses the longest.
    Rows that are longer than what it can read are measured, too."""

    def values(self, rows: Sequence[Example], speaking: Speaking) -> list[float]:
        return [_tokens(speaking, row) for row in rows]


@dataclass(frozen=True)
class Ifd(Likelihood):
    """Instruction-following difficulty (arXiv:2308.12032): L(A|Q) / L(A), over the very same tokens. Near 1, the
    question helps little to say the answer; above 1 it misleads, and such rows are not taken unless `max` says so.
    The paper's pre-experienced model is a run of yours: `ifd: runs/pre`. Long answers score high: compare with
    `by: length`."""

    most: ClassVar[float | None] = 1.0

    def values(self, rows: Sequence[Example], speaking: Speaking) -> list[float]:
        return [self._of(asked, alone) for asked, alone in both(speaking, rows)]

    def _of(self, asked: float, alone: float) -> float:
        if asked == alone:
            return 1.0
        return asked / alone if alone > 0 else math.nan


@dataclass(frozen=True)
class Superfilter(Ifd):
    """The same as Superfiltering has it (arXiv:2402.00530), asked of a small model: the ratio of perplexities,
    exp(L(A|Q) - L(A))."""

    def _of(self, asked: float, alone: float) -> float:
        return _exp(asked - alone)


def answered(example: Example, response: Response) -> Example:
    """The conversation up to a response's last turn, and that turn as its one answer, without what is known of its
    worth."""
    if all(turn.role == RAW for turn in (*example.prompt, *response.turns)):
        turns, last = example.prompt, response.turns
    else:
        turns, last = (*example.prompt, *response.turns[:-1]), response.turns[-1:]
    weightless = [tuple(replace(turn, weight=None) for turn in some) for some in (turns, last)]
    return Example(weightless[0], (Response(weightless[1]),), tools=example.tools, source=example.source)


def unasked(row: Example) -> Example:
    """The same answer to an empty question. The row itself where its question is empty."""
    question = [turn for turn in row.prompt if turn.role != "system"]
    if not any(turn.text.strip() or turn.calls or turn.media for turn in question):
        return row
    if question[0].role == RAW:
        return replace(row, prompt=())
    kept = tuple(turn for turn in row.prompt if turn.role == "system")
    return replace(row, prompt=(*kept, Turn("user", "")))


def both(speaking: Speaking, rows: Sequence[Example]) -> list[tuple[float, float]]:
    """(L(A|Q), L(A)) of each row, over tokens that are the same in both."""
    pairs = []
    for row in rows:
        other = unasked(row)
        asked = encoded(speaking, row)
        alone = asked if other is row else encoded(speaking, other)
        pairs.append((None, None) if asked is None or alone is None else matched(asked, alone))
    found = losses(speaking, [one for pair in pairs for one in (pair[0], None if pair[1] is pair[0] else pair[1])])
    made = []
    for number, (asked, alone) in enumerate(pairs):
        first = found[2 * number]
        made.append((first, first if alone is asked else found[2 * number + 1]))
    return made


def matched(asked: Encoded, alone: Encoded) -> tuple[Encoded | None, Encoded | None]:
    """Both, scored at the longest end of the answer that has the same tokens in both: behind another text its first
    letters may be joined to other tokens."""
    if alone is asked:
        return asked, asked
    one, other = scored_ids(asked), scored_ids(alone)
    count = min(len(one), len(other))
    same = one[len(one) - count :] == other[len(other) - count :]
    equal = count - (int(np.flatnonzero(~same)[-1]) + 1 if not same.all() else 0)
    return (None, None) if not equal else (_last(asked, equal), _last(alone, equal))


def scored_ids(row: Encoded) -> NDArray[np.int32]:
    """The tokens that are scored."""
    return row.ids[0][np.flatnonzero(row.weights[0])]


def _last(row: Encoded, count: int) -> Encoded:
    weights_T = row.weights[0].copy()
    weights_T[np.flatnonzero(weights_T)[:-count]] = 0.0
    return replace(row, weights=(weights_T,))


def encoded(speaking: Speaking, row: Example) -> Encoded | None:
    """The row as the one sequence of tokens in which its answer is scored. None where there is none, or it is longer
    than the model can read."""
    from luthier.data.encode.rendering import RowFault

    try:
        made = speaking.encode(row)
    except RowFault:
        return None
    scored = [n for n, weights_T in enumerate(made.weights) if weights_T[1:].any()]
    if len(scored) != 1:
        return None
    ids_T = made.ids[scored[0]]
    if speaking.engine.context is not None and len(ids_T) > speaking.engine.context:
        return None
    weights_T = (made.weights[scored[0]] != 0).astype(np.float32)
    weights_T[0] = 0.0  # nothing stands before the first token that could foretell it
    return Encoded((ids_T,), (weights_T,), source=row.source)


def _tokens(speaking: Speaking, row: Example) -> float:
    from luthier.data.encode.rendering import RowFault

    try:
        return float(max(map(len, speaking.encode(row).ids), default=0))
    except RowFault:
        return math.nan


def whole(speaking: Speaking, example: Example) -> Encoded | None:
    """What a row says as tokens, the first response behind its prompt, cut to what the model can read. None where it
    cannot be rendered."""
    from luthier.data.encode.rendering import RowFault

    try:
        if not example.responses:
            return prompted(speaking, example.prompt, example.tools)
        made = speaking.encode(answered(example, example.responses[0]))
    except RowFault:
        return None
    return _readable(made.ids[-1], speaking.engine.context)


def prompted(speaking: Speaking, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> Encoded:
    """What is asked, as tokens."""
    return _readable(np.array(speaking.prompt(turns, tools), np.int32), speaking.engine.context)


def _readable(ids_T: NDArray[np.int32], context: int | None) -> Encoded:
    ids_T = ids_T[:context]
    weights_T = np.ones(len(ids_T), np.float32)
    weights_T[:1] = 0.0
    return Encoded((ids_T,), (weights_T,))


def losses(speaking: Speaking, rows: Sequence[Encoded | None]) -> list[float]:
    """The mean negative log-likelihood of each row's scored tokens, in nats; NaN where there is no row."""
    known = [row for row in rows if row is not None]
    found = iter(speaking.engine.logprobs(known) if known else ())
    return [math.nan if row is None else -float(np.mean(next(found), dtype=np.float64)) for row in rows]


def _exp(value: float) -> float:
    return math.nan if math.isnan(value) else float(np.exp(min(value, 700.0)))  # beyond, fp64 has no number for it


__all__ = [
    "Ifd",
    "Likelihood",
    "Perplexity",
    "Superfilter",
    "Tokens",
    "answered",
    "both",
    "encoded",
    "losses",
    "matched",
    "prompted",
    "unasked",
    "whole",
]
