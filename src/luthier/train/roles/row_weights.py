"""Weights of rows by where their prompts come from, for objectives that ask for them (BCO's density ratio).

Shape suffixes: N = examples, T = tokens of a micro-batch, D = hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.forward.forward import Forward
from luthier.forward.likelihoods import AT_ONCE, LayOut
from luthier.objectives import density
from luthier.types import Encoded, TokenStore


def density_ratios(forward: Forward, store: TokenStore, lay_out: LayOut) -> NDArray[np.float32]:
    """One weight for each example of a labelled store, from the model's own embeddings of the prompts as it is now.

    An embedding is the mean of the backbone's hidden states over the prompt.
    """
    found: list[Tensor] = [torch.empty(0)] * len(store)
    device = next(forward.module.parameters()).device
    for begin in range(0, len(store), AT_ONCE):
        prompts = [_prompt(store[i], i) for i in range(begin, min(begin + AT_ONCE, len(store)))]
        for batch in lay_out(prompts):
            with torch.no_grad():
                hidden_TD = forward.hidden(batch.to(device)).float().cpu()
            for row, place_T in zip(batch.rows, batch.places, strict=True):
                found[row] = hidden_TD[place_T].mean(0)
    good_N = torch.tensor([store[i].scores[0] > 0.5 for i in range(len(store))])
    weights: NDArray[np.float32] = density.weights(torch.stack(found), good_N).numpy()
    return weights


def _prompt(example: Encoded, row: int) -> Encoded:
    """What stands before the first scored token, as a row of its own."""
    length = int(np.flatnonzero(example.weights[0])[0])
    return Encoded((example.ids[0][:length],), (np.zeros(length, np.float32),), row=row)
