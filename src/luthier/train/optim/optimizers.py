"""Optimisers, all from libraries: what the recipe's `train.optimizer` names, with its keys.

Nothing heavy is imported before one is built, so that a recipe is checked without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import Field

from luthier.errors import LuthierError, missing_extra

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
FUSED_DEVICES = {"cpu", "cuda", "mps", "xpu"}


@dataclass(frozen=True)
class Weight:
    """What is stepped: a trainable parameter, or its fp32 master copy."""

    name: str
    tensor: Tensor
    hidden: bool
    """A matrix inside the network: neither an embedding nor the output head."""
    factor: float = 1.0
    """On the learning rate."""


class OptimizerSpec(Protocol):
    """The contract of the optimiser seam."""

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        """Optimisers that together step every weight once. Raises LuthierError where the device cannot."""
        ...


def groups(weights: Sequence[Weight], weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups for each factor on the learning rate (`lr_factor`): matrices with weight decay; norms,
    biases and other vectors without."""
    found: list[dict[str, Any]] = []
    for factor in dict.fromkeys(weight.factor for weight in weights):
        matrices = [weight.tensor for weight in weights if weight.factor == factor and weight.tensor.ndim >= 2]
        vectors = [weight.tensor for weight in weights if weight.factor == factor and weight.tensor.ndim < 2]
        pairs = ((matrices, weight_decay), (vectors, 0.0))
        found += [{"params": ts, "weight_decay": decay, "lr_factor": factor} for ts, decay in pairs if ts]
    return found


@dataclass(frozen=True)
class AdamW:
    """AdamW (arXiv:1711.05101), torch's own, in one fused kernel where the device has one."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        import torch

        fused = all(weight.tensor.device.type in FUSED_DEVICES for weight in weights)
        return [torch.optim.AdamW(groups(weights, weight_decay), lr, self.betas, self.eps, fused=fused)]


@dataclass(frozen=True)
class Adafactor:
    """Adafactor (arXiv:1804.04235), transformers' own: row and column second moments, so hardly any state.

    `train.lr` is absolute, as for AdamW. The paper's own way, a rate relative to each weight's size, stands still on
    weights that begin at zero, as LoRA's do; `scale_parameter` brings it back.
    """

    beta1: Beta | None = None
    """First moment; none by default, which saves its memory."""
    decay_rate: float = -0.8
    clip_threshold: Positive = 1.0
    scale_parameter: bool = False

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        from transformers.optimization import Adafactor as TransformersAdafactor

        return [
            TransformersAdafactor(  # type: ignore[no-untyped-call]
                groups(weights, weight_decay),
                lr=lr,
                beta1=self.beta1,
                decay_rate=self.decay_rate,
                clip_threshold=self.clip_threshold,
                scale_parameter=self.scale_parameter,
                relative_step=False,
            )
        ]


@dataclass(frozen=True)
class Muon:
    """Muon (arXiv:2502.16982), torch's own, for hidden matrices; AdamW for embeddings, head and vectors.

    Updates are scaled to AdamW's root mean square, so `train.lr` means the same for both.
    """

    momentum: Beta = 0.95
    nesterov: bool = True
    ns_steps: Annotated[int, Field(gt=0)] = 5
    """Newton-Schulz iterations."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's, for the rest."""
    eps: Positive = 1e-8
    """AdamW's, for the rest."""

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        import torch

        hidden = [weight for weight in weights if weight.hidden and weight.tensor.ndim == 2]
        taken = {id(weight) for weight in hidden}
        rest = [weight for weight in weights if id(weight) not in taken]
        built: list[Optimizer] = []
        if hidden:
            built.append(
                torch.optim.Muon(
                    groups(hidden, weight_decay),
                    lr,
                    momentum=self.momentum,
                    nesterov=self.nesterov,
                    ns_steps=self.ns_steps,
                    adjust_lr_fn="match_rms_adamw",
                )
            )
        return built + (AdamW(self.betas, self.eps).build(rest, lr, weight_decay) if rest else [])


@dataclass(frozen=True)
class AdamW8bit:
    """AdamW with 8-bit block-wise state (arXiv:2110.02861), from bitsandbytes. CUDA only."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        library = _bitsandbytes(weights, "adamw_8bit")
        return [library.optim.AdamW8bit(groups(weights, weight_decay), lr, self.betas, self.eps)]


@dataclass(frozen=True)
class PagedAdamW:
    """AdamW whose state may be paged out to main memory (arXiv:2305.14314, §3), from bitsandbytes. CUDA only."""

    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Positive = 1e-8
    bits: Literal[8, 32] = 32
    """Size of each number of the state."""

    def build(self, weights: Sequence[Weight], lr: float, weight_decay: float) -> list[Optimizer]:
        library = _bitsandbytes(weights, "adamw_paged")
        kind = library.optim.PagedAdamW8bit if self.bits == 8 else library.optim.PagedAdamW32bit
        return [kind(groups(weights, weight_decay), lr, self.betas, self.eps)]


def _bitsandbytes(weights: Sequence[Weight], name: str) -> Any:
    devices = sorted({weight.tensor.device.type for weight in weights})
    if devices != ["cuda"]:
        raise LuthierError(
            f"the optimiser {name!r} runs on CUDA only, and these weights are on {', '.join(devices)}",
            where="train.optimizer",
            fix="use adamw, or adafactor where memory is short",
        )
    try:
        import bitsandbytes
    except ImportError as error:
        raise missing_extra("bitsandbytes", "bnb", f"the optimiser {name!r}") from error
    return bitsandbytes
