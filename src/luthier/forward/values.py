"""What a scalar head says of given tokens: the rewards of a reward model.

Shape suffixes: B = rows of the batch, T = tokens of the longest one, K = readings of one sequence, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.errors import LuthierError
from luthier.forward.padding import alike, padded
from luthier.models import positions
from luthier.models.adapters.kit.attached import bare
from luthier.models.heads import ScalarHead
from luthier.models.virtual import virtual
from luthier.types import Encoded


class Reader:
    """A model's backbone with a scalar head: no token is produced and the output head never runs."""

    def __init__(self, module: Any, head: ScalarHead, *, rows: int = 64) -> None:
        self._module, self._head, self._rows = module, head, rows
        self._device = next(module.parameters()).device

    def __call__(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row the reading at the end of each of its responses, or of each of their steps, in order.

        Raises LuthierError where a head that reads steps is given a row without any.
        """
        sequences, places, owner = [], [], []
        for number, row in enumerate(rows):
            for n, ids in enumerate(row.ids):
                sequences.append((ids, row.weights[n]))
                places.append(self._places(row, n))
                owner.append(number)
        values: list[NDArray[np.float32]] = [np.zeros(0, np.float32)] * len(sequences)
        training = self._module.training
        self._module.eval()
        try:
            with torch.no_grad():
                for chosen in alike([len(ids) for ids, _ in sequences], rows=self._rows):
                    self._read([sequences[i] for i in chosen], [places[i] for i in chosen], chosen, values)
        finally:
            self._module.train(training)
        found: list[list[NDArray[np.float32]]] = [[] for _ in rows]
        for number, value_K in zip(owner, values, strict=True):
            found[number].append(value_K)
        return [np.concatenate(parts) for parts in found]

    def _places(self, row: Encoded, response: int) -> NDArray[np.int32]:
        if self._head.card.kind == "row":
            return np.array([len(row.ids[response]) - 1], np.int32)
        ends: NDArray[np.int32] = row.column("step_end")[response]
        if not len(ends):
            raise LuthierError(
                "a process reward model reads the end of each step, and this response has no steps",
                fix="give rows with `completions` (the steps) and `labels`",
            )
        return ends

    def _read(
        self,
        sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]],
        places: Sequence[NDArray[np.int32]],
        numbers: Sequence[int],
        values: list[NDArray[np.float32]],
    ) -> None:
        ids_BT, mask_BT = padded([ids for ids, _ in sequences])
        ids_BT, mask_BT = ids_BT.to(self._device), None if mask_BT is None else mask_BT.to(self._device)
        before = virtual(self._module)
        inputs: dict[str, Any] = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
        if before is not None:
            inputs = before.before(ids_BT, mask_BT)
        elif positions.placed(self._module):
            weights = [each for _, each in sequences]
            inputs[positions.KEYWORD] = positions.Prompts.unscored(weights, ids_BT.shape[1], self._device)
        hidden_BTD: Tensor = bare(self._module).base_model(**inputs).last_hidden_state
        hidden_BTD = hidden_BTD[:, before.places if before is not None else 0 :]
        for row, (place_K, number) in enumerate(zip(places, numbers, strict=True)):
            hidden_KD = hidden_BTD[row, torch.from_numpy(place_K.astype(np.int64)).to(self._device)]
            values[number] = self._head.read(hidden_KD).cpu().numpy()
