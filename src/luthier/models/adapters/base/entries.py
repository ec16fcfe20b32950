"""Some entries of a matrix as a trainable vector of their own, the matrix itself as a buffer of its layer.

Shape suffixes: K = entries that train, N = all entries of the matrix, R x C = its shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

NAME = "sara"
"""The vector's name beside the layer's weight."""


def threshold(weight_RC: Tensor, share: float) -> float:
    """τ such that at most this share of the entries, and one more would exceed it, has a magnitude below τ."""
    count = int(share * weight_RC.numel())
    if count >= weight_RC.numel():
        return float("inf")
    return float(weight_RC.detach().float().abs().flatten().kthvalue(count + 1).values)


class Entries:
    """The entries of a layer's weight whose magnitude is below `tau`."""

    def __init__(self, layer: Any, tau: float) -> None:
        self.layer, self.tau = layer, tau
        self.weight: Tensor = layer.weight.detach()
        self.settled_K: Tensor | None = None
        """Which of the entries train no more."""
        del layer.weight
        self._choose(self.weight.float().abs().flatten() < tau)

    def _choose(self, mask_N: Tensor) -> None:
        """These entries train, from the values that the matrix has."""
        self.index_K = mask_N.nonzero().squeeze(1).to(torch.int32)
        self.base_K = self.weight.view(-1)[self.index_K]
        self.values = nn.Parameter(self.base_K.to(torch.float32, copy=True))
        self._written = self.values._version
        self.layer.register_parameter(NAME, self.values)
        self._enter()

    def _enter(self) -> None:
        """The layer's weight hangs in the graph by the vector, if that trains."""
        with torch.enable_grad():
            self.layer.register_buffer("weight", _Through.apply(self.weight, self.values, self))  # type: ignore[no-untyped-call]

    # keeping matrix and vector the same
    def refresh(self) -> None:
        """Before a forward pass: the matrix has the vector's values, and its place in the graph."""
        if self.values._version != self._written:
            self.write()
        if self.layer.weight.requires_grad != self.values.requires_grad:
            self._enter()

    def write(self, values_K: Tensor | None = None) -> None:
        """Round the vector (or `values_K`) into the matrix."""
        values_K = self.values.detach() if values_K is None else values_K
        # past autograd's version counter: nothing is written between a forward pass and its backward pass that is not
        # put back
        self.weight.data.view(-1)[self.index_K] = values_K.to(self.weight.dtype)
        self._written = self.values._version

    def mark_settled(self) -> None:
        """From now on only the entries train that are still below the threshold."""
        self.settled_K = self.values.detach().abs() >= self.tau

    def restore_settled(self) -> None:
        """Undo what a step did to the settled entries: without gradient, momentum still moves them. The matrix has
        their values yet."""
        if self.settled_K is not None:
            self.values.data[self.settled_K] = self.weight.view(-1)[self.index_K][self.settled_K].float()

    # the update as a matrix
    def nuclear_norm(self) -> Tensor:
        """‖W - W_base‖_* as a scalar; its gradient is U V^T at the entries that are not settled, over the singular
        values that are not zero (at zero itself: none)."""
        values_K: Tensor = self.values
        if self.settled_K is not None:
            values_K = values_K.where(~self.settled_K, values_K.detach())
        update_N = torch.zeros(self.weight.numel(), device=self.weight.device)
        update_N = update_N.index_put((self.index_K,), values_K - self.base_K.float())
        s = torch.linalg.svdvals(update_N.view(self.weight.shape))
        norm: Tensor = s[s > s.max() * max(self.weight.shape) * torch.finfo(s.dtype).eps].sum()
        return norm

    # on disk
    def mask_bits(self) -> Tensor:
        """Which entries train: one bit for each of the matrix, the first in the highest place of the first byte."""
        mask_N = np.zeros(self.weight.numel(), np.bool_)
        mask_N[self.index_K.cpu().numpy()] = True
        return torch.from_numpy(np.packbits(mask_N))

    def load(self, bits: Tensor, values_K: Tensor) -> None:
        """Put back what was saved, on a base in which other entries may be the smallest."""
        self.write(self.base_K)
        mask_N = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=self.weight.numel()))
        self._choose(mask_N.to(self.weight.device))
        self.values.data.copy_(values_K)
        self.write()

    def dissolve(self) -> None:
        """Make the matrix a plain parameter again, with the values it has."""
        delattr(self.layer, NAME)
        del self.layer.weight
        self.layer.weight = nn.Parameter(self.weight)


class _Through(torch.autograd.Function):
    """The matrix as it stands; backwards, the gradient of its chosen entries."""

    @staticmethod
    def forward(ctx: Any, weight_RC: Tensor, values_K: Tensor, entries: Entries) -> Tensor:
        ctx.entries = entries
        return weight_RC.view_as(weight_RC)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, Tensor, None]:
        entries: Entries = ctx.entries
        grad_K = grads[0].reshape(-1)[entries.index_K].float()
        if entries.settled_K is not None:
            grad_K.masked_fill_(entries.settled_K, 0)
        return None, grad_K, None
