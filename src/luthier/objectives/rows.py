"""What an objective sees: the scored tokens of a micro-batch laid end to end, without padding.

Shape suffixes: S = scored tokens of the micro-batch, N = rows (responses), P = pairs, K = readings of the scalar head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The scored tokens of N responses. `row_S[s]` says which row token s belongs to; rows are in order."""

    logp_S: Tensor
    """log pi(token | what precedes it), fp32. Empty for objectives that read only the scalar head."""
    weight_S: Tensor
    """How much the token trains, fp32."""
    row_S: Tensor
    num_rows: int
    mean_logp_S: Tensor | None = None
    """Mean log-probability over the whole vocabulary (label smoothing), if the objective asked for it."""
    ref_S: Tensor | None = None
    """The reference's log-probability of the same tokens, fp32, no gradient."""
    reward_N: Tensor | None = None
    """What is known of each response's worth; NaN where nothing is."""
    group_N: Tensor | None = None
    """Which example of the micro-batch the row answers."""
    margin_N: Tensor | None = None
    """By how much the better response of the row's example is better, where the data say so (else 0)."""
    better_P: Tensor | None = None
    worse_P: Tensor | None = None
    """Rows of each pair: every two responses to one prompt whose scores differ, each pair once."""
    kl_baseline: Tensor | None = None
    """Mean log-ratio over the whole step's mismatched pairs (the prompt of one example, the response of the one before it
    in the step), a scalar without gradient."""
    weight_N: Tensor | None = None
    """How much each row counts beside others (BCO's density ratio)."""
    state: Mapping[str, float] | None = None
    """What the objective carries from step to step."""
    value_K: Tensor | None = None
    """The scalar head's readings, fp32: one a row, or one a step."""
    label_K: Tensor | None = None
    """The score of the step each reading belongs to."""
    row_K: Tensor | None = None

    def total(self, values_S: Tensor) -> Tensor:
        """Sum over each row's tokens: S -> N."""
        zeros_N = torch.zeros(self.num_rows, dtype=values_S.dtype, device=values_S.device)
        return zeros_N.index_add(0, self.row_S, values_S)

    def mean(self, values_S: Tensor) -> Tensor:
        """Mean over each row's tokens: S -> N. A row without tokens gives 0."""
        return self.total(values_S) / self.length_N.clamp(min=1)

    @cached_property
    def length_N(self) -> Tensor:
        """Scored tokens of each row, fp32."""
        return self.total(torch.ones_like(self.weight_S))

    @cached_property
    def log_ratio_S(self) -> Tensor:
        """log pi - log pi_ref of each token. Without a reference it is log pi (a uniform one, up to a constant)."""
        return self.logp_S if self.ref_S is None else self.logp_S - self.ref_S

    def log_ratio(self) -> Tensor:
        """log pi(y|x) - log pi_ref(y|x) of each row: N."""
        return self.total(self.log_ratio_S)

    def best(self) -> Rows:
        """The same rows with only those weighed that are worth imitating: the better one of some pair, or one that is
        labelled good. Without scores, all of them."""
        if self.reward_N is None:
            return self
        best_N = self.reward_N > 0.5
        if self.better_P is not None and len(self.better_P):
            best_N = torch.zeros_like(best_N)
            best_N[self.better_P] = True
        return replace(self, weight_S=self.weight_S * best_N[self.row_S])

    def better_worse(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        """The values of each pair's better and worse response: N -> P, P."""
        if self.better_P is None or self.worse_P is None:
            raise ValueError("these rows hold no pairs")
        return values_N.index_select(0, self.better_P), values_N.index_select(0, self.worse_P)
