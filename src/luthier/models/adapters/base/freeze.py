"""Freezing: part of the model keeps its weights, the rest trains (or gets an adapter, when one follows)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import blocks, discriminative, embeddings, select
from luthier.recipe.schema import Expression, Float, Int, Why

if TYPE_CHECKING:
    from luthier.types import Encoded


@dataclass(frozen=True)
class Freeze(Adapter):
    """Freeze the bottom of the model, its embeddings, what an expression names, or all but its last blocks.

    `{bottom: 6}` freezes the embeddings and the six blocks nearest to them, `{bottom: 0.5}` half of the blocks;
    `{embeddings: true}` the embeddings alone; `{last: 2}` everything but the last two blocks and the final norm;
    `{pattern: mlp}` what has mlp in its name, `{only: mlp}` everything else.
    Where embeddings and output head share one matrix, freezing the one freezes the other.
    """

    bottom: Annotated[Int, Field(ge=0)] | Annotated[Float, Field(gt=0, lt=1)] = 0
    """Blocks to freeze from the embeddings up: a number, or below 1 a share of them."""
    last: Annotated[Int, Field(gt=0)] | None = None
    """Train only so many blocks, counted from the output, and the final norm."""
    embeddings: bool | None = None
    """Freeze the embeddings. Default: when blocks above them are frozen."""
    pattern: Expression | None = None
    """Freeze these too: norms, biases, embeddings, head, or a regular expression found in the weights' names."""
    only: Expression | None = None
    """Freeze everything but these, named as in `pattern`."""
    decay: Annotated[Float, Field(ge=1), Why("one rate for all, unless early layers should move less")] = 1.0
    """Divide the learning rate by this for every block further from the output (discriminative rates)."""
    cache_backbone: bool = False
    """Keep the outputs of the frozen blocks on disk in the first epoch and start later epochs from them."""

    card: ClassVar[Card] = Card(
        title="Freezing (partial fine-tuning)",
        paper="arXiv:1411.1792",
        authors="Jason Yosinski, Jeff Clune, Yoshua Bengio, Hod Lipson",
        venue="NeurIPS 2014 (how transferable each layer is); the practice is older",
        problem="Full fine-tuning pays for gradients and optimiser state of weights that hardly need to change.",
        idea="Lower layers are general: keep them as they are and train the upper ones. Below the lowest layer that "
        "trains there is no backward pass at all.",
        formula="θ = (θ_frozen, θ_trained);  ∂L/∂θ_frozen is never computed",
        trains="the blocks that are not frozen",
        choose="Little memory, a task near to what the model knows, or an adapter only on the upper blocks "
        "(freeze + lora). With several epochs `cache_backbone: true` computes the frozen blocks once.",
        avoid="The task is far from what the model knows: then LoRA on every block does more with less.",
        limits="Saved as a whole model. cache_backbone is refused where it would not be exact: dropout or embedding "
        "noise below, or weights that train there.",
        related=("progressive", "full", "train", "lora"),
    )
    default_lr: ClassVar[float] = 5e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"

    @property
    def keeps_backbone(self) -> bool:
        """See the key `cache_backbone`."""
        return self.cache_backbone

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Freeze what the fields say. Raises LuthierError when they say nothing, or nothing would be left to train."""
        self._check()
        layers = blocks(module)
        frozen = self.frozen_blocks(len(layers))
        for block in layers[:frozen]:
            block.requires_grad_(False)
        if frozen > 0 if self.embeddings is None else self.embeddings:
            for table in embeddings(module):
                table.requires_grad_(False)
        head = module.get_output_embeddings()
        if self.last is not None and head is not None:
            head.requires_grad_(False)
        if self.only is not None:
            kept = {id(weight) for _, weight in select(module, self.only)}
            for weight in module.parameters():
                if id(weight) not in kept:
                    weight.requires_grad_(False)
        for _, weight in select(module, self.pattern) if self.pattern is not None else ():
            weight.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise LuthierError("nothing is left to train: every weight is frozen", fix="freeze less")
        return module

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """Discriminative rates."""
        return discriminative(module, self.decay)

    def _check(self) -> None:
        says = (self.bottom, self.last, self.embeddings, self.pattern, self.only)
        if not any(says):
            raise LuthierError(
                "freeze says nothing to freeze", fix="set bottom, last, pattern, only or embeddings: true"
            )
        if self.bottom and self.last is not None:
            raise LuthierError("freeze takes either `bottom` or `last`", fix="leave one of them out")
        if self.only is not None and sum(map(bool, says)) > 1:
            raise LuthierError("freeze: `only` freezes all the rest already", fix="leave the other keys out")

    def frozen_blocks(self, total: int) -> int:
        """How many of the lowest blocks it freezes. Raises LuthierError where there are not so many."""
        if self.last is not None:
            if self.last > total:
                raise LuthierError(
                    f"freeze: last is {self.last}, but the model has only {total} blocks",
                    where="adapt.freeze.last",
                    fix=f"give 0 to {total}",
                )
            return total - self.last
        frozen = round(self.bottom * total) if isinstance(self.bottom, float) else self.bottom
        if frozen > total:
            raise LuthierError(
                f"freeze: bottom is {frozen}, but the model has only {total} blocks",
                where="adapt.freeze.bottom",
                fix=f"give 0 to {total}, or a share such as 0.5",
            )
        return frozen
