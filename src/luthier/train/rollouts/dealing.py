"""From judged groups to the rows of each: what the model that trains says of them, then credit, then columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from luthier.objectives.credit import Worth
from luthier.train.rollouts import rows
from luthier.train.rollouts.drawn import Floats, Group
from luthier.train.rollouts.journal import Journal
from luthier.train.rollouts.rows import Computed
from luthier.train.rollouts.surroundings import Surroundings
from luthier.types import PAIR, Encoded


@dataclass(frozen=True)
class Dealt:
    """The rows of each group that trains, and what each of its answers was worth."""

    rows: list[list[Encoded]]
    worth: list[list[Worth | None] | None]
    """None for a group of which no credit is taken, and for an answer that does not train."""


class Dealing:
    """One objective's way with judged groups."""

    def __init__(self, objective: Any, budget: int, *, again: bool) -> None:
        """`budget`: computed tokens that a row may have; `again`: will weights that have moved on read the rows?"""
        self._objective, self._budget, self._again = objective, budget, again
        self.reward_kl = float(objective.reward_kl)
        """How much of the divergence from the reference is taken off rewards by now."""

    def deal(self, groups: Sequence[Group], journal: Journal, around: Surroundings) -> Dealt:
        """The rows; numbers that the journal holds are not computed again. A group without a better and a worse answer
        gives none where pairs are what is learnt from."""
        credit, needs = self._objective.estimator, self._objective.needs
        trained = [self._trained(group) for group in groups]
        whole, groups = groups, [group.of(own) for group, own in zip(groups, trained, strict=True)]
        computed = self._computed(groups, journal, around)
        worth: list[list[Worth] | None] = [None] * len(groups)
        if credit is not None and groups:
            worth = list(rows.credited(groups, credit, computed, self.reward_kl))
            self._adapt(computed)
        made: list[list[Encoded]] = []
        for number, group in enumerate(groups):
            parts = rows.split(rows.row(group, number, worth[number], computed), needs, self._budget)
            made.append([part for part in parts if needs.unit != PAIR or rows.differ(part.column("reward"))])
        return Dealt(made, [_spread(*one) for one in zip(whole, trained, worth, strict=True)])

    def _trained(self, group: Group) -> list[int]:
        """Which of its answers train: not those that are there to be compared with alone."""
        return list(range(len(group.answers)))[group.own if self._objective.needs.rivals == "mixture" else slice(None)]

    def _adapt(self, computed: Computed) -> None:
        """What the divergence is to cost after a rollout that was so far from the reference."""
        if computed.old_logp is None or computed.reference is None:
            return
        apart = [
            float((old_T.astype(np.float64) - reference_T).sum())
            for old, reference in zip(computed.old_logp, computed.reference, strict=True)
            for old_T, reference_T in zip(old, reference, strict=True)
        ]
        self.reward_kl = self._objective.next_reward_kl(self.reward_kl, fmean(apart), len(apart))

    def _computed(self, groups: Sequence[Group], journal: Journal, around: Surroundings) -> Computed:
        credit = self._objective.estimator
        bare = [rows.bare(group) for group in groups]

        def known(what: str, ask: Callable[[Sequence[Encoded]], list[list[Floats]]]) -> list[list[Floats]]:
            missing = [i for i, group in enumerate(groups) if (what, group.place) not in journal.passes]
            # all at once, whichever are missing: how rows lie beside each other may round otherwise
            for group, values in zip(groups, ask(bare) if missing else (), strict=bool(missing)):
                if (what, group.place) not in journal.passes:
                    journal.computed(what, group.place, values)
            return [journal.passes[what, group.place] for group in groups]

        taxed = bool(self._objective.reward_kl)
        return Computed(
            old_logp=known("old_logp", around.logp) if self._again or taxed else None,
            reference=known("reference", around.reference_logp) if taxed else None,
            values=known("value", around.values) if credit is not None and credit.critic else None,
        )


def _spread(group: Group, trained: Sequence[int], worth: Sequence[Worth] | None) -> list[Worth | None] | None:
    """What each of a group's answers was worth, out of the worth of those that train."""
    if worth is None:
        return None
    found: list[Worth | None] = [None] * len(group.answers)
    for index, one in zip(trained, worth, strict=True):
        found[index] = one
    return found
