"""Linear maps that share an input, with or without LoRA or OFT on top, forward and backward as plain functions.

y_i = x W_i^T + b_i + s_i (x A_i^T) B_i^T for every projection i of a group; the A_i are one matrix product. Under OFT
y_i = (x + x D_i) W_i^T + b_i, with D_i the turn of blocks of inputs.

Shape suffixes: T = tokens, I = inputs, O = outputs of the whole group, R = ranks of the whole group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.blocks import rotations


@dataclass(frozen=True)
class Projection:
    """One linear map: `weight` O x I, and if LoRA is active `down` (A, r x I), `up` (B, O x r) and its scale.

    If OFT is: `turn`, blocks x width x width.
    """

    weight: Tensor
    bias: Tensor | None = None
    down: Tensor | None = None
    up: Tensor | None = None
    scale: float = 1.0
    turn: Tensor | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What may need a gradient, in the order in which `backward` returns the gradients."""
        return self.weight, self.bias, self.down, self.up, self.turn

    @property
    def outputs(self) -> int:
        """Width of the output."""
        return self.weight.shape[0]

    @property
    def rank(self) -> int:
        """LoRA's rank; 0 without LoRA."""
        return 0 if self.down is None else self.down.shape[0]


def projection(module: Any, *, reading: bool = False) -> Projection | None:
    """The projection that a module computes; None if it is no linear map, or one under more than plain LoRA or OFT.

    `reading`: as it stands outside of training, where dropout is none.
    """
    if type(module) is nn.Linear:
        return Projection(module.weight, module.bias)
    from peft.tuners.lora.layer import Linear as LoraLinear

    rotation = rotations.rotation(module)
    if not (rotation or type(module) is LoraLinear) or type(module.base_layer) is not nn.Linear:
        return None
    base = module.base_layer
    if module.disable_adapters or module.merged:
        return Projection(base.weight, base.bias) if not module.merged else None
    if rotation is not None:
        return Projection(base.weight, base.bias, turn=rotation.turn())
    if len(module.active_adapters) != 1:
        return None
    name = module.active_adapters[0]
    if name not in module.lora_A:
        return Projection(base.weight, base.bias)
    plain = (
        name not in module.lora_variant
        and (reading or isinstance(module.lora_dropout[name], nn.Identity))
        and module.lora_A[name].bias is None
        and module.lora_B[name].bias is None
        and not module.fan_in_fan_out
    )
    if not plain:
        return None
    down: Any = module.lora_A[name].weight
    up: Any = module.lora_B[name].weight
    return Projection(base.weight, base.bias, down, up, float(module.scaling[name]))


def kind(module: Any) -> str:
    """What class a module is of, and whose among PEFT's tuners: "a Linear4bit", "vera's Linear"."""
    home = type(module).__module__.split(".")
    whose = f"{home[2]}'s" if home[:2] == ["peft", "tuners"] else "a"
    return f"{whose} {type(module).__name__}"


def obstacle(module: Any, *, reading: bool = False) -> str | None:
    """Why `projection` has none for a module, as what is said of it; None where it has one."""
    if projection(module, reading=reading) is not None:
        return None
    inner = getattr(module, "base_layer", module)
    if type(inner) is not nn.Linear:
        return f"is {kind(inner)}"
    from peft.tuners.lora.layer import Linear as LoraLinear

    if type(module) is not LoraLinear:
        return f"is {kind(module)}"
    name = module.active_adapters[0] if module.active_adapters else None
    if module.merged or len(module.active_adapters) != 1 or name is None:
        return "has several adapters, or one that is merged"
    if name in module.lora_variant:
        return f"has LoRA of another form ({type(module.lora_variant[name]).__name__.removesuffix('LinearVariant')})"
    if not reading and not isinstance(module.lora_dropout[name], nn.Identity):
        return "has LoRA with dropout"
    return "has LoRA with a bias"


def forward(x_TI: Tensor, group: Sequence[Projection]) -> tuple[Tensor, Tensor | None]:
    """(y side by side, T x O; x A^T side by side, T x R, or None without LoRA)."""
    y_TO = x_TI.new_empty(x_TI.shape[0], sum(p.outputs for p in group))
    down_RI = _down(group, x_TI.dtype)
    z_TR = None if down_RI is None else x_TI @ down_RI.T
    for p, columns, ranks in _slices(group):
        y = y_TO[:, columns]
        torch.mm(_input(x_TI, p), p.weight.T, out=y)
        if p.bias is not None:
            y += p.bias
        if p.up is not None and z_TR is not None:
            y.addmm_(z_TR[:, ranks], p.up.to(y.dtype).T, alpha=p.scale)
    return y_TO, z_TR


@dataclass
class Gradients:
    """What the backward pass of a group has found so far. `x_TI` is None if nobody asked for it."""

    x_TI: Tensor | None
    z_TR: Tensor | None
    own: list[list[Tensor | None]]
    """For each projection, the gradients of its `tensors`."""
    turned: list[Tensor | None]
    """For each projection, the gradient of its turned input; None where it takes the input as it is."""

    @property
    def flat(self) -> list[Tensor | None]:
        """Gradients of all projections' tensors, in order."""
        return [grad for own in self.own for grad in own]


def backward(grad_TO: Tensor, z_TR: Tensor | None, group: Sequence[Projection], need_input: bool) -> Gradients:
    """Everything that can be had without the input: its own gradient, those of the biases and of LoRA's B."""
    found = Gradients(None, None if z_TR is None else torch.empty_like(z_TR), [], [])
    for p, columns, ranks in _slices(group):
        grad = grad_TO[:, columns]
        found.turned.append(None if p.turn is None else grad @ p.weight)
        if need_input:
            found.x_TI = _onto(found.x_TI, grad, p, found.turned[-1])
        own: list[Tensor | None] = [None] * len(p.tensors)
        if p.bias is not None and p.bias.requires_grad:
            own[1] = grad.sum(0, dtype=torch.float32).to(p.bias.dtype)
        if p.up is not None and z_TR is not None and found.z_TR is not None:
            found.z_TR[:, ranks] = grad @ (p.up * p.scale).to(grad.dtype)
            if p.up.requires_grad:
                own[3] = (z_TR[:, ranks].T @ grad).T.to(p.up.dtype).mul_(p.scale)
        found.own.append(own)
    if found.z_TR is not None and found.x_TI is not None:
        down_RI = _down(group, grad_TO.dtype)
        assert down_RI is not None
        found.x_TI.addmm_(found.z_TR, down_RI)
    return found


def backward_weights(found: Gradients, grad_TO: Tensor, x_TI: Tensor, group: Sequence[Projection]) -> Gradients:
    """The rest, which needs the input: gradients of the weights, of LoRA's A and of OFT's turns."""
    down_RI = None if found.z_TR is None else found.z_TR.T @ x_TI
    for (p, columns, ranks), own, turned_TI in zip(_slices(group), found.own, found.turned, strict=True):
        if p.weight.requires_grad:
            own[0] = grad_TO[:, columns].T @ _input(x_TI, p)
        if p.turn is not None and p.turn.requires_grad and turned_TI is not None:
            own[4] = rotations.turn_gradient(x_TI, turned_TI, p.turn)
        if p.down is not None and p.down.requires_grad and down_RI is not None:
            own[2] = down_RI[ranks].to(p.down.dtype)
    return found


def _input(x_TI: Tensor, p: Projection) -> Tensor:
    return x_TI if p.turn is None else rotations.turned(x_TI, p.turn)


def _onto(sum_TI: Tensor | None, grad: Tensor, p: Projection, turned_TI: Tensor | None) -> Tensor:
    """`sum_TI` and what this projection adds to the gradient of the group's input."""
    if p.turn is None or turned_TI is None:
        return grad @ p.weight if sum_TI is None else sum_TI.addmm_(grad, p.weight)
    back_TI = rotations.turned(turned_TI, p.turn.transpose(1, 2))
    return back_TI if sum_TI is None else sum_TI.add_(back_TI)


def _down(group: Sequence[Projection], dtype: torch.dtype) -> Tensor | None:
    parts = [p.down for p in group if p.down is not None]
    return torch.cat(parts).to(dtype) if parts else None


def _slices(group: Sequence[Projection]) -> list[tuple[Projection, slice, slice]]:
    """Each projection with its columns of y and of z."""
    placed, column, rank = [], 0, 0
    for p in group:
        placed.append((p, slice(column, column + p.outputs), slice(rank, rank + p.rank)))
        column, rank = column + p.outputs, rank + p.rank
    return placed
