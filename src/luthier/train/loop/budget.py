"""How many tokens go through the model at once: as many as memory allows, found out by running short of it.

Out of memory halves the micro-batches, then turns gradient checkpointing on, and the same work is done again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import torch

from luthier.errors import LuthierError
from luthier.forward.batches import Batch, micro_batches
from luthier.forward.forward import Forward
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.recipe.schema import Train
from luthier.train.loop import activations, allocator, memory
from luthier.types import Encoded

Done = TypeVar("Done")


class Budget:
    """The token budget of one forward pass, and whether activations are made again in the backward pass."""

    def __init__(self, forward: Forward, train: Train, device: torch.device, *, whole_step: bool) -> None:
        """`whole_step`: a step is one micro-batch, whatever its size."""
        self.forward, self.device, self.whole_step = forward, device, whole_step
        self.tokens = train.micro_tokens or LARGEST_MICRO
        self.may_checkpoint = train.checkpointing == "auto"
        self.checkpointing = False
        self.on_shrink: Callable[[dict[str, Any]], None] = lambda _: None
        self._model = cast(Any, forward.causal_lm)
        self._now: Batch | None = None
        self._whole = False
        if train.checkpointing is True:
            self.turn_on_checkpointing()

    def close(self) -> None:
        """Give the model back as it was."""
        if self.checkpointing:
            activations.keep(self._model)

    def turn_on_checkpointing(self) -> None:
        """Less memory for a third more compute, from the next micro-batch on."""
        activations.remake(self._model)
        self.checkpointing = True

    def restore(self, tokens: int, checkpointing: bool) -> None:
        """Go on with what a checkpoint has found out."""
        self.tokens = tokens
        if checkpointing and not self.checkpointing:
            self.turn_on_checkpointing()

    # micro-batches
    def lay_out(self, examples: Sequence[Encoded]) -> list[Batch]:
        """Micro-batches within the budget."""
        return self._lay_out(examples, self.tokens)

    def step(self, examples: Sequence[Encoded]) -> list[Batch]:
        """The micro-batches of an optimiser step: one, where the objective looks at the whole of it."""
        return self._lay_out(examples, sys.maxsize if self.whole_step else self.tokens)

    def _lay_out(self, examples: Sequence[Encoded], tokens: int) -> list[Batch]:
        return micro_batches(examples, tokens, share_prefix=self.forward.share_prefix, layout=self.forward.layout)

    # out of memory
    def begins(self, batch: Batch, *, whole: bool = False) -> None:
        """This micro-batch is under way: it is the one that did not fit when memory runs out. `whole`: it is a whole
        step that may not be cut."""
        self._now, self._whole = batch, whole

    def until_it_fits(self, work: Callable[[], Done], again: Callable[[], None] = lambda: None) -> Done:
        """What `work()` returns, done again with smaller micro-batches as often as memory runs out; `again` is called
        before. Raises LuthierError where a single row does not fit."""
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error):
                    raise
            # outside the except block, where the traceback no longer holds the graph
            again()
            allocator.give_back(self.device)
            self._shrink()

    def _shrink(self) -> None:
        """Make the micro-batch that did not fit smaller: half the tokens, then gradient checkpointing."""
        batch = self._now
        if batch is None:
            raise LuthierError("not enough memory to begin", fix="lower train.max_tokens, or take a smaller model")
        whole = self._whole
        if len(batch.examples) > 1 and not whole:
            size = batch.shape[0] * batch.shape[1]
            self.tokens = min(self.tokens, size) // 2
        elif self.may_checkpoint and not self.checkpointing and torch.is_grad_enabled():
            self.turn_on_checkpointing()
        else:
            raise LuthierError(
                f"not enough memory for {'a whole step' if whole else 'a single row'} of {batch.whole_tokens:,} tokens"
                + (", which this objective takes at once" if whole else ""),
                where=str(batch.examples[0].source) if batch.examples[0].source else None,
                fix=("lower train.batch or " if whole else "lower ")
                + "train.max_tokens, set train.checkpointing=true, use lora, or a smaller model",
            )
        fields = {"micro_tokens": self.tokens, "checkpointing": self.checkpointing, "tokens": batch.whole_tokens}
        self.on_shrink(fields)
