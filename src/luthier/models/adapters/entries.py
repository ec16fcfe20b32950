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
        self.settled: tuple[Tensor, Tensor] | None = None
        """Which of the entries train no more (bool, K), and their values."""
        self._take(self.weight.float().abs().flatten() < tau)
        del layer.weight
        layer.register_parameter(NAME, self.values)
        layer.register_buffer("weight", self._through())

    def _take(self, mask_N: Tensor) -> None:
        self.index_K = mask_N.nonzero().squeeze(1).to(torch.int32)
        self.base_K = self.weight.view(-1)[self.index_K]
        self.values = nn.Parameter(self.base_K.to(torch.float32, copy=True))
        self._written = self.values._version

    def _through(self) -> Tensor:
        with torch.enable_grad():
            entering: Tensor = _Through.apply(self.weight, self.values, self)  # type: ignore[no-untyped-call]
        return entering

    # keeping matrix and vector the same
    def refresh(self) -> None:
        """Before a forward pass: the matrix has the vector's values, and hangs in the graph if the vector trains."""
        if self.values._version != self._written:
            self.write()
        if self.layer.weight.requires_grad != self.values.requires_grad:
            self.layer.weight = self._through()

    def write(self, values_K: Tensor | None = None) -> None:
        """Round the vector (or `values_K`) into the matrix."""
        values_K = self.values.detach() if values_K is None else values_K
        # past autograd's version counter: nothing is written between a forward pass and its backward pass that is not
        # put back
        self.weight.data.view(-1)[self.index_K] = values_K.to(self.weight.dtype)
        self._written = self.values._version

    def settle(self) -> None:
        """From now on only the entries train that are still below the threshold."""
        settled_K = self.values.detach().abs() >= self.tau
        self.settled = settled_K, self.values.detach()[settled_K]

    def hold(self) -> None:
        """Undo what a step did to the settled entries: without gradient, momentum still moves them."""
        if self.settled is not None:
            self.values.data[self.settled[0]] = self.settled[1]

    # the update as a matrix
    def nuclear_norm(self) -> Tensor:
        """‖W - W_base‖_* as a scalar whose gradient is U V^T at the entries, over the singular values that are not
        zero (at zero itself: none)."""
        update_RC = torch.zeros(self.weight.shape, device=self.weight.device)
        update_RC.view(-1)[self.index_K] = self.values.detach() - self.base_K.float()
        u, s, vh = torch.linalg.svd(update_RC, full_matrices=False)
        kept = s > s.max() * max(update_RC.shape) * torch.finfo(s.dtype).eps
        slope_RC = u[:, kept] @ vh[kept]
        slope_K = slope_RC.view(-1)[self.index_K]
        if self.settled is not None:  # those pull no more
            slope_K = slope_K.masked_fill(self.settled[0], 0)
        moving = (slope_K * self.values).sum()
        return moving + (s.sum() - moving.detach())

    # on disk
    def mask_bits(self) -> Tensor:
        """Which entries train: one bit for each of the matrix, the first in the highest place of the first byte."""
        mask_N = np.zeros(self.weight.numel(), np.bool_)
        mask_N[self.index_K.cpu().numpy()] = True
        return torch.from_numpy(np.packbits(mask_N))

    def load(self, bits: Tensor, values_K: Tensor) -> None:
        """Put back what was saved, on a base in which other entries may be the smallest."""
        self.write(self.base_K)
        mask_N = torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=self.weight.numel()).astype(np.bool_))
        self._take(mask_N.to(self.weight.device))
        self.values.data.copy_(values_K)
        setattr(self.layer, NAME, self.values)
        self.layer.weight = self._through()
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
        if entries.settled is not None:
            grad_K.masked_fill_(entries.settled[0], 0)
        return None, grad_K, None
