"""Credit from a critic: generalised advantage estimation, with VAPO's two forms of lambda.

Shape suffixes: T = tokens of a response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from luthier.objectives.credit import Credit, Floats, Group, Judged, Worth
from luthier.objectives.credit.groups import whiten
from luthier.recipe.schema import Float, Why

Share = Annotated[Float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class GAE(Credit):
    """Generalised advantage estimation (arXiv:1506.02438): A_t = sum_k (gamma lambda)^k d_(t+k), where
    d_t = r_t + gamma V_(t+1) - V_t and V = 0 after the last token.

    lambda 1 is all that came less what was expected; lambda 0 is d_t alone. The critic learns A_t + V_t, by a lambda of
    its own if it has one.
    """

    lam: Annotated[Share, Why("the usual value")] = 0.95
    """How far an advantage looks ahead before the critic takes over."""
    lam_value: Share | None = None
    """The same for what the critic learns (VAPO, arXiv:2504.05118: 1, what truly came). Default: `lam`."""
    adaptive: Annotated[Float, Field(gt=0)] | None = None
    """VAPO's alpha (0.05 there): lambda is 1 - 1 / (alpha T) for a response of T tokens, and 0 where that is below 0.
    Takes the place of `lam` in advantages. Default: off."""
    gamma: Annotated[Float, Field(gt=0, le=1), Why("an answer is worth as much when it is long")] = 1.0
    """How much of what comes a token later counts."""
    whiten: bool = True
    """Bring the advantages of the rollout to mean 0 and variance 1."""
    bootstrap: Annotated[bool, Why("the limit on length is part of the task")] = False
    """Take a response that was cut to go on: what the critic expected at its last token stands for what is missing.
    Otherwise nothing comes after it."""
    critic: ClassVar[bool] = True

    def __call__(self, groups: Sequence[Group]) -> list[list[Worth]]:
        """The worth of every response, in order. Raises ValueError for one without values."""
        judged = [one for group in groups for one in group]
        advantages = [self._ahead(one, self.lam_of(one.tokens)) for one in judged]
        lam_value = self.lam if self.lam_value is None else self.lam_value
        returns = [self._ahead(one, lam_value) + _values(one) for one in judged]
        found = whiten(advantages, judged) if self.whiten else advantages
        each = iter(Worth(advantage_T, return_T) for advantage_T, return_T in zip(found, returns, strict=True))
        return [[next(each) for _ in group] for group in groups]

    def lam_of(self, tokens: int) -> float:
        """The lambda of a response's advantages."""
        if self.adaptive is None:
            return self.lam
        return min(max(1 - 1 / (self.adaptive * max(tokens, 1)), 0.0), 1.0)

    def _ahead(self, one: Judged, lam: float) -> Floats:
        """The advantages of one response; 0 where nothing could be said of it."""
        value_T, found_T = _values(one), np.zeros(one.tokens)
        if np.isnan(one.reward):
            return found_T
        reward_T = np.zeros(one.tokens) if one.rewards_T is None else np.array(one.rewards_T, np.float64)
        reward_T[-1:] += one.reward
        ahead, after = 0.0, float(value_T[-1]) if one.tokens and one.cut and self.bootstrap else 0.0
        for t in range(one.tokens - 1, -1, -1):
            ahead = reward_T[t] + self.gamma * after - value_T[t] + self.gamma * lam * ahead
            found_T[t], after = ahead, value_T[t]
        return found_T


def _values(one: Judged) -> Floats:
    if one.values_T is None:
        raise ValueError("gae needs what a critic expected of each token")
    return np.asarray(one.values_T, np.float64)
