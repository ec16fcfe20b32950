"""How many tokens go through the model at once: as many as memory allows, found out by running short of it.

Out of memory halves the micro-batches, then turns gradient checkpointing on, and the same work is done again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import torch

from luthier.distributed.group import ALONE, Group
from luthier.distributed.shares import Load, assign, even
from luthier.errors import LuthierError
from luthier.forward import filling
from luthier.forward.batches import Batch, micro_batches
from luthier.forward.forward import Forward
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.recipe.schema import Train
from luthier.train.loop import activations, allocator, memory
from luthier.types import Encoded, Source

Done = TypeVar("Done")


class RanOut(MemoryError):
    """Memory ran out in one of several processes: all do the work again."""


@dataclass(frozen=True)
class Short:
    """The micro-batch that did not fit."""

    size: int
    examples: int
    tokens: int
    source: Source | None
    whole: bool
    """It is a whole step that may not be cut."""


class Budget:
    """The token budget of one forward pass, and whether activations are made again in the backward pass.

    Of several processes all have the same: what one of them is short of, all do smaller.
    """

    def __init__(
        self, forward: Forward, train: Train, device: torch.device, *, whole_step: bool, group: Group = ALONE
    ) -> None:
        """`whole_step`: a step is one micro-batch, whatever its size."""
        self.forward, self.device, self.whole_step, self.group = forward, device, whole_step, group
        self._parts = train.parts or group.world
        self._failed = False
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

    def cut(self, examples: Sequence[Encoded]) -> list[Batch]:
        """The micro-batches of a step of training: as `step`, but as many as the recipe's parts or the processes ask
        for, with about the same to do in each."""
        if self.whole_step or self._parts == 1:
            return self.step(examples)
        return self._lay_out(
            examples, even(partial(self._filled, examples), _loads(examples), self.tokens, self._parts)
        )

    def mine(self, batches: Sequence[Batch]) -> list[int]:
        """The places of those that this process computes."""
        if not self.group.several:
            return list(range(len(batches)))
        costs = [Load(batch.tokens, _squares(batch.examples)).cost for batch in batches]
        return assign(costs, self.group.world)[self.group.rank]

    def _filled(self, examples: Sequence[Encoded], tokens: int) -> list[list[int]]:
        if self.forward.layout == "padded":
            return filling.padded(examples, tokens)
        return filling.packed(examples, tokens, share=self.forward.share_prefix)

    def _lay_out(self, examples: Sequence[Encoded], tokens: int) -> list[Batch]:
        return micro_batches(examples, tokens, share_prefix=self.forward.share_prefix, layout=self.forward.layout)

    # out of memory
    def begins(self, batch: Batch, *, whole: bool = False) -> None:
        """This micro-batch is under way: it is the one that did not fit when memory runs out. `whole`: it is a whole
        step that may not be cut."""
        self._now, self._whole = batch, whole

    def together(self, work: Callable[[], Done]) -> Done:
        """What `work()`, which speaks to no other process, returns here. Memory that runs out in one process has run
        out in all: raises RanOut in each of them."""
        if not self.group.several:
            return work()
        done: list[Done] = []
        self._failed = False
        try:
            done.append(work())
        except (RuntimeError, MemoryError) as error:
            if not memory.ran_out(error):
                raise
            self._failed = True
        if self.group.agree(self._failed):
            raise RanOut
        return done[0]

    def until_it_fits(
        self, work: Callable[[], Done], again: Callable[[], None] = lambda: None, *, alone: bool = False
    ) -> Done:
        """What `work()` returns, done again with smaller micro-batches as often as memory runs out; `again` is called
        before. Of several processes all do so, and what may run out is done by `together`, unless this one is `alone`
        in it. Raises LuthierError where a single row does not fit."""
        all_know = self.group.several and not alone
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not memory.ran_out(error) or (all_know and not isinstance(error, RanOut)):
                    raise
            # outside the except block, where the traceback no longer holds the graph
            again()
            allocator.give_back(self.device)
            if all_know:
                found = self.group.gather(self._short() if self._failed else None)
                self._shrink(next(short for short in found if short is not None))
            else:
                self._shrink(self._short())

    def follow(self) -> None:
        """Take the first process's budget, after what it has done alone."""
        if self.group.several:
            self.restore(*self.group.share((self.tokens, self.checkpointing)))

    def _short(self) -> Short:
        batch = self._now
        if batch is None:
            raise LuthierError("not enough memory to begin", fix="lower train.max_tokens, or take a smaller model")
        first, size = batch.examples[0], batch.shape[0] * batch.shape[1]
        return Short(size, len(batch.examples), batch.whole_tokens, first.source, self._whole)

    def _shrink(self, short: Short) -> None:
        """Make the micro-batch that did not fit smaller: half the tokens, then gradient checkpointing."""
        whole = short.whole
        if short.examples > 1 and not whole:
            self.tokens = min(self.tokens, short.size) // 2
        elif self.may_checkpoint and not self.checkpointing and torch.is_grad_enabled():
            self.turn_on_checkpointing()
        else:
            raise LuthierError(
                f"not enough memory for {'a whole step' if whole else 'a single row'} of {short.tokens:,} tokens"
                + (", which this objective takes at once" if whole else ""),
                where=str(short.source) if short.source else None,
                fix=("lower train.batch or " if whole else "lower ")
                + "train.max_tokens, set train.checkpointing=true, use lora, or a smaller model",
            )
        fields = {"micro_tokens": self.tokens, "checkpointing": self.checkpointing, "tokens": short.tokens}
        self.on_shrink(fields)


def _loads(examples: Sequence[Encoded]) -> list[Load]:
    return [Load(filling.computed(example), _squares([example])) for example in examples]


def _squares(examples: Sequence[Encoded]) -> int:
    return sum(len(ids) ** 2 for example in examples for ids in example.ids)
