"""The gradients of one optimiser step, in as many micro-batches as memory allows.

The loss is divided by the count of the objective's unit (scored token weight, row or pair) over the whole window and
all processes, known before the first backward pass; so the split into micro-batches changes nothing but rounding.
Out of memory halves the micro-batches and does the same step again, from the same random state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.recipe.schema import Train
from luthier.train import activations, allocator, memory, rng
from luthier.train.batches import Batch, micro_batches
from luthier.train.forward import Forward
from luthier.train.neftune import Noise
from luthier.train.order import Order
from luthier.train.shard import Shard
from luthier.train.update import Update
from luthier.types import Encoded, Needs, TokenStore

EVALUATED_AT_ONCE = 256
"""Examples of the validation rows laid out together: enough to fill micro-batches well."""


class Objective(Protocol):
    """What the loop asks of an objective."""

    @property
    def needs(self) -> Needs: ...
    @property
    def needs_mean_logp(self) -> bool: ...
    def loss(self, rows: Any) -> Tensor: ...


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


class Window:
    """Computes the gradients of any step, and the evaluation loss, within a token budget that shrinks on demand."""

    def __init__(
        self, forward: Forward, objective: Objective, update: Update, train: Train, device: torch.device
    ) -> None:
        self.forward, self.objective, self.update, self.device = forward, objective, update, device
        self._model = cast(Any, forward.causal_lm)
        self.shard = Shard()
        self.budget = train.micro_tokens or LARGEST_MICRO
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
            parts = self._or_none(self._backward, batches, store)
            if parts is not None:
                if step + 1 < total:  # laid out while the device is still busy with this step
                    self._ahead = (step + 1, self.budget, self._batches(store, order, step + 1))
                tokens = sum(batch.whole_tokens for batch in batches)
                return Gradients(torch.stack(parts).sum(), parts, batches, tokens)
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
            done = self._or_none(self._backward, [heaviest], store)
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
            alone = [row for row in bad if not torch.isfinite(self._loss(self._lay_out([store[row]], self.budget)[0]))]
        return alone or bad or [row for batch in gradients.batches for row in batch.rows]

    def _backward(self, batches: Sequence[Batch], store: TokenStore) -> list[Tensor]:
        units = self.shard.total(sum(self._units(batch) for batch in batches))
        if units == 0:
            named = ", ".join(str(store.source(row)) for batch in batches for row in batch.rows[:4])
            raise LuthierError("no token of these rows trains", where=named, fix="see their turns' weights")
        parts = []
        for batch in batches:
            loss = self._loss(batch) / units
            loss.backward()  # type: ignore[no-untyped-call]
            parts.append(loss.detach())
        return parts

    def _loss(self, batch: Batch) -> Tensor:
        """The summed, not yet normalised loss of a micro-batch."""
        self._now = batch
        if self.noise:
            self.noise.lengths_of(batch)
        rows = self.forward.rows(batch.to(self.device), mean_logp=self.objective.needs_mean_logp)
        return self.objective.loss(rows).sum()

    def _units(self, batch: Batch) -> float:
        unit: Literal["token", "row", "pair"] = self.objective.needs.unit
        if unit == "token":
            return float(batch.weight_S.double().sum())
        return float(batch.num_rows if unit == "row" else len(batch.rows))

    def _batches(self, store: TokenStore, order: Order, step: int) -> list[Batch]:
        if self._ahead and self._ahead[:2] == (step, self.budget):
            return self._ahead[2]
        positions: list[int] = order.positions(step).tolist()
        return self._lay_out([store[position] for position in self.shard.mine(positions)], self.budget)

    def _lay_out(self, examples: Sequence[Encoded], budget: int) -> list[Batch]:
        share = self.forward.share_prefix and self.noise is None  # rows that share a prefix would share its noise
        return micro_batches(examples, budget, share_prefix=share, layout=self.forward.layout)

    def _heaviest_step(self, store: TokenStore, order: Order, steps: int) -> int:
        lengths = np.asarray(store.lengths)
        weights = []
        for step in range(min(steps, order.steps_per_epoch)):
            chosen = lengths[order.positions(step)]
            weights.append(max(int(chosen.max()), min(self.budget, int(chosen.sum()))))
        return int(np.argmax(weights))

    # the evaluation loss
    def evaluation_loss(self, store: TokenStore) -> float:
        """The objective's loss over all of `store`, normalised as in training, without dropout or noise."""
        with self._evaluating():
            while True:
                loss: float | None = self._or_none(self._evaluate, store)
                if loss is not None:
                    return loss
                self._shrink(self._now, store)

    def _evaluate(self, store: TokenStore) -> float:
        total, units = torch.zeros((), dtype=torch.float64, device=self.device), 0.0
        for begin in range(0, len(store), EVALUATED_AT_ONCE):
            examples = [store[i] for i in range(begin, min(begin + EVALUATED_AT_ONCE, len(store)))]
            for batch in self._lay_out(examples, self.budget):
                total += self._loss(batch).double()
                units += self._units(batch)
        self.shard.add_up([total])
        return total.item() / self.shard.total(units)

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
        if len(batch.rows) > 1:
            size = batch.shape[0] * batch.shape[1]
            self.budget = min(self.budget, size) // 2
        elif self.may_checkpoint and not self.checkpointing and torch.is_grad_enabled():
            self.turn_on_checkpointing()
        else:
            raise LuthierError(
                f"not enough memory for a single row of {batch.whole_tokens:,} tokens",
                where=str(store.source(batch.rows[0])),
                fix="lower train.max_tokens, set train.checkpointing=true, use lora, or a smaller model",
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
