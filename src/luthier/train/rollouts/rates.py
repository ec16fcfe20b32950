"""How often each prompt was answered rightly, over the whole run: which are easy, which teach, which are hopeless."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any, Literal

from luthier.data import Prompt
from luthier.train.rollouts.drawn import Group

EASY = 0.9
"""A prompt is easy that was answered rightly so often when it last came."""
Kind = Literal["easy", "learnable", "hopeless"]


@dataclass
class Rate:
    """One prompt's answers so far."""

    answers: int = 0
    right: int = 0
    rollouts: int = 0
    first: float = 0.0
    """The share that was right when it first came."""
    last: float = 0.0
    """When it last came."""
    reward: float = 0.0
    """The mean worth of its answers when it last came."""

    @property
    def kind(self) -> Kind:
        """Never right, nearly always, or in between."""
        if not self.right:
            return "hopeless"
        return "easy" if self.last >= EASY else "learnable"


@dataclass
class Rates:
    """Of all prompts that have come, by which of the run's prompts they are."""

    of: dict[int, Rate] = field(default_factory=dict)

    def add(self, groups: Sequence[Group]) -> None:
        """One more rollout. Answers of which nothing could be said do not count."""
        for group in groups:
            known = [one for one in group.right[group.own] if one is not None]
            if not known:
                continue
            rate, share = self.of.setdefault(group.position, Rate()), fmean(known)
            rate.first = rate.first if rate.rollouts else share
            rate.last, rate.rollouts = share, rate.rollouts + 1
            rate.answers += len(known)
            rate.right += sum(known)
            worth = [reward for reward in group.rewards[group.own] if reward == reward]
            rate.reward = fmean(worth) if worth else 0.0

    def rows(self, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
        """A line a prompt that has come, the most hopeless first."""
        order = sorted(self.of.items(), key=lambda item: (item[1].last, item[1].right / item[1].answers, item[0]))
        return [
            {
                "source": prompts[position].where,
                "key": prompts[position].key,
                "kind": rate.kind,
                "rate": round(rate.right / rate.answers, 4),
                **{key: round(value, 4) for key, value in asdict(rate).items()},
            }
            for position, rate in order
        ]

    def state(self) -> dict[str, list[float]]:
        """What a checkpoint keeps."""
        return {str(position): list(asdict(rate).values()) for position, rate in self.of.items()}

    def load_state(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Put back what `state()` gave."""
        self.of = {int(position): Rate(*values) for position, values in state.items()}
