"""Full fine-tuning: every weight trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.models.adapters import Adapter
from luthier.models.adapters.card import Card
from luthier.models.adapters.depth import discriminative
from luthier.recipe.schema import Float, Why

if TYPE_CHECKING:
    from luthier.types import Encoded


@dataclass(frozen=True)
class Full(Adapter):
    """Train every weight of the model. It needs about 8 times the memory of LoRA and forgets more."""

    decay: Annotated[Float, Field(ge=1), Why("one rate for all, unless early layers should move less")] = 1.0
    """Divide the learning rate by this for every block further from the output (discriminative rates)."""

    card: ClassVar[Card] = Card(
        title="Full fine-tuning",
        paper="arXiv:1801.06146",
        authors="Jeremy Howard, Sebastian Ruder",
        venue="ACL 2018 (fine-tuning a whole language model, and discriminative rates; the practice is older)",
        problem="A pretrained model does not do the task yet.",
        idea="Go on training all of its weights on the task's rows, at a small learning rate.",
        formula="θ ← θ − η ∇L(θ);  with decay: η of block l−1 = η of block l / decay",
        trains="everything",
        choose="Much data, enough memory, and nothing else that the model must keep being good at.",
        avoid="Memory is short (weights, gradients and two moments of every weight) or old abilities must stay.",
        limits="Saved as a whole model; nothing to switch off, so a reference model is a second copy.",
        related=("freeze", "progressive", "lora"),
    )
    default_lr: ClassVar[float] = 2e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"
    alone: ClassVar[bool] = True

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Nothing to do: a loaded model's weights all train."""
        return module

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """Discriminative rates."""
        return discriminative(module, self.decay)
