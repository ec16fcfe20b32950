"""Freezing: part of the model keeps its weights, the rest trains (or gets an adapter, when one follows)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.recipe.schema import Float, Int

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel

    from luthier.types import Encoded


@dataclass(frozen=True)
class Freeze(Adapter):
    """Freeze the bottom of the model, its embeddings, or all but its last blocks.

    `{bottom: 6}` freezes the embeddings and the six blocks nearest to them, `{bottom: 0.5}` half of the blocks;
    `{embeddings: true}` the embeddings alone; `{last: 2}` everything but the last two blocks and the final norm.
    Where embeddings and output head share one matrix, freezing the one freezes the other.
    """

    bottom: Annotated[Int, Field(ge=0)] | Annotated[Float, Field(gt=0, lt=1)] = 0
    """Blocks to freeze from the embeddings up: a number, or below 1 a share of them."""
    last: Annotated[Int, Field(gt=0)] | None = None
    """Train only so many blocks, counted from the output, and the final norm."""
    embeddings: bool | None = None
    """Freeze the embeddings. Default: when blocks above them are frozen."""

    default_lr: ClassVar[float] = 5e-5
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Freeze what the fields say. Raises LuthierError when they say nothing, or nothing would be left to train."""
        if not self.bottom and self.last is None and not self.embeddings:
            raise LuthierError("freeze says nothing to freeze", fix="set bottom, last or embeddings: true")
        if self.bottom and self.last is not None:
            raise LuthierError("freeze takes either `bottom` or `last`", fix="leave one of them out")
        layers = blocks(module)
        frozen = self._frozen_blocks(len(layers))
        for block in layers[:frozen]:
            block.requires_grad_(False)
        embeddings = frozen > 0 if self.embeddings is None else self.embeddings
        if embeddings:
            for embedding in position_and_token_embeddings(module, layers):
                embedding.requires_grad_(False)
        model: Any = module
        head = model.get_output_embeddings()
        if self.last is not None and head is not None:
            head.requires_grad_(False)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            raise LuthierError("nothing is left to train: every weight is frozen", fix="freeze fewer blocks")
        return module

    def _frozen_blocks(self, total: int) -> int:
        if self.last is not None:
            if self.last > total:
                raise LuthierError(f"freeze: last is {self.last}, but the model has only {total} blocks")
            return total - self.last
        frozen = round(self.bottom * total) if isinstance(self.bottom, float) else self.bottom
        if frozen > total:
            raise LuthierError(f"freeze: bottom is {frozen}, but the model has only {total} blocks")
        return frozen


def blocks(module: Any) -> nn.ModuleList:
    """The decoder blocks of a model, from the embeddings to the output."""
    from torch import nn

    depth = module.config.get_text_config().num_hidden_layers
    for child in module.get_decoder().modules():
        if isinstance(child, nn.ModuleList) and len(child) == depth:
            return child
    raise LuthierError(f"cannot find the blocks of a {type(module).__name__}", fix="use `adapt: lora` or `adapt: full`")


def position_and_token_embeddings(module: PreTrainedModel, layers: nn.ModuleList) -> list[nn.Module]:
    """Every embedding table below the blocks (GPT-2 has one for positions too)."""
    from torch import nn

    inside = {id(child) for child in layers.modules()}
    return [child for child in module.modules() if isinstance(child, nn.Embedding) and id(child) not in inside]
