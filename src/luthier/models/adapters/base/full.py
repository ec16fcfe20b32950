"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import discriminative
from luthier.recipe.schema import Float, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass(frozen=True)
class Full(Adapter):
    """Train every weight of the model. It needs about 8 times the memory of LoRA and forgets more."""

    decay: Annotated[Float, Field(ge=1), Why("one rate for all, unless early layers should move less")] = 1.0
    """Divide the learning rate by this for every block further from the output (discriminative rates)."""

    default_lr: ClassVar[float] = 2e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"
    alone: ClassVar[bool] = True

    card: ClassVar[Card] = Card(
        title="Full fine-tuning",
        paper="no paper of its own",
        authors="–",
        venue="–",
        problem="A model must learn what it does not know.",
        idea="Train every weight.",
        formula="θ ← θ − η ∇L(θ);  with decay: η of block l−1 = η of block l / decay",
        trains="every weight",
        choose="continued pre-training, much data, and memory to spare",
        avoid="on few rows, or when what the base can do must be kept",
        limits="gradients, fp32 masters and the optimiser's state: some 16 bytes a weight on top of the model's own; "
        "the result is a whole model",
        related=("freeze", "lora", "progressive"),
    )

    def count(self, shape: Shape) -> int | None:
        """All of them."""
        return shape.total

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Nothing to do: a loaded model's weights all train."""
        return module

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """Discriminative rates."""
        return discriminative(module, self.decay)
