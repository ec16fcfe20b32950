"""Copies of matrices in fewer bytes, for readers that are asked for them: a step of few tokens takes as long as its
weights take to read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from luthier.models.blocks.kernels import decode

Kind = Literal["own", "bf16", "int8"]
"""`own`: the matrices themselves. `bf16`: of an fp32 model, those that are frozen and hold only what bf16 holds, too:
the same numbers in half the bytes. `int8`: all, rounded to 255 steps a row."""


@dataclass(frozen=True)
class Copy:
    """A matrix as it is read: where it lies, and the scale of its rows where it has one. `of`: what it is a copy of,
    held on to, so that nothing else can come to lie at the address by which the copy is found."""

    matrix: Tensor
    scale: Tensor | None = None
    of: Tensor | None = None

    @property
    def kind(self) -> int:
        """In the kernel's numbers."""
        kinds = {torch.float32: decode.FP32, torch.bfloat16: decode.BF16, torch.int8: decode.INT8}
        return kinds[self.matrix.dtype]


class Copies:
    """The copies of a reader. One is made anew when torch says that its matrix has changed, or it lies elsewhere."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self._found: dict[tuple[int, int, bool], Copy] = {}
        self._used: set[tuple[int, int, bool]] = set()

    def of(self, weight: Tensor) -> Copy:
        """How a matrix is read."""
        if self.kind == "own" or (self.kind == "bf16" and (weight.requires_grad or weight.dtype is torch.bfloat16)):
            return Copy(weight)
        key = weight.data_ptr(), weight._version, weight.requires_grad
        self._used.add(key)
        if key not in self._found:
            self._found[key] = _in_bf16(weight.detach()) if self.kind == "bf16" else _in_int8(weight.detach())
        return self._found[key]

    def sweep(self) -> None:
        """Let go of copies that were not asked for since the last time."""
        self._found = {key: copy for key, copy in self._found.items() if key in self._used}
        self._used = set()

    def drop(self) -> None:
        """Let go of all."""
        self._found, self._used = {}, set()

    @property
    def count(self) -> int:
        """Matrices that are read from a copy."""
        return sum(copy.matrix.dtype in (torch.int8, torch.bfloat16) for copy in self._found.values())


def _in_bf16(weight: Tensor) -> Copy:
    half = weight.to(torch.bfloat16)
    return Copy(half if torch.equal(half.float(), weight) else weight, of=weight)


def _in_int8(weight: Tensor) -> Copy:
    """Each row in steps of its largest number / 127, to the nearest."""
    scale = weight.abs().amax(1, keepdim=True).float() / 127
    steps = (weight.float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round_().to(torch.int8)
    return Copy(steps.contiguous(), scale[:, 0].contiguous(), weight)
