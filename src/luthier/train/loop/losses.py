"""From a micro-batch to the objective's losses: everything an objective declares in `needs` is brought to it here.

An objective is a weighted sum of terms (most have one). Each term's values are summed by micro-batch and divided by the
count of its own unit (scored token weight, row, pair or step) over the whole step, by the accumulation.

Shape suffixes: N = rows, S = scored tokens, M = terms.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.distributed.group import Group
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.objectives.rows import Rows
from luthier.train.roles import Roles
from luthier.train.roles.mismatched import cut, mismatched
from luthier.train.telemetry.step_metrics import StepMetrics
from luthier.types import DECIDED_STEP, GROUP, PAIR, ROW, STEP, TOKEN, Encoded, Needs, Unit


class Objective(Protocol):
    """What the loop asks of an objective; `luthier.objectives.base.Objective` is the base class."""

    @property
    def needs(self) -> Needs: ...
    def terms(self) -> Sequence[tuple[float, Any]]: ...
    def loss(self, rows: Any) -> Tensor: ...
    def implicit_rewards(self, rows: Any) -> Tensor | None: ...
    def begin(self) -> dict[str, float]: ...
    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]: ...


class Losses:
    """One objective on one forward, with the models that its needs name. `state` is what the objective carries from
    step to step (BCO's baseline of rewards)."""

    def __init__(self, forward: Forward, objective: Objective, roles: Roles | None = None) -> None:
        self.forward, self.objective, self.roles = forward, objective, roles or Roles()
        self.terms = [(weight, term) for weight, term in objective.terms()]
        self.state = objective.begin()
        self.group = Group()
        self._untouched, self._same = False, None  # type: bool, bool | None
        self._kl_baseline: Tensor | None = None
        self._cut = 0.0
        """The share of the step's mismatched pairs that were cut."""
        self._metrics = StepMetrics()
        self._implicit: list[Tensor] = []
        self._given: list[Tensor] = []

    # a step
    def begin_step(self, version: int, metrics: StepMetrics | None = None) -> None:
        """Forget the step before. `version`: steps that the weights have behind them; `metrics`: what takes up what
        the rows show, if it is to outlast the step."""
        self._untouched = version == 0
        self._metrics = metrics or StepMetrics()
        self._implicit, self._given, self._kl_baseline, self._cut = [], [], None, 0.0

    def measure_kl(
        self, examples: Sequence[Encoded], lay_out: Callable[[Sequence[Encoded]], list[Batch]], another: Encoded | None
    ) -> None:
        """The mean log-ratio of mismatched pairs of these examples, where the objective compares with it. `another`
        stands in for a step of one example, which would be its own pair; without one the mean is 0."""
        if not self.objective.needs.kl_baseline:
            return
        paired = mismatched(examples) if len(examples) > 1 else []
        if not paired and another is not None:
            paired = mismatched([*examples, another])[:1]
        self._cut = sum(len(pair) > self.roles.longest for pair in paired) / max(len(paired), 1)
        self._kl_baseline = self._mean_log_ratio(lay_out([cut(pair, self.roles.longest) for pair in paired]))

    def end_step(self) -> dict[str, float]:
        """Bring the objective's state up to the step; what the step showed of the rows' worth, as numbers."""
        if self._implicit:
            self.state = self.objective.updated(self.state, torch.cat(self._implicit), torch.cat(self._given))
        return {**self._metrics.take(), **({"mismatched_cut": self._cut} if self._cut else {})}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with what a checkpoint kept of `state`."""
        self.state = dict(state) or self.state

    def sums(self, batch: Batch) -> Tensor:
        """Each term's values summed over a micro-batch already on the device: M, with gradient."""
        rows = self._rows(batch)
        sums = [term.loss(self._seen_by(term, rows)).sum() for _, term in self.terms]
        self._observe(rows)
        return torch.stack(sums)

    def units(self, batch: Batch) -> list[float]:
        """How many units of each term a micro-batch holds."""
        return [count(term.needs.unit, batch, best=self._best_alone(term)) for _, term in self.terms]

    @property
    def weights(self) -> list[float]:
        """Each term's weight in the sum."""
        return [weight for weight, _ in self.terms]

    # details
    def _rows(self, batch: Batch) -> Rows:
        needs, roles = self.objective.needs, self.roles
        rows = self.forward.rows(batch, needs.readouts, needs.heads, roles.teacher)
        return replace(
            rows,
            ref_S=self._reference(batch, rows.logp_S.detach()),
            kl_baseline=self._kl_baseline,
            state=self.state or None,
            weight_N=None if roles.row_weights is None else roles.row_weights.of(batch),
        )

    def _reference(self, batch: Batch, logp_S: Tensor) -> Tensor | None:
        """The reference's log-probabilities. Where those of the run's first micro-batch were the model's own to the
        bit, the adapter adds nothing yet, and the rest of the first step needs no pass for the reference."""
        if self.roles.reference is None:
            return None
        if self._untouched and self._same:
            return logp_S
        ref_S = self.roles.reference.logp(batch)
        if self._same is None:
            self._same = self._untouched and torch.equal(ref_S, logp_S)
        return ref_S

    def _best_alone(self, term: Any) -> bool:
        """A likelihood term beside one that compares responses learns from the better ones alone."""
        return len(self.terms) > 1 and term.needs.unit == TOKEN

    def _seen_by(self, term: Any, rows: Rows) -> Rows:
        return rows.best() if self._best_alone(term) else rows

    @torch.no_grad()
    def _mean_log_ratio(self, batches: Sequence[Batch]) -> Tensor:
        """Mean over rows of log pi - log pi_ref, without dropout or noise."""
        assert self.roles.live is not None
        module = self.forward.module
        device, total, rows, training = next(module.parameters()).device, 0.0, 0, module.training
        module.eval()
        try:
            for batch in batches:
                batch = batch.to(device)
                seen = self.forward.rows(batch)
                total += float(seen.total(seen.logp_S - self.roles.live.logp(batch)).double().sum())
                rows += batch.num_rows
        finally:
            module.train(training)
        return torch.tensor(total / max(rows, 1), dtype=torch.float32, device=device)

    @torch.no_grad()
    def _observe(self, rows: Rows) -> None:
        if rows.reward_N is None:
            return
        implicit_N = self.objective.implicit_rewards(rows)
        if implicit_N is None:
            return
        self._implicit.append(implicit_N.detach().float())
        self._given.append(rows.reward_N)
        self._metrics.add(rows, implicit_N.detach().float(), words="logp" in self.objective.needs.readouts)


def count(unit: Unit, batch: Batch, *, best: bool = False) -> float:
    """How many of a unit a micro-batch holds; `best`: of its rows that are worth imitating (scored tokens only)."""
    if unit == TOKEN:
        weight_S = batch.weight_S[batch.best_N[batch.row_S]] if best else batch.weight_S
        return float(weight_S.double().sum())
    if unit.divisor is not None:
        return float(batch.num_rows)
    if unit == DECIDED_STEP:
        return float((batch.columns["step_reward"] != 0).sum()) if batch.columns else 0.0
    counts = {ROW: batch.num_rows, PAIR: len(batch.better_P), STEP: len(batch.step_K), GROUP: len(batch.examples)}
    return float(counts[unit])
