"""Block-wise rotations of a layer's inputs, x -> x R with R = diag(R_1 ... R_K), exact and without the matrix R.

R_k = (I - Q_k)(I + Q_k)^-1 with Q_k skew is Cayley's map (OFT, arXiv:2306.07280, section 3.3; BOFT, arXiv:2311.06243).
Kept is the turn D = R - I = -2 Q (I + Q)^-1: zero at the start, and what is small stays exact. PEFT holds the weights
and writes them; its modules are replaced by those here, which have the same parameters under the same names.

Shape suffixes: T = tokens, I = inputs of the layer, K = blocks, B = width of a block.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.boft.layer import Linear as BoftLinear
from peft.tuners.oft.layer import Linear as OftLinear
from peft.tuners.oft.layer import OFTRotationModule
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

WIDE = 32
"""Narrower blocks are turned side by side in blocks of this width: products of tiny matrices cost more to start."""


class Cayley(torch.autograd.Function):
    """D = -2 Q M from the skew Q and M = (I + Q)^-1, each K x B x B; the gradient goes to Q alone.

    D = 2 M - 2 I too, so dD = 2 dM = -2 M dQ M: the backward pass is two products, no second inverse.
    """

    @staticmethod
    def forward(ctx: Any, q_KBB: Tensor, inverse_KBB: Tensor) -> Tensor:
        ctx.save_for_backward(inverse_KBB)
        return torch.bmm(q_KBB, inverse_KBB).mul_(-2.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_KBB: Tensor) -> tuple[Tensor, None]:
        transposed_KBB = ctx.saved_tensors[0].transpose(1, 2)
        return torch.bmm(transposed_KBB, torch.bmm(grad_KBB, transposed_KBB)).mul_(-2.0), None


class Turn:
    """D, K x B x B, from the skew Q of a weight, with the gradient to Q.

    (I + Q)^-1 is computed again only when the weight differs from the last one. They are compared, not tracked:
    optimisers may step them behind autograd's back.
    """

    def __init__(self) -> None:
        self._of: Tensor | None = None
        self._inverse: Tensor | None = None

    def __call__(self, q_KBB: Tensor, weight: Tensor) -> Tensor:
        exact_KBB = q_KBB.to(torch.promote_types(q_KBB.dtype, torch.float32))
        turn_KBB: Tensor = Cayley.apply(exact_KBB, self.inverse(exact_KBB, weight))  # type: ignore[no-untyped-call]
        return turn_KBB

    @torch.inference_mode(False)
    @torch.no_grad()
    def inverse(self, q_KBB: Tensor, weight: Tensor) -> Tensor:
        """(I + Q)^-1, kept until the weight is another."""
        known = self._of is not None and self._of.device == weight.device and torch.equal(self._of, weight)
        if self._inverse is None or not known:
            self._of = weight.detach().clone()
            eye_BB = torch.eye(q_KBB.shape[-1], dtype=q_KBB.dtype, device=q_KBB.device)
            self._inverse = torch.linalg.inv(q_KBB + eye_BB)
        return self._inverse


def turned(x_TI: Tensor, turn_KBB: Tensor) -> Tensor:
    """x + x D block by block, in D's precision and rounded once; x may have any leading dimensions."""
    blocks_KTB = _blocks(x_TI, turn_KBB)
    y_KTB = torch.baddbmm(blocks_KTB, blocks_KTB, turn_KBB)
    return y_KTB.transpose(0, 1).to(x_TI.dtype).reshape(x_TI.shape)


def turn_gradient(x_TI: Tensor, grad_TI: Tensor, turn_KBB: Tensor) -> Tensor:
    """Gradient of D, K x B x B, from the input and the gradient of what `turned` gave."""
    return torch.bmm(_blocks(x_TI, turn_KBB).transpose(1, 2), _blocks(grad_TI, turn_KBB))


def _blocks(x_TI: Tensor, turn_KBB: Tensor) -> Tensor:
    count, width = turn_KBB.shape[:2]
    return x_TI.reshape(-1, count, width).to(turn_KBB.dtype).transpose(0, 1)


class Rotation(OFTRotationModule):
    """OFT's blocks of one layer."""

    def __init__(self, of: OFTRotationModule, dropout: float) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(of.__dict__)  # the same parameters and settings
        self.dropout, self._turn = dropout, Turn()

    def turn(self) -> Tensor:
        """D, K x B x B, with the gradient to the weight."""
        if self.coft:  # constrained OFT: put back into the ball before use, as PEFT does
            with torch.no_grad():
                self.weight.copy_(self._project_batch(self.weight, eps=self.eps))  # type: ignore[no-untyped-call]
        if self.use_cayley_neumann:
            series_KBB = self._cayley_batch(self.weight, self.block_size, True, self.num_cayley_neumann_terms)
            turn_KBB = series_KBB - torch.eye(self.block_size, dtype=series_KBB.dtype, device=series_KBB.device)
        else:
            q_KBB = self._pytorch_skew_symmetric(self.weight, self.block_size)  # type: ignore[no-untyped-call]
            turn_KBB = self._turn(q_KBB, self.weight)
        return turn_KBB * self._kept(turn_KBB) if self.training and self.dropout > 0 else turn_KBB

    def _kept(self, turn_KBB: Tensor) -> Tensor:
        """0 for the blocks that are left out of this step, 1 for the others, K x 1 x 1."""
        count = turn_KBB.shape[0]
        kept_K11 = turn_KBB.new_ones(count, 1, 1)
        kept_K11[torch.randperm(count)[: int(self.dropout * count)]] = 0
        return kept_K11

    def forward(self, x: Tensor) -> Tensor:
        """(…, I) -> (…, I), in the input's type."""
        return turned(x, self.turn())


class ButterflyLinear(BoftLinear):
    """A linear layer under BOFT with one factor: y = s * (W x_R) + b, block by block and without PEFT's matrix P."""

    def __init__(self, of: BoftLinear) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(of.__dict__)  # the same parameters, base layer and settings
        del self.boft_P  # inputs x inputs; the identity for one factor
        self._turns = {name: Turn() for name in self.boft_R}

    def turn(self, name: str) -> Tensor:
        """D of one adapter, K x B x B, with the gradient to its weight."""
        weight_KBB = self.boft_R[name][0]
        q_KBB = 0.5 * (weight_KBB - weight_KBB.transpose(1, 2))
        turn_KBB = self._turns[name](q_KBB, weight_KBB)
        if isinstance(self.boft_dropout[name], nn.Identity):
            return turn_KBB
        eye_BB = torch.eye(turn_KBB.shape[-1], dtype=turn_KBB.dtype, device=turn_KBB.device)
        dropped: Tensor = self.boft_dropout[name]((turn_KBB + eye_BB)[None])[0]
        return dropped - eye_BB

    def get_delta_weight(self, adapter: str) -> tuple[Tensor, Tensor]:
        """(R as a matrix, s), for merging."""
        turn_KBB = self.turn(adapter)
        turn_II = torch.block_diag(*turn_KBB)  # type: ignore[no-untyped-call]
        return turn_II + torch.eye(len(turn_II), dtype=turn_II.dtype, device=turn_II.device), self.boft_s[adapter]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(…, I) -> (…, O), in the input's type."""
        active = [name for name in self.active_adapters if name in self.boft_R]
        if self.disable_adapters or self.merged or not active:
            return super().forward(x, *args, **kwargs)
        for name in reversed(active):  # PEFT's order: the last adapter's rotation stands leftmost
            x = turned(x, _joined(self.turn(name)))
        y, bias = self.base_layer(x, *args, **kwargs), self.base_layer.bias
        for name in active:
            scale_O = self.boft_s[name].squeeze(-1)
            y = y * scale_O if bias is None else (y - bias) * scale_O + bias
        return y.to(x.dtype)


def _joined(turn_KBB: Tensor) -> Tensor:
    """Narrow blocks side by side in wider ones, as many as divide their number."""
    count, width = turn_KBB.shape[:2]
    most = max(WIDE // width, 1)
    together = next(n for n in range(min(most, count), 0, -1) if count % n == 0)
    spread = torch.diag_embed(turn_KBB.view(-1, together, width, width).permute(0, 2, 3, 1))  # K/n, B, B, n, n
    return spread.permute(0, 3, 1, 4, 2).reshape(-1, together * width, together * width)


def take_over(module: nn.Module, dropout: float = 0.0) -> None:
    """Put the layers here in the place of PEFT's, wherever PEFT rotates a linear layer by blocks of its own."""
    for name, layer in list(module.named_modules()):
        if isinstance(layer, OftLinear):
            for adapter, rotation in layer.oft_R.items():
                if type(rotation) is OFTRotationModule and not rotation.block_share:
                    layer.oft_R[adapter] = Rotation(rotation, dropout)
            layer.cast_input_dtype_enabled = False  # `turned` casts, and back
        elif type(layer) is BoftLinear and all(weight.shape[0] == 1 for weight in layer.boft_R.values()):
            module.set_submodule(name, ButterflyLinear(layer))


def rotation(layer: Any) -> Rotation | None:
    """The one rotation by which OFT turns the inputs of this layer now; None where it is something else."""
    if type(layer) is not OftLinear or len(layer.active_adapters) != 1 or layer.fan_in_fan_out:
        return None
    name = layer.active_adapters[0]
    found = layer.oft_R[name] if name in layer.oft_R else None  # noqa: SIM401, a ModuleDict has no get
    return found if isinstance(found, Rotation) else None
