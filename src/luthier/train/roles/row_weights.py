"""Weights of rows by where their prompts come from, for objectives that ask for them (BCO's density ratio).

Shape suffixes: N = examples, T = tokens of a micro-batch, D = hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.forward.likelihoods import AT_ONCE
from luthier.objectives import density
from luthier.train.loop.budget import Budget
from luthier.types import Encoded, TokenStore


class RowWeights:
    """One weight for each labelled example, from the model's own embeddings of the prompts before the first step.

    An embedding is the mean of the backbone's hidden states over the prompt.
    """

    def __init__(self, forward: Forward, budget: Budget) -> None:
        self._forward, self._budget = forward, budget
        self._found: dict[tuple[bytes, float], float] = {}

    def add(self, examples: Sequence[Encoded] | TokenStore) -> None:
        """Weigh these, among themselves."""
        count = len(examples)
        embedded: list[Tensor] = []
        for begin in range(0, count, AT_ONCE):
            prompts = [_prompt(examples[i]) for i in range(begin, min(begin + AT_ONCE, count))]
            embedded += self._budget.until_it_fits(lambda prompts=prompts: self._all_embedded(prompts))  # type: ignore[misc]
        good_N = torch.tensor([examples[i].column("reward")[0] > 0.5 for i in range(count)])
        weights = density.weights(torch.stack(embedded), good_N).tolist()
        self._found |= {_labelled(examples[i]): weight for i, weight in enumerate(weights)}

    def of(self, batch: Batch) -> Tensor:
        """The weight of each row of a micro-batch, N."""
        weights = torch.tensor([self._found[_labelled(example)] for example in batch.examples])
        return weights.to(batch.weight_S.device)[batch.group_N]

    def _all_embedded(self, prompts: Sequence[Encoded]) -> list[Tensor]:
        """Each process embeds all of them."""
        return self._budget.together(lambda: self._embedded(prompts))

    @torch.no_grad()
    def _embedded(self, prompts: Sequence[Encoded]) -> list[Tensor]:
        found: list[Tensor] = [torch.empty(0)] * len(prompts)
        device = next(self._forward.module.parameters()).device
        for batch in self._budget.lay_out(prompts):
            self._budget.begins(batch)
            hidden_TD = self._forward.hidden(batch.to(device)).float().cpu()
            for row, place_T in zip(batch.chosen, batch.places, strict=True):
                found[row] = hidden_TD[place_T].mean(0)
        return found


def _labelled(example: Encoded) -> tuple[bytes, float]:
    return example.key, float(example.column("reward")[0])


def _prompt(example: Encoded) -> Encoded:
    """What stands before the first scored token, as a row of its own."""
    length = int(np.flatnonzero(example.weights[0])[0])
    return Encoded((example.ids[0][:length],), (np.zeros(length, np.float32),), source=example.source)
