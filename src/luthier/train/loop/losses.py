"""From a micro-batch to the objective's losses: everything an objective declares in `needs` is brought to it here.

An objective is a weighted sum of terms (most have one). Each term's values are summed by micro-batch and divided by the
count of its own unit (scored token weight, row, pair or step) over the whole step, by the accumulation.

Shape suffixes: N = rows, S = scored tokens, M = terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor

from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.objectives.rows import Rows
from luthier.train.loop.budget import Budget
from luthier.train.loop.findings import Finding
from luthier.train.roles import Roles
from luthier.train.roles.mismatched import cut, mismatched
from luthier.train.telemetry.step_metrics import INSIDE, Shown, StepMetrics
from luthier.types import DECIDED_STEP, GOOD_TOKEN, GROUP, PAIR, ROW, STEP, TOKEN, Encoded, Needs, Unit


class Objective(Protocol):
    """What the loop asks of an objective; `luthier.objectives.base.Objective` is the base class."""

    @property
    def needs(self) -> Needs: ...
    def terms(self) -> Sequence[tuple[float, Any]]: ...
    def loss(self, rows: Any) -> Tensor: ...
    def weights(self, version: int) -> Sequence[float]: ...
    def rates(self, version: int) -> Mapping[str, float]: ...
    @property
    def estimator(self) -> Any: ...
    def implicit_rewards(self, rows: Any) -> Tensor | None: ...
    def shown(self, rows: Any) -> Mapping[str, Tensor]: ...
    def begin(self) -> dict[str, float]: ...
    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]: ...


class Losses:
    """One objective on one forward, with the models that its needs name. `state` is what the objective carries from
    step to step (BCO's baseline of rewards)."""

    def __init__(
        self, forward: Forward, objective: Objective, roles: Roles | None = None, *, shortcut: bool = True
    ) -> None:
        """`shortcut`: may the run's first micro-batch decide whether the first step needs a pass for the reference?
        Not where several processes compute it: there is no first one that all have seen."""
        self.forward, self.objective, self.roles = forward, objective, roles or Roles()
        self.terms = [(weight, term) for weight, term in objective.terms()]
        self.state = objective.begin()
        self._untouched = False
        self._same = None if shortcut else False
        self._kl_baseline: Tensor | None = None
        self._cut = 0.0
        """The share of the step's mismatched pairs that were cut."""

    # a step
    def begin_step(self, version: int) -> None:
        """Forget the step before. `version`: steps that the weights have behind them."""
        self._untouched = version == 0
        self._kl_baseline, self._cut = None, 0.0

    def measure_kl(self, examples: Sequence[Encoded], budget: Budget, another: Encoded | None) -> None:
        """The mean log-ratio of mismatched pairs of these examples, where the objective compares with it. `another`
        stands in for a step of one example, which would be its own pair; without one the mean is 0."""
        if not self.objective.needs.kl_baseline:
            return
        paired = mismatched(examples) if len(examples) > 1 else []
        if not paired and another is not None:
            paired = mismatched([*examples, another])[:1]
        self._cut = sum(len(pair) > self.roles.longest for pair in paired) / max(len(paired), 1)
        self._kl_baseline = self._mean_log_ratio([cut(pair, self.roles.longest) for pair in paired], budget)

    def end_step(self, findings: Sequence[Finding]) -> dict[str, float]:
        """Bring the objective's state up to the step; what the step showed of the rows' worth, as numbers."""
        implicit = [finding.implicit_N for finding in findings if finding.implicit_N is not None]
        given = [finding.given_N for finding in findings if finding.given_N is not None]
        if implicit:
            self.state = self.objective.updated(self.state, torch.cat(implicit), torch.cat(given))
        metrics = StepMetrics()
        metrics.add([finding.shown for finding in findings])
        return {**metrics.take(), **({"mismatched_cut": self._cut} if self._cut else {})}

    def load_state(self, state: Mapping[str, float]) -> None:
        """Go on with what a checkpoint kept of `state`."""
        self.state = dict(state) or self.state

    def sums(self, batch: Batch) -> Finding:
        """Each term's values summed over a micro-batch already on the device, with gradient; and what it showed."""
        rows = self._rows(batch)
        sums = [term.loss(self._seen_by(term, rows)).sum() for _, term in self.terms]
        return self._observed(torch.stack(sums), rows)

    def units(self, batch: Batch) -> list[float]:
        """How many units of each term a micro-batch holds."""
        return [count(term.needs.unit, batch, best=self._best_alone(term)) for _, term in self.terms]

    def weights(self, version: int) -> Sequence[float]:
        """Each term's weight in the sum, once the model's weights have `version` steps behind them."""
        return self.objective.weights(version)

    # details
    def _rows(self, batch: Batch) -> Rows:
        needs, roles = self.objective.needs, self.roles
        rows = self.forward.rows(batch, needs.readouts, needs.heads, roles.teacher, needs.apart)
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
        return len(self.terms) > 1 and term.imitates

    def _seen_by(self, term: Any, rows: Rows) -> Rows:
        return rows.best() if self._best_alone(term) else rows

    @torch.no_grad()
    def _mean_log_ratio(self, examples: Sequence[Encoded], budget: Budget) -> Tensor:
        """Mean over rows of log pi - log pi_ref, without dropout or noise, each process computing its part."""
        module, batches = self.forward.module, budget.lay_out(examples)
        total, training = 0.0, module.training
        module.eval()
        try:
            mine = budget.together(
                lambda: {place: self._log_ratio(batches[place], budget) for place in budget.mine(batches)}
            )
        finally:
            module.train(training)
        for found in budget.group.by_place(mine, [1] * len(batches), budget.device):
            total += float(found)
        rows = sum(batch.num_rows for batch in batches)
        return torch.tensor(total / max(rows, 1), dtype=torch.float32, device=budget.device)

    def _log_ratio(self, batch: Batch, budget: Budget) -> Tensor:
        """The sum over a micro-batch's rows."""
        assert self.roles.live is not None
        budget.begins(batch)
        batch = batch.to(budget.device)
        seen = self.forward.rows(batch)
        return seen.total(seen.logp_S - self.roles.live.logp(batch)).double().sum().reshape(1)

    @torch.no_grad()
    def _observed(self, sums_M: Tensor, rows: Rows) -> Finding:
        inside = {INSIDE + name: value for name, value in self.objective.shown(rows).items()}
        implicit_N = None if rows.reward_N is None else self.objective.implicit_rewards(rows)
        if implicit_N is None:
            return Finding(sums_M, shown=inside)
        implicit_N = implicit_N.detach().float()
        shown = Shown(rows, implicit_N, words="logp" in self.objective.needs.readouts)
        return Finding(sums_M, implicit_N, rows.reward_N, {**shown.sums, **inside})


def count(unit: Unit, batch: Batch, *, best: bool = False) -> float:
    """How many of a unit a micro-batch holds; `best`: of its rows that are worth imitating (scored tokens only)."""
    if unit == TOKEN:
        weight_S = batch.weight_S[batch.best_N[batch.row_S]] if best else batch.weight_S
        return float(weight_S.double().sum())
    if unit == GOOD_TOKEN:
        good_S = (batch.columns or {}).get("right", torch.zeros(batch.num_rows))[batch.row_S] > 0
        return float(batch.weight_S[good_S].double().sum())
    if unit.divisor is not None:
        return float(batch.num_rows)
    if unit == DECIDED_STEP:
        return float((batch.columns["step_reward"] != 0).sum()) if batch.columns else 0.0
    counts = {ROW: batch.num_rows, PAIR: len(batch.better_P), STEP: len(batch.step_K), GROUP: len(batch.examples)}
    return float(counts[unit])
