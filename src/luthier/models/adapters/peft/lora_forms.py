"""LoRA in another form: with a scale that does not shrink with its rank (rsLoRA), on directions alone (DoRA)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.lora import LowRank

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape


@dataclass(frozen=True)
class RsLora(LowRank):
    """LoRA with alpha divided by the root of its rank, so that a higher rank learns as fast as a lower one."""

    scale: ClassVar[float] = 0.5
    card: ClassVar[Card] = Card(
        title="rsLoRA: rank-stabilised LoRA",
        paper="arXiv:2312.03732",
        authors="Kalajdzievski",
        venue="arXiv 2023",
        problem="With α/r the update shrinks as the rank grows: high ranks learn no more than low ones.",
        idea="Scale by α/√r, under which the size of activations and gradients does not depend on r.",
        formula="y = W x + (α/√r) B A x",
        trains="as LoRA",
        choose="for ranks of 64 and more",
        avoid="for small ranks: nothing to gain",
        limits="an α tuned for α/r does not carry over; the default here, r/2, equals LoRA's α = 2r at r = 16",
        related=("lora", "dora"),
    )

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's switch."""
        return {"use_rslora": True}


@dataclass(frozen=True)
class Dora(LowRank):
    """LoRA on the direction of each output's weights, and their length beside it."""

    card: ClassVar[Card] = Card(
        title="DoRA: weight-decomposed low-rank adaptation",
        paper="arXiv:2402.09353",
        authors="Liu, Wang, Yin, Molchanov, Wang, Cheng, Chen",
        venue="ICML 2024",
        problem="LoRA changes length and direction of weights together, full fine-tuning does not.",
        idea="Keep each output's weight vector as a length, which trains, and a direction, which gets LoRA.",
        formula="W' = m · (W + (α/r) B A) / ‖W + (α/r) B A‖ by output, m = ‖W‖ at the start",
        trains="A and B of every linear layer, and one length for each output",
        choose="at low ranks (up to 16), when LoRA falls short",
        avoid="when speed matters: each forward pass forms the whole W + BA for its norms",
        limits="the norm is taken as constant in the backward pass, as in the paper; slower than LoRA",
        related=("lora", "rslora"),
    )

    def count(self, shape: Shape) -> int | None:
        """LoRA's, and one length for each output."""
        update = super().count(shape)
        return None if update is None else update + shape.over(self.targets, lambda _i, o: o)

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's switch."""
        return {"use_dora": True}
