"""What training on one row would change: its gradient, as it is and as Adam would step, on few numbers.

LESS (arXiv:2402.04333) finds rows whose step goes where the rows of a task want to go. Of a row that trains that is the
step that Adam would take next, of a task's row the gradient; both are taken for the adapter's weights alone, and
projected by the same random signs, which keeps their cosines.

Shape suffixes: P = the weights that train, D = numbers that a gradient is projected on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter

from luthier.forward.batches import micro_batches
from luthier.forward.likelihoods import reading
from luthier.recipe.resolve import LARGEST_MICRO
from luthier.types import Encoded

SEED = 24_020_433
"""Draws the projection: the same for every row that is ever projected."""


@dataclass(frozen=True)
class Moments:
    """What Adam remembers of one weight tensor: the mean of its gradients and of their squares, after so many steps."""

    mean: Tensor
    square: Tensor
    steps: int
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8


def stepped(gradient: Tensor, moments: Moments | None) -> Tensor:
    """The direction of Adam's next step where this is the next gradient. None: its first step, which is the sign."""
    if moments is None:
        moments = Moments(torch.zeros_like(gradient), torch.zeros_like(gradient), 0)
    first, second = moments.betas
    mean = first * moments.mean + (1 - first) * gradient
    square = second * moments.square + (1 - second) * gradient**2
    steps = moments.steps + 1
    return mean / (1 - first**steps) / ((square / (1 - second**steps)).sqrt() + moments.eps)


class Projection:
    """Sums of weights with random signs: D of them, each weight in one. Scalar products stay what they were, but for
    noise of about 1/√D of both lengths."""

    def __init__(self, weights: int, size: int, device: torch.device) -> None:
        draw = torch.Generator().manual_seed(SEED)
        self.size = size
        self._place_P = torch.randint(size, (weights,), generator=draw, dtype=torch.int32).to(device)
        self._sign_P = (torch.randint(2, (weights,), generator=draw, dtype=torch.int8) * 2 - 1).to(device)

    def __call__(self, vector_P: Tensor) -> Tensor:
        """The sums, D."""
        return torch.zeros(self.size, device=vector_P.device).index_add_(0, self._place_P, vector_P * self._sign_P)


class Influences:
    """Gradients of a model's added weights, row by row. The model is given back as it was."""

    def __init__(
        self, module: Any, trained: Sequence[tuple[str, Parameter]], moments: Mapping[str, Moments], size: int
    ) -> None:
        """`trained`: the weights that count, by name; `moments`: what Adam remembers of them, as far as it is known."""
        self._module, self._trained, self._moments = module, list(trained), moments
        device = self._trained[0][1].device
        self._projection = Projection(sum(weight.numel() for _, weight in self._trained), size, device)

    def __call__(self, rows: Sequence[Encoded], *, adam: bool) -> list[NDArray[np.float32]]:
        """For each row the gradient of the mean loss of its scored tokens, or (`adam`) Adam's step by it: D."""
        asked = [weight.requires_grad for _, weight in self._trained]
        for _, weight in self._trained:
            weight.requires_grad_(True)
        try:
            with reading(self._module, share_prefix=False) as forward, torch.enable_grad():
                found = []
                for row in rows:
                    (batch,) = micro_batches([row], LARGEST_MICRO, share_prefix=False, layout=forward.layout)
                    loss = -forward.rows(batch.to(self._device)).logp_S.mean()
                    found.append(self._projected(torch.autograd.grad(loss, self._weights, allow_unused=True), adam))
                return found
        finally:
            for (_, weight), before in zip(self._trained, asked, strict=True):
                weight.requires_grad_(before)

    def _projected(self, gradients: Sequence[Tensor | None], adam: bool) -> NDArray[np.float32]:
        parts = []
        for (name, weight), given in zip(self._trained, gradients, strict=True):
            gradient = torch.zeros_like(weight, dtype=torch.float32) if given is None else given.float()
            parts.append((stepped(gradient, self._moments.get(name)) if adam else gradient).reshape(-1))
        found: NDArray[np.float32] = self._projection(torch.cat(parts)).cpu().numpy()
        return found

    @property
    def _weights(self) -> list[Parameter]:
        return [weight for _, weight in self._trained]

    @property
    def _device(self) -> torch.device:
        return self._trained[0][1].device


__all__ = ["Influences", "Moments", "Projection", "stepped"]
