"""What a scalar head says of given tokens: the rewards of a reward model.

Shape suffixes: K = readings of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward.batches import Batch
from luthier.forward.likelihoods import AT_ONCE, each, fitting, reading
from luthier.models.heads import REWARD, ScalarHead
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.types import Encoded


class Reader:
    """A model's backbone with a scalar head, as training reads it: no token is produced, the output head never runs."""

    def __init__(self, module: Any, head: ScalarHead, *, rows: int = AT_ONCE) -> None:
        """`rows`: the most rows in one forward pass."""
        self._module, self._head, self._rows = module, head, rows
        self._device = next(module.parameters()).device

    def __call__(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row the reading at the end of each of its responses, or of each of their steps, in order.

        Raises LuthierError where a head that reads steps is given a row without any.
        """
        kind = self._head.card.kind
        if kind == "step":
            for row in rows:
                _check_steps(row)
        with reading(self._module, heads={REWARD: self._head}) as forward:

            def values(batch: Batch) -> Tensor:
                return forward.rows(batch, (), ((REWARD, kind),)).read(REWARD)[0]

            count = _steps if kind == "step" else _responses
            lay_out = fitting(forward, LARGEST_MICRO)
            return list(each(rows, lay_out, values, self._device, count=count, at_once=self._rows))


def _responses(row: Encoded) -> int:
    return len(row.ids)


def _steps(row: Encoded) -> int:
    return sum(len(ends) for ends in row.column("step_end"))


def _check_steps(row: Encoded) -> None:
    if not all(len(ends) for ends in row.column("step_end")):
        raise LuthierError(
            "a process reward model reads the end of each step, and this response has no steps",
            fix="give rows with `completions` (the steps) and `labels`",
        )
