"""From a micro-batch to the objective's losses: everything an objective declares in `needs` is brought to it here.

An objective is a weighted sum of terms (most have one). Each term's values are summed by micro-batch and divided by the
count of its own unit (scored token weight, row, pair or step) over the whole step, by the window.

Shape suffixes: N = rows, S = scored tokens, M = terms.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.distributed.group import Shard
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.forward.likelihoods import LayOut
from luthier.objectives.rows import Rows
from luthier.train.roles.reference import Live, Reference, cut, mismatched
from luthier.train.telemetry.step_metrics import StepMetrics
from luthier.types import Encoded, Needs


class Objective(Protocol):
    """What the loop asks of an objective; `luthier.objectives.base.Objective` is the base class."""

    @property
    def needs(self) -> Needs: ...
    @property
    def needs_mean_logp(self) -> bool: ...
    @property
    def whole_step(self) -> bool: ...
    @property
    def weighs_prompts(self) -> bool: ...
    def terms(self) -> Sequence[tuple[float, Any]]: ...
    def loss(self, rows: Any) -> Tensor: ...
    def implicit_rewards(self, rows: Any) -> Tensor | None: ...
    def begin(self) -> dict[str, float]: ...
    def updated(self, state: Mapping[str, float], implicit_N: Tensor, reward_N: Tensor) -> dict[str, float]: ...


class Losses:
    """One objective on one forward. `state` is what the objective carries from step to step (BCO's shift)."""

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        reference: Reference | None = None,
        live: Live | None = None,
        longest: int = sys.maxsize,
    ) -> None:
        """`live` computes what cannot be kept ahead: the log-ratio of mismatched pairs, of `longest` tokens at most."""
        self.longest = longest
        self.forward, self.objective, self.reference, self.live = forward, objective, reference, live
        self.terms = [(weight, term) for weight, term in objective.terms()]
        self.state = objective.begin()
        self.first_step = False
        """Nothing has been stepped yet, so the model may still be its own reference."""
        self._same: bool | None = None
        self.step_metrics = StepMetrics()
        self.shard = Shard()
        self.row_weights: dict[str, NDArray[np.float32]] = {}
        """A weight for each example, by the digest of their store."""
        self._kl_baseline: Tensor | None = None
        self._cut = 0.0
        """The share of the step's mismatched pairs that were cut."""
        self._store = ""
        self._rewards: list[Tensor] = []
        self._scores: list[Tensor] = []

    # a step
    def begin_step(self, store: str, examples: Sequence[Encoded], lay_out: LayOut, another: Encoded) -> None:
        """Forget the step before, and measure the log-ratio of mismatched pairs where the objective kl_baselines with it.

        `store`: the digest of the store the examples come from. `another` stands in for a step of one example,
        which would be its own contrast.
        """
        self._store, self._rewards, self._scores = store, [], []
        self._kl_baseline = None
        if self.kl_baselines:
            paired = mismatched(examples) if len(examples) > 1 else mismatched([*examples, another])[:1]
            self._cut = sum(len(pair) > self.longest for pair in paired) / len(paired)
            self._kl_baseline = self._log_ratio(lay_out([cut(pair, self.longest) for pair in paired]))

    def end_step(self) -> dict[str, float]:
        """Bring the objective's state up to the step; what the step showed of the rows' worth, as numbers."""
        if self._rewards:
            self.state = self.objective.updated(self.state, torch.cat(self._rewards), torch.cat(self._scores))
        return {**self.step_metrics.take(), **({"mismatched_cut": self._cut} if self._cut else {})}

    def sums(self, batch: Batch) -> Tensor:
        """Each term's values summed over a micro-batch already on the device: M, with gradient."""
        rows = self._rows(batch)
        sums = [term.loss(self._seen_by(term, rows)).sum() for _, term in self.terms]
        self._judge(rows)
        return torch.stack(sums)

    def units(self, batch: Batch) -> list[float]:
        """How many units of each term a micro-batch holds."""
        return [self._units(term, batch) for _, term in self.terms]

    @property
    def kl_baselines(self) -> bool:
        """Does the objective need the log-ratio of mismatched pairs?"""
        return self.objective.needs.kl_baseline

    @property
    def words(self) -> bool:
        """Does any term look at log-probabilities? Reward models read a scalar head only."""
        return any(term.needs.head == "no" for _, term in self.terms)

    @property
    def weights(self) -> list[float]:
        """Each term's weight in the sum."""
        return [weight for weight, _ in self.terms]

    # details
    def _rows(self, batch: Batch) -> Rows:
        needs = self.objective.needs
        rows = self.forward.rows(
            batch,
            mean_logp=self.objective.needs_mean_logp,
            readings=needs.head,
            logp=self.words,
        )
        weight_N = None
        if self._store in self.row_weights and batch.judged is not None:
            of_group = torch.from_numpy(self.row_weights[self._store][list(batch.rows)])
            weight_N = of_group.to(rows.weight_S.device)[batch.judged.group_N]
        return replace(
            rows,
            ref_S=self._reference(batch, rows.logp_S.detach()),
            kl_baseline=self._kl_baseline,
            state=self.state or None,
            weight_N=weight_N,
        )

    def _reference(self, batch: Batch, logp_S: Tensor) -> Tensor | None:
        """The reference's log-probabilities. Where those of the run's first micro-batch were the model's own to the
        bit, the adapter adds nothing yet, and the rest of the first step needs no pass for the reference."""
        if self.reference is None:
            return None
        if self.first_step and self._same:
            return logp_S
        ref_S = self.reference.logp(batch, self._store)
        if self._same is None:
            self._same = self.first_step and torch.equal(ref_S, logp_S)
        return ref_S

    def _seen_by(self, term: Any, rows: Rows) -> Rows:
        """A likelihood term beside one that compares responses learns from the better ones alone."""
        return rows.best() if len(self.terms) > 1 and term.needs.unit == "token" else rows

    def _units(self, term: Any, batch: Batch) -> float:
        unit, judged = term.needs.unit, batch.judged
        if unit == "token":
            if len(self.terms) == 1 or judged is None:
                return float(batch.weight_S.double().sum())
            best_N = judged.best_N
            return float(batch.weight_S[best_N[batch.row_S]].double().sum())
        if unit == "row":
            return float(batch.num_rows)
        if judged is None:
            return 0.0
        return float(len(judged.better_P) if unit == "pair" else term.counted(judged.label_K))

    def _log_ratio(self, batches: Sequence[Batch]) -> Tensor:
        assert self.live is not None
        device, total, rows = next(self.forward.module.parameters()).device, 0.0, 0
        for batch in batches:
            batch = batch.to(device)
            with torch.no_grad():
                seen = self.forward.rows(batch)
                total += float(seen.total(seen.logp_S - self.live.logp(batch)).double().sum())
            rows += batch.num_rows
        mean = self.shard.total(total) / self.shard.total(rows)
        return torch.tensor(mean, dtype=torch.float32, device=device)

    @torch.no_grad()
    def _judge(self, rows: Rows) -> None:
        if rows.reward_N is None:
            return
        implicit_N = self.objective.implicit_rewards(rows)
        if implicit_N is None:
            return
        self._rewards.append(implicit_N.detach().float())
        self._scores.append(rows.reward_N)
        self.step_metrics.add(rows, implicit_N.detach().float(), words=self.words)
