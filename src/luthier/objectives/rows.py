"""What an objective sees: the scored tokens of a micro-batch laid end to end, without padding.

Shape suffixes: S = scored tokens of the micro-batch, N = rows (responses), P = pairs, K = places where a scalar head is
read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """The scored tokens of N responses. `row_S[s]` says which row token s belongs to; rows are in order."""

    logp_S: Tensor
    """log pi(token | what precedes it), fp32. Zeros for objectives that read only a scalar head."""
    weight_S: Tensor
    """How much the token trains, fp32."""
    row_S: Tensor
    num_rows: int
    readouts: Mapping[str, Tensor] = field(default_factory=dict)
    """What else the objective's `Needs` name, of each scored token (`luthier.forward.readouts`)."""
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """What the data or a step source know, by column (`luthier.columns`): S, N or K; an example's value at its rows."""
    values: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """What each scalar head says, fp32, and the row of each reading, by the head's role: (K, K)."""
    ref_S: Tensor | None = None
    """The reference's log-probability of the same tokens, fp32, no gradient."""
    group_N: Tensor | None = None
    """Which example of the micro-batch the row answers."""
    best_N: Tensor | None = None
    """Is the row worth imitating: the better one of some pair of its example, or not labelled bad?"""
    better_P: Tensor | None = None
    worse_P: Tensor | None = None
    """Rows of each pair: every two responses to one prompt whose rewards differ, each pair once."""
    kl_baseline: Tensor | None = None
    """Mean log-ratio over the whole step's mismatched pairs (the prompt of one example, the response of the one before
    it in the step), a scalar without gradient."""
    weight_N: Tensor | None = None
    """How much each row counts beside others (BCO's density ratio)."""
    state: Mapping[str, float] | None = None
    """What the objective carries from step to step."""

    def column(self, name: str) -> Tensor:
        """A column that must be there. Raises ValueError where no row has it."""
        if name not in self.columns:
            raise ValueError(f"these rows have no column {name!r}")
        return self.columns[name]

    def read(self, role: str) -> tuple[Tensor, Tensor]:
        """What the head of this role says, and the row of each reading: K, K. Raises ValueError where none was read."""
        if role not in self.values:
            raise ValueError(f"these rows hold no readings of a {role} head")
        return self.values[role]

    @property
    def reward_N(self) -> Tensor | None:
        """What is known of each response's worth; NaN where nothing is, None where nothing of any."""
        return self.columns.get("reward")

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
        """The same rows with only those weighed that are worth imitating (`best_N`)."""
        if self.best_N is None:
            return self
        return replace(self, weight_S=self.weight_S * self.best_N[self.row_S])

    def better_worse(self, values_N: Tensor) -> tuple[Tensor, Tensor]:
        """The values of each pair's better and worse response: N -> P, P."""
        if self.better_P is None or self.worse_P is None:
            raise ValueError("these rows hold no pairs")
        return values_N.index_select(0, self.better_P), values_N.index_select(0, self.worse_P)
