"""What a rollout asks of the loop around it: the forward pass that trains, on rows that were just written.

Shape suffixes: S = scored tokens of a micro-batch, T = sampled tokens of one answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.forward.likelihoods import each
from luthier.models import dropout
from luthier.train.loop import rng
from luthier.train.loop.budget import Budget
from luthier.train.roles.reference import Reference
from luthier.train.rollouts.drawn import Floats
from luthier.train.telemetry.log import Log
from luthier.types import Encoded

VALUE = "value"
"""The role of a critic's head."""


@dataclass(frozen=True)
class Surroundings:
    """The loop's forward, within its memory; the reference, where the objective has one; and where events go."""

    forward: Forward
    budget: Budget
    log: Log
    reference: Reference | None = None

    def __post_init__(self) -> None:
        rates = dropout.of_adapters(self.forward.module)
        if rates:
            raise LuthierError(
                f"the adapter has a dropout of {rates[0].value:g}: answers are drawn without it, so that what learns "
                "would not be what spoke",
                where="adapt",
                fix="set it to 0",
            )
        if self.budget.group.several:
            raise LuthierError("rollouts are drawn by one process", where="--processes", fix="train with one process")

    def logp(self, rows: Sequence[Encoded]) -> list[list[Floats]]:
        """Of each answer's tokens under the model as it stands, by the very pass that will train on them."""
        return self._of(rows, lambda batch: self.forward.rows(batch).logp_S)

    def reference_logp(self, rows: Sequence[Encoded]) -> list[list[Floats]]:
        """The same under the reference."""
        assert self.reference is not None, "the objective has no reference"
        return self._of(rows, self.reference.logp)

    def values(self, rows: Sequence[Encoded]) -> list[list[Floats]]:
        """What the critic expects before each token of each answer."""
        return self._of(rows, lambda batch: self.forward.rows(batch, (), ((VALUE, "token"),)).read(VALUE)[0])

    def undisturbed(self) -> Callable[[], None]:
        """Remembers the random states; calling what it gives puts them back: whatever scorers draw, training draws what
        it would have."""
        before: dict[str, Any] = rng.capture(self.budget.device)
        return lambda: rng.restore(before, self.budget.device)

    def _of(self, rows: Sequence[Encoded], values: Callable[[Batch], Tensor]) -> list[list[Floats]]:
        budget = self.budget

        def noted(batch: Batch) -> Tensor:
            budget.begins(batch)
            return values(batch)

        found = budget.until_it_fits(lambda: list(each(rows, budget.lay_out, noted, budget.device)), alone=True)
        return [_by_answer(row, values_S) for row, values_S in zip(rows, found, strict=True)]


def _by_answer(row: Encoded, values_S: Any) -> list[Floats]:
    ends = np.cumsum([int(np.count_nonzero(weights[1:])) for weights in row.weights])
    return [np.asarray(part, np.float32) for part in np.split(values_S, ends[:-1])]
