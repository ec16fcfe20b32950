"""NEFTune (arXiv:2310.05914, algorithm 1): uniform noise on the token embeddings while training.

A row of L tokens with D-dimensional embeddings gets noise from U(-1, 1) scaled by alpha / sqrt(L D). L is the row's
own length, also where rows are packed: padding and neighbours do not change the noise.

Shape suffixes: T = tokens of the micro-batch, D = hidden size.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.forward.batches import Batch


class Noise:
    """A forward hook on the embedding layer. Call `lengths_of` before each forward pass, `remove` at the end."""

    def __init__(self, embedding: nn.Module, alpha: float) -> None:
        self.alpha = alpha
        self._length_T: Tensor | None = None
        self._hook = embedding.register_forward_hook(self._add)

    def lengths_of(self, batch: Batch) -> None:
        """Take the length of each token's row from the batch, which must be laid out without shared prefixes."""
        length_T = torch.ones(batch.shape[0] * batch.shape[1])
        for segment in batch.segments:
            length_T[segment.start : segment.end] = segment.end - segment.start
        self._length_T = length_T

    def remove(self) -> None:
        """Give the embedding layer back as it was."""
        self._hook.remove()

    def _add(self, module: nn.Module, _args: tuple[Tensor, ...], embedded: Tensor) -> Tensor | None:
        if not module.training or self._length_T is None:
            return None
        length_T = self._length_T.to(embedded.device).view(*embedded.shape[:-1], 1)
        scale_T = self.alpha / torch.sqrt(length_T * embedded.shape[-1])
        return embedded + torch.empty_like(embedded).uniform_(-1, 1) * scale_T.to(embedded.dtype)
