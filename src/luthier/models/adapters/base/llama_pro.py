"""Block expansion (LLaMA Pro, arXiv:2401.02415): new blocks that begin as the identity train, the old ones stay."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import blocks
from luthier.recipe.schema import Int, Why

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded

OUTPUTS = {"o_proj", "out_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "w2", "fc_out"}
"""Names under which models keep the maps whose output is added to the residual stream."""


@dataclass(frozen=True)
class LlamaPro(Adapter):
    """Insert copies of blocks whose output maps are zero, and train only these.

    The expanded model computes exactly what the base does until it is trained; it is saved as a whole model whose
    configuration has more layers, and loads anywhere.
    """

    blocks: Annotated[Int, Field(gt=0), Why("the paper adds 8 to 32")] | None = None
    """How many blocks to add, evenly spread. Default: one after every four."""

    card: ClassVar[Card] = Card(
        title="LLaMA Pro (block expansion)",
        paper="arXiv:2401.02415",
        authors="Chengyue Wu, Yukang Gan, Yixiao Ge, Zeyu Lu, Jiahao Wang, Ye Feng, Ying Shan, Ping Luo",
        venue="ACL 2024",
        problem="New knowledge (code, mathematics) overwrites old when a model's own weights are trained on.",
        idea="Copy blocks into the stack with their output maps at zero, so that each begins as the identity, and "
        "train only the copies on the new corpus: the model grows, what it had stays.",
        formula="x ← x + Attn(norm x) + FFN(norm x) with W_o = 0 and W_down = 0 at the start",
        trains="the new blocks (a fifth of all blocks by default)",
        choose="Continued pretraining on a new domain, with much data, when the old abilities must stay.",
        avoid="Small data, or when the model may not get slower: every added block costs at inference, for ever.",
        limits="Composes with no other adapter; saved as a whole model; nothing to switch off.",
        related=("full", "freeze", "lora"),
    )
    default_lr: ClassVar[float] = 2e-4
    kind: ClassVar[Literal["base", "peft", "own"]] = "base"
    alone: ClassVar[bool] = True

    def count(self, shape: Shape) -> int | None:
        """The new blocks."""
        return (self.blocks or max(1, shape.blocks // 4)) * shape.block

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Expand the model in place. Raises LuthierError where a zeroed copy is not the identity."""
        layers = blocks(module)
        old, count = len(layers), self.blocks or max(1, len(layers) // 4)
        if count > old:
            raise LuthierError(
                f"llama_pro: {count} blocks to add, but the model has only {old} to copy",
                where="adapt.llama_pro.blocks",
                fix=f"give 1 to {old}",
            )
        before = _logits(module)
        after = {round((j + 1) * old / count) - 1 for j in range(count)}
        order = [source for i in range(old) for source in ([(i, False), (i, True)] if i in after else [(i, False)])]
        # one configuration for all: the copies must follow when the model's attention is switched
        shared = {id(config): config for config in (module.config, module.config.get_text_config())}
        expanded = [copy.deepcopy(layers[i], dict(shared)) if new else layers[i] for i, new in order]
        del layers[:]
        layers.extend(expanded)
        _renumber(layers)
        _grow(module.config.get_text_config(), [i for i, _ in order], old)
        module.requires_grad_(False)
        for block, (_, new) in zip(layers, order, strict=True):
            if new:
                _silence(block)
                block.requires_grad_(True)
        if not bool((_logits(module) == before).all()):
            raise LuthierError(
                f"llama_pro: a copied block of a {type(module).__name__} with its outputs at zero is not the identity",
                fix="use lora or freeze on this model",
            )
        return module


def _silence(block: nn.Module) -> None:
    """Zero the maps that write to the residual stream."""
    import torch

    with torch.no_grad():
        for name, part in block.named_modules():
            if name.rpartition(".")[2] in OUTPUTS:
                for weight in part.parameters():
                    weight.zero_()


def _renumber(layers: nn.ModuleList) -> None:
    """Each layer's place in the cache of keys and values."""
    for number, block in enumerate(layers):
        part: Any
        for part in block.modules():
            if "layer_idx" in vars(part):
                part.layer_idx = number


def _grow(config: Any, source: Sequence[int], old: int) -> None:
    """Write the new depth into the configuration, and what it lists layer by layer."""
    for key, value in list(vars(config).items()):
        if "layer" in key and isinstance(value, list) and len(value) == old:
            setattr(config, key, [value[i] for i in source])
    config.num_hidden_layers = len(source)


def _logits(module: Any) -> Tensor:
    """On a few tokens, to compare before and after."""
    import torch

    training, device = module.training, next(module.parameters()).device
    module.eval()
    with torch.no_grad():
        logits: Tensor = module(input_ids=torch.arange(8, device=device)[None], use_cache=False).logits
    module.train(training)
    return logits
