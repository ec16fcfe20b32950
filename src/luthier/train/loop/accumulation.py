"""The gradients of one optimiser step, in as many micro-batches as memory allows.

The loss is divided by the count of the objective's unit (scored token weight, row or pair) over the whole window and
all processes, known before the first backward pass; so the split into micro-batches changes nothing but rounding.
Out of memory halves the micro-batches and does the same step again, from the same random state.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward.batches import Batch, micro_batches
from luthier.forward.forward import Forward
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.recipe.schema import Train
from luthier.train.loop import activations, allocator, memory, rng
from luthier.train.loop.losses import Losses
from luthier.train.loop.neftune import Noise
from luthier.train.optim.update import Update
from luthier.train.sources.order import Order
from luthier.train.telemetry.step_metrics import StepMetrics
from luthier.types import Encoded, TokenStore

EVALUATED_AT_ONCE = 256
"""Examples of the validation rows laid out together: enough to fill micro-batches well."""


@dataclass(frozen=True)
class Gradients:
    """What one window's backward passes gave, besides the gradients themselves."""

    loss: Tensor
    """The window's normalised loss, a scalar still on the device."""
    parts: list[Tensor]
    """Each micro-batch's share of it."""
    batches: list[Batch]
    tokens: int
    """Tokens of all rows, without padding."""
    computed: int
    """Tokens that went through the model: those that rows share count once."""
    judged: dict[str, float]
    """What the step showed of the rows' worth; {} for objectives that do not judge."""


class Accumulation:
    """Computes the gradients of any step, and the evaluation loss, within a token budget that shrinks on demand."""

    def __init__(self, forward: Forward, losses: Losses, update: Update, train: Train, device: torch.device) -> None:
        self.forward, self.losses, self.update, self.device = forward, losses, update, device
        self._model = cast(Any, forward.causal_lm)
        self.shard = losses.shard
        self.budget = train.micro_tokens or LARGEST_MICRO
        self.batch = train.batch
        self.may_checkpoint = train.checkpointing == "auto"
        self.checkpointing = False
        if train.checkpointing is True:
            self.turn_on_checkpointing()
        self.noise = Noise(self._model.get_input_embeddings(), train.neftune) if train.neftune else None
        self.on_out_of_memory: Callable[[dict[str, Any]], None] = lambda _: None
        self._ahead: tuple[int, int, list[Batch]] | None = None
        self._now: Batch
        """The micro-batch under way, which is the one that did not fit when memory runs out."""

    def close(self) -> None:
        """Give the model back as it was."""
        if self.noise:
            self.noise.remove()
        if self.checkpointing:
            activations.keep(self._model)

    def turn_on_checkpointing(self) -> None:
        """Less memory for a third more compute, from the next micro-batch on."""
        activations.remake(self._model)
        self.checkpointing = True

    # a step
    def gradients(self, store: TokenStore, order: Order, step: int, total: int) -> Gradients:
        """Leave the gradients of step `step` (from 0) on the parameters. Raises LuthierError if a row does not fit."""
        while True:
            batches = self._batches(store, order, step)
            before = rng.capture(self.device)
            parts = self._or_none(self._backward, batches, store, self._positions(order, step))
            if parts is not None:
                if step + 1 < total:  # laid out while the device is still busy with this step
                    self._ahead = (step + 1, self.budget, self._batches(store, order, step + 1))
                tokens = sum(batch.whole_tokens for batch in batches)
                computed = sum(batch.tokens for batch in batches)
                judged = self.losses.end_step()
                return Gradients(torch.stack(parts).sum(), parts, batches, tokens, computed, judged)
            rng.restore(before, self.device)
            self._shrink(self._now, store)

    def rehearse(self, store: TokenStore, order: Order, steps: int) -> None:
        """Try the heaviest micro-batch of the run and discard its gradients, so that memory runs out now or never.

        The heaviest is that of the step with the longest row, or with the most tokens up to the budget. Only where
        too much memory raises an error (`memory.runs_out_with_an_error`); elsewhere it would be time for nothing.
        """
        if not memory.runs_out_with_an_error(self.device):
            return
        before = rng.capture(self.device)
        while True:
            heaviest = self._batches(store, order, self._heaviest_step(store, order, steps))[0]
            done = self._or_none(self._backward, [heaviest], store, heaviest.rows)
            self.update.drop_gradients()
            rng.restore(before, self.device)
            if done is not None:
                return
            self._shrink(self._now, store)

    def suspects(self, gradients: Gradients, store: TokenStore) -> list[int]:
        """The examples whose loss alone is not finite; all of the window when no single one is to blame."""
        finite = torch.isfinite(torch.stack(gradients.parts)).tolist()
        bad = [row for batch, fine in zip(gradients.batches, finite, strict=True) if not fine for row in batch.rows]
        with self._evaluating():
            alone = [row for row in bad if not self._sums(self._lay_out([store[row]], self.budget)[0]).isfinite().all()]
        return alone or bad or [row for batch in gradients.batches for row in batch.rows]

    def _backward(self, batches: Sequence[Batch], store: TokenStore, positions: Sequence[int]) -> list[Tensor]:
        factors = self._factors(batches, store)
        self.losses.step_metrics = StepMetrics()
        self._begin(positions, store)
        parts = []
        for batch in batches:
            loss = (self._sums(batch) * factors).sum()
            loss.backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach())
        return parts

    def _begin(self, positions: Sequence[int], store: TokenStore) -> None:
        another = store[(positions[0] + len(store) // 2) % len(store)]
        examples = [store[position] for position in positions] if self.losses.kl_baselines else []
        self.losses.begin_step(store.digest, examples, self.lay_out, another)

    def _sums(self, batch: Batch) -> Tensor:
        """Each term's loss summed over a micro-batch, not yet normalised: M."""
        self._now = batch
        if self.noise:
            self.noise.lengths_of(batch)
        return self.losses.sums(batch.to(self.device))

    def _factors(self, batches: Sequence[Batch], store: TokenStore) -> Tensor:
        """Each term's weight over its count of units in the whole window: M."""
        counts = [self.shard.total(sum(each)) for each in zip(*map(self.losses.units, batches), strict=True)]
        if not any(counts):
            named = ", ".join(str(store.source(row)) for batch in batches for row in batch.rows[:4])
            raise LuthierError("nothing of these rows trains", where=named, fix="see their turns' weights or scores")
        factors = [w / count if count else 0.0 for w, count in zip(self.losses.weights, counts, strict=True)]
        return torch.tensor(factors, dtype=torch.float32, device=self.device)

    def _batches(self, store: TokenStore, order: Order, step: int) -> list[Batch]:
        if self._ahead and self._ahead[:2] == (step, self.budget):
            return self._ahead[2]
        return self._lay_out([store[position] for position in self._positions(order, step)], self.budget)

    def _positions(self, order: Order, step: int) -> Sequence[int]:
        positions: list[int] = order.positions(step).tolist()
        return self.shard.mine(positions)

    def lay_out(self, examples: Sequence[Encoded]) -> list[Batch]:
        """Micro-batches within the budget."""
        return self._lay_out(examples, self.budget)

    def _lay_out(self, examples: Sequence[Encoded], budget: int) -> list[Batch]:
        if self.losses.objective.whole_step:
            budget = sys.maxsize
        return micro_batches(examples, budget, share_prefix=self.forward.share_prefix, layout=self.forward.layout)

    def _heaviest_step(self, store: TokenStore, order: Order, steps: int) -> int:
        lengths = np.asarray(store.lengths)
        weights = []
        for step in range(min(steps, order.steps_per_epoch)):
            chosen = lengths[order.positions(step)]
            weights.append(max(int(chosen.max()), min(self.budget, int(chosen.sum()))))
        return int(np.argmax(weights))

    # the evaluation loss
    def evaluate(self, store: TokenStore) -> tuple[float, dict[str, float]]:
        """The objective's loss over all of `store`, normalised as in training, without dropout or noise; and what it
        showed of the rows' worth."""
        with self._evaluating():
            while True:
                found: tuple[float, dict[str, float]] | None = self._or_none(self._evaluate, store)
                if found is not None:
                    return found
                self._shrink(self._now, store)

    def _evaluate(self, store: TokenStore) -> tuple[float, dict[str, float]]:
        step_metrics = self.losses.step_metrics = StepMetrics()
        weights = torch.tensor(self.losses.weights, dtype=torch.float64, device=self.device)
        total_M, units_M = torch.zeros_like(weights), torch.zeros_like(weights)
        # ranks depend on how many are ranked: by steps of training's size the loss is that of training, and fits
        at_once = self.batch if self.losses.objective.whole_step else EVALUATED_AT_ONCE
        for begin in range(0, len(store), at_once):
            chosen = range(begin, min(begin + at_once, len(store)))
            half = (len(chosen) + 1) // 2  # neighbours in a file may share a prompt: pair with what lies far off
            self._begin([i for both in zip_longest(chosen[:half], chosen[half:]) for i in both if i is not None], store)
            for batch in self._lay_out([store[i] for i in chosen], self.budget):
                total_M += self._sums(batch).double()
                units_M += torch.tensor(self.losses.units(batch), dtype=torch.float64, device=self.device)
        self.shard.add_up([total_M, units_M])
        return float((weights * total_M / units_M.clamp(min=1e-9)).sum()), step_metrics.take()

    # out of memory
    def _or_none(self, work: Callable[..., Any], *args: Any) -> Any:
        """What `work(*args)` returns; None if it ran out of memory, with everything it held let go."""
        try:
            return work(*args)
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
        # outside the except block, where the traceback no longer holds the graph
        self.update.drop_gradients()
        allocator.give_back(self.device)
        return None

    def _shrink(self, batch: Batch, store: TokenStore) -> None:
        """Make the micro-batch that did not fit smaller: half the tokens, then gradient checkpointing."""
        whole = self.losses.objective.whole_step
        if len(batch.rows) > 1 and not whole:
            size = batch.shape[0] * batch.shape[1]
            self.budget = min(self.budget, size) // 2
        elif self.may_checkpoint and not self.checkpointing and torch.is_grad_enabled():
            self.turn_on_checkpointing()
        else:
            raise LuthierError(
                f"not enough memory for {'a whole step' if whole else 'a single row'} of {batch.whole_tokens:,} tokens"
                + (", which this objective takes at once" if whole else ""),
                where=str(store.source(batch.rows[0])),
                fix=("lower train.batch or " if whole else "lower ")
                + "train.max_tokens, set train.checkpointing=true, use lora, or a smaller model",
            )
        self._ahead = None
        fields = {"micro_tokens": self.budget, "checkpointing": self.checkpointing, "tokens": batch.whole_tokens}
        self.on_out_of_memory(fields)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Without gradients, dropout and noise."""
        module = self.forward.module
        module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            module.train()
