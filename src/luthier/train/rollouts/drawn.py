"""What a rollout holds: prompts that were drawn, their answers, and what these were worth.

Shape suffixes: T = sampled tokens of one answer, the stop token among them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from luthier.data import Prompt
from luthier.errors import LuthierError
from luthier.types import Completion, Response, Turn

Floats = NDArray[np.float32]
Parts = Mapping[str, float | None]
"""What each scorer said, by the name it is reported under; None: it could not say."""


@dataclass(frozen=True)
class Answer:
    """One answer as it was drawn. `ids`: the very tokens, the stop token among them."""

    ids: tuple[int, ...]
    logp_T: Floats
    """Of each token under the distribution that it was drawn from."""
    text: str
    finish: str

    @property
    def cut(self) -> bool:
        """Did it end because it was too long?"""
        return self.finish == "length"

    @classmethod
    def of(cls, completion: Completion, where: str) -> Answer:
        """What an engine gave. Raises LuthierError where it does not tell the tokens and how likely they were."""
        likely = completion.drawn or completion.logprobs
        if not completion.sampled or len(likely) != len(completion.sampled):
            raise LuthierError(
                "the engine does not tell which tokens it drew and how likely they were, and nothing can be learnt "
                "from an answer without that: its text, read anew, may be other tokens",
                where=where,
                fix="take rollout.engine=local, or an endpoint that tells both of what it is asked by token ids "
                "(luthier serve, vLLM); or learn from its answers as rows: `luthier generate`, then select, then sft "
                "or dpo (docs/pipelines.md)",
            )
        if not all(math.isfinite(one) for one in likely):
            raise LuthierError(
                "the engine says of a token that it drew that it was impossible (a log-probability that is no finite "
                "number)",
                where=where,
                fix="let it tell log-probabilities as drawn, before top_p, top_k and other cuts",
            )
        return cls(completion.sampled, np.array(likely, np.float32), completion.text, completion.finish)

    def response(self) -> Response:
        """As scorers see it."""
        logp = tuple(self.logp_T.tolist())
        return Response((Turn("assistant", self.text),), by="policy", ids=self.ids, logp=logp)


@dataclass
class Group:
    """A prompt that was drawn, and all answers to it. `place`: in the run's endless order of prompts; it tells the
    draws of one prompt apart."""

    place: int
    position: int
    """Which of the prompts it is."""
    prompt: Prompt
    answers: list[Answer] = field(default_factory=list)
    parts: list[Parts] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    """What each answer is worth; NaN where nothing could be said."""
    right: list[bool | None] = field(default_factory=list)
    """What the first scorer says is right; None where it cannot say, or speaks of no right and wrong."""
    first: list[float | None] = field(default_factory=list)
    """The first scorer's own score."""
    rivals: int = 0
    """So many of the answers, the last ones, were drawn by another policy."""

    @property
    def own(self) -> slice:
        """Those of its answers that the policy drew itself."""
        return slice(0, len(self.answers) - self.rivals)

    def of(self, indices: Sequence[int]) -> Group:
        """The same with these of its answers alone, in their order."""
        return replace(
            self,
            answers=[self.answers[i] for i in indices],
            parts=[self.parts[i] for i in indices if self.parts],
            rewards=[self.rewards[i] for i in indices if self.rewards],
            right=[self.right[i] for i in indices if self.right],
            first=[self.first[i] for i in indices if self.first],
            rivals=sum(i >= self.own.stop for i in indices),
        )

    @property
    def teaches(self) -> bool:
        """Are its answers worth different things?"""
        return _differ(self.rewards)

    @property
    def contrasts(self) -> bool:
        """Do its answers differ by the first scorer alone, whatever shapes the sum?"""
        return _differ([math.nan if one is None else one for one in self.first])


def _differ(values: Sequence[float]) -> bool:
    known = [value for value in values if not math.isnan(value)]
    return bool(known) and max(known) > min(known)


@dataclass(frozen=True)
class Draw:
    """A place in the endless order, and the prompt that stands there."""

    place: int
    position: int
    prompt: Prompt


class Stream:
    """The prompts in an order without end: each once an epoch, every epoch in an order of its own, unless they are not
    to be shuffled."""

    def __init__(self, prompts: Sequence[Prompt], seed: int, shuffled: bool = True) -> None:
        self.prompts, self._seed, self._shuffled = prompts, seed, shuffled

    def take(self, cursor: int, count: int) -> list[Draw]:
        """`count` prompts from `cursor` on."""
        from luthier.train.sources.order import Order

        order = Order(len(self.prompts), 1, self._seed, self._shuffled)
        positions = [int(order.positions(place)[0]) for place in range(cursor, cursor + count)]
        return [Draw(cursor + i, position, self.prompts[position]) for i, position in enumerate(positions)]
