"""LoReFT (arXiv:2404.03592): edits of the hidden states at the first and last tokens of the prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.own.beside import Beside, free_blocks
from luthier.recipe.schema import Int, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape

Tokens = Annotated[Int, Field(ge=0)]


@dataclass(frozen=True)
class LoReft(Beside):
    """Train an edit of each block's output, within a subspace, at a few tokens of the prompt.

    Answers are not edited, neither while training nor while generating: they follow from the prompt's states.
    """

    r: Annotated[Int, Field(gt=0), Why("the paper's on common sense and arithmetic; 4 for instructions")] = 8
    """Dimensions of the subspace."""
    first: Annotated[Tokens, Why("the paper's, f7+l7")] = 7
    """How many tokens at the beginning of the prompt are edited."""
    last: Annotated[Tokens, Why("the paper's, f7+l7")] = 7
    """How many at its end. A token that would be both counts as one of the first."""
    tied: Annotated[bool, Why("the paper's on common sense and arithmetic: half the weights")] = True
    """First and last tokens have one edit, not one each."""
    layers: tuple[Tokens, ...] | None = None
    """Blocks that are edited, counted from 0. Default: all."""
    start: Annotated[Literal["identity", "random"], Why("the run begins at the base's own loss")] = "identity"
    """identity: W = R and b = 0, which edits nothing. random: the paper's."""

    default_lr: ClassVar[float] = 9e-4
    shares_prefix: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        title="LoReFT: low-rank linear subspace representation fine-tuning",
        paper="arXiv:2404.03592",
        authors="Wu, Arora, Wang, Geiger, Jurafsky, Manning, Potts",
        venue="NeurIPS 2024",
        problem="Methods that change weights change every token, though meaning lies in directions of few states.",
        idea="Leave the weights alone; within a learnt subspace set the hidden states of a few prompt tokens.",
        formula="h ← h + Rᵀ (W h + b − R h),  R Rᵀ = I, at the first f and last l tokens of the prompt",
        trains="r (2 d + 1) numbers per edited block of width d (twice that untied)",
        choose="Very few weights for one task or style with short answers; many tasks on one base.",
        avoid="Long answers, continued pre-training, multi-turn training on every answer: only the prompt's ends are "
        "edited. When the model must be merged or served elsewhere.",
        limits="Cannot be merged; rows share no prefixes, in training nor in generation.",
        related=("houlsby", "lora", "prompt"),
    )

    @property
    def exact_start(self) -> bool:  # type: ignore[override]
        """As `start` says."""
        return self.start == "identity"

    @property
    def starts_elsewhere(self) -> bool:  # type: ignore[override]
        """A random edit sets the states of whole tokens."""
        return self.start == "random"

    def count(self, shape: Shape) -> int | None:
        """r (2 d + 1) for each edit."""
        edits = (shape.blocks if self.layers is None else len(self.layers)) * (1 if self.tied else 2)
        return edits * self.r * (2 * shape.width + 1)

    def add(self, module: Any) -> None:
        """Edits on the blocks. Raises LuthierError for blocks the model has not, and models that tell their blocks not
        where prompts lie."""
        from torch import nn

        from luthier.models import positions
        from luthier.models.adapters.own.intervention import Intervention

        width = module.config.get_text_config().hidden_size
        free = free_blocks(module, "loreft")
        chosen = [name for name in free if self.layers is None or int(name.rpartition(".")[2]) in self.layers]
        if not chosen or self.first + self.last == 0:
            raise LuthierError(
                "loreft has nothing to edit: no block, or no token",
                where="adapt.loreft",
                fix=f"give layers of {', '.join(each.rpartition('.')[2] for each in free)}, and first or last above 0",
            )
        if missing := set(self.layers or ()) - {int(name.rpartition(".")[2]) for name in chosen}:
            raise LuthierError(
                f"loreft: block {min(missing)} is frozen, or the model has none of that number",
                where="adapt.loreft.layers",
                fix=f"take some of {', '.join(each.rpartition('.')[2] for each in free)}",
            )
        if self.r > width:
            raise LuthierError(f"loreft: a subspace of {self.r} dimensions, but the model has {width}", fix="lower r")
        for name in chosen:
            edits = [Intervention(width, self.r, self.start) for _ in range(1 if self.tied else 2)]
            part = positions.Placed()
            part.edits = nn.ModuleList(edits)
            self.beside(free[name], name, part, "loreft")
        positions.supply(module.get_decoder())
        _try(module)

    def change(self, part: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """The block's output, edited at the ends of the prompts."""
        import torch

        from luthier.models.positions import KEYWORD, Prompts

        prompts: Prompts | None = kwargs.get(KEYWORD)
        if prompts is None:
            raise LuthierError("this model does not tell its blocks where prompts lie", fix="take `adapt: lora`")
        flat_TD = output.reshape(-1, output.shape[-1])
        head, tail = prompts.ends(self.first, self.last)
        for edit, places in zip(part.edits, [torch.cat([head, tail])] if self.tied else [head, tail], strict=True):
            if len(places):
                flat_TD = flat_TD.index_copy(0, places, edit(flat_TD.index_select(0, places)))
        return flat_TD.view(output.shape)


def _try(module: Any) -> None:
    """Two tokens through the backbone: a model whose blocks are not given the keyword is refused before training."""
    import torch

    with torch.no_grad():
        module.get_decoder()(input_ids=torch.zeros(1, 2, dtype=torch.long, device=module.device), use_cache=False)
