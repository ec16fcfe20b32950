"""Where a model's rewards come from: the implicit ones of a preference objective, and those before any training.

Explicit ones are read by `luthier.forward.values.Reader`.

Shape suffixes: S = scored tokens of all rows, N = responses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.errors import LuthierError
from luthier.objectives.rows import Rows
from luthier.types import Encoded, Needs, Reads


class Objective(Protocol):
    """What is asked of an objective here."""

    @property
    def needs(self) -> Needs: ...
    def implicit_rewards(self, rows: Rows) -> Tensor | None: ...
    def begin(self) -> dict[str, float]: ...


class Likelihoods(Protocol):
    """The part of an engine that scores given tokens."""

    def logprobs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]: ...


class ImplicitRewards:
    """What a preference objective takes responses to be worth, by a model's likelihoods (and a reference's)."""

    def __init__(
        self, name: str, objective: Objective, engine: Likelihoods, reference: Likelihoods | None = None
    ) -> None:
        if objective.needs.reference and reference is None:
            raise ValueError(f"the objective {name!r} compares with a reference")
        self._name, self._objective, self._engine = name, objective, engine
        self._reference = reference if objective.needs.reference else None

    def __call__(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row the reward of each of its responses. Raises LuthierError where the objective judges nothing."""
        logp_S = np.concatenate(self._engine.logprobs(rows))
        if self._reference is None:
            ref_S = None
        elif self._reference is self._engine:
            ref_S = logp_S
        else:
            ref_S = np.concatenate(self._reference.logprobs(rows))
        implicit_N = self._objective.implicit_rewards(laid_out(rows, logp_S, ref_S, self._objective.begin()))
        if implicit_N is None:
            raise no_rewards(self._name)
        return np.split(implicit_N.float().numpy(), np.cumsum([len(row.ids) for row in rows])[:-1])


def gives_rewards(objective: Objective) -> bool:
    """Does the objective say what a response (or a step) is worth?"""
    if objective.needs.reward_head is not None:
        return True
    row = Encoded((np.array([1, 2], np.int32),), (np.array([0, 1], np.float32),))
    nothing_S = np.zeros(1, np.float32)
    return objective.implicit_rewards(laid_out([row], nothing_S, nothing_S, objective.begin())) is not None


class Untrained:
    """A scalar head as it begins: every reward is 0."""

    def __init__(self, kind: Reads) -> None:
        self._kind = kind

    def __call__(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """A zero for each response, or for each step."""
        return [np.zeros(self._count(row), np.float32) for row in rows]

    def _count(self, row: Encoded) -> int:
        return len(row.ids) if self._kind == "row" else sum(len(ends) for ends in row.column("step_end"))


class CachedLikelihoods:
    """An engine that scores the same rows once only: a reference is asked of by each system."""

    def __init__(self, engine: Likelihoods) -> None:
        self._engine = engine
        self._known: dict[int, tuple[Encoded, NDArray[np.float32]]] = {}

    def logprobs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """As `Engine.logprobs`."""
        new = [row for row in rows if id(row) not in self._known]
        # the row is kept with its values, so that no other row can come to have its identity
        self._known |= {id(row): (row, logp) for row, logp in zip(new, self._engine.logprobs(new), strict=True)}
        return [self._known[id(row)][1] for row in rows]


def laid_out(
    rows: Sequence[Encoded],
    logp_S: NDArray[np.float32],
    ref_S: NDArray[np.float32] | None = None,
    state: dict[str, float] | None = None,
) -> Rows:
    """Scored rows as an objective sees them, every response a row."""
    weights = [weights[weights != 0] for row in rows for weights in row.weights]
    row_S = np.repeat(np.arange(len(weights)), [len(each) for each in weights])
    rewards = [reward for row in rows for reward in row.column("reward")]
    groups = [group for group, row in enumerate(rows) for _ in row.ids]
    return Rows(
        logp_S=torch.from_numpy(logp_S),
        weight_S=torch.from_numpy(np.concatenate(weights)),
        row_S=torch.from_numpy(row_S),
        num_rows=len(weights),
        ref_S=None if ref_S is None else torch.from_numpy(ref_S),
        columns={"reward": torch.tensor(rewards, dtype=torch.float32)},
        group_N=torch.tensor(groups),
        state=state or None,
    )


def no_rewards(objective: str) -> LuthierError:
    """The error of asking a model for rewards whose objective judges no responses."""
    return LuthierError(
        f"a model trained with objective {objective!r} gives no rewards to responses",
        where="evaluate",
        fix="preference_, label_ and step_accuracy are for runs of preference and reward objectives (dpo, reward, …)",
    )
