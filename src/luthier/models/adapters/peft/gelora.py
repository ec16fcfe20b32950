"""GeLoRA (arXiv:2412.09250): LoRA whose ranks follow from how the hidden states' dimension grows from block to block.

The paper's are the dimension by TwoNN, the growth max(d_{i+1} − d_i, 0) as a lower bound on the rank of a block's
update, and ranks that differ by layer. Ours are, because we found no word of the paper's on them: a row as the mean of
its tokens' states, rounding, the one added so that no layer is without an update, one rank for all layers of a block,
and one scale for all layers.

Shape suffixes: B = rows, T = tokens of the longest row, D = hidden size, N = all rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from luthier.models.adapters.kit import sampled
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import blocks
from luthier.models.adapters.kit.sampled import Measuring, Rows
from luthier.models.adapters.peft.lora import LowRank, Rank
from luthier.models.adapters.peft.tuner import wrapped
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass(frozen=True)
class GeLora(Measuring, LowRank):
    """LoRA with a rank for each block: one more than the dimensions that the block adds to the hidden states."""

    r: Annotated[Rank, Why("only alpha is read against it")] = 16
    """Alpha stands for this rank: each layer's scale is alpha / r. Also the rank of layers outside the blocks."""
    rows: Annotated[Rows, Why("fewer make the estimate unsteady")] = 1000
    least: Annotated[Rank, Why("so that no layer is without an update")] = 1
    """The rank of blocks that add no dimension, and what is added to the others'."""

    card: ClassVar[Card] = Card(
        title="GeLoRA: geometric adaptive ranks",
        paper="arXiv:2412.09250",
        authors="Ed-dib, Datbayev, Aboussalah",
        venue="Findings of EMNLP 2025",
        problem="One rank for all layers is too much for some and too little for others, and a search is dear.",
        idea="A block that maps states of d dimensions to states of more needs an update of at least the difference; "
        "measure the dimensions on your rows by each state's two nearest neighbours (TwoNN) before training.",
        formula="rank of block i's update ≥ max(d_{i+1} − d_i, 0);  here r_i is that bound + 1 for all its layers, "
        "α_i / r_i the same everywhere",
        trains="as LoRA, usually far less than r = 16 everywhere",
        choose="the smallest LoRA that the data ask for, without trying ranks",
        avoid="fewer than some hundred rows; much new knowledge (the ranks are lower bounds)",
        limits="the bound is the paper's; the one added, one rank for a block's layers and a row as the mean of its "
        "states are ours. Dimensions are underestimated above about 15; one forward pass over the rows before training",
        related=("lora", "adalora", "eva"),
    )

    def count(self, shape: Shape) -> int | None:
        """The data decide."""
        return None

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Measure the dimensions, then wrap the model; ranks that the recipe sets itself stay."""
        dimensions = self.dimensions(module, sample)
        owner = {id(part): number for number, block in enumerate(blocks(module)) for part in block.modules()}
        ranks = {
            name: round(max(dimensions[owner[id(layer)] + 1] - dimensions[owner[id(layer)]], 0)) + self.least
            for name, layer in self.layers(module).items()
            if id(layer) in owner
        }
        return wrapped(module, replace(self, ranks={**ranks, **self.ranks}).config(module), "gelora")

    def dimensions(self, module: Any, sample: Sequence[Encoded]) -> list[float]:
        """The intrinsic dimension of the states that enter each block, and last of those that leave the last one.

        A row is one point: the mean of its tokens' states. Raises LuthierError for too few distinct rows.
        """
        import torch

        from luthier.models.adapters.kit.dimension import intrinsic_dimension

        layers = blocks(module)
        kept: list[list[Tensor]] = [[] for _ in range(len(layers) + 1)]
        weight_BT1 = torch.empty(0)

        def keep(number: int, states: Any) -> None:
            states_BTD = states[0] if isinstance(states, tuple) else states
            kept[number].append((states_BTD.float() * weight_BT1).sum(1).cpu())

        handles = [
            block.register_forward_pre_hook(
                lambda _block, args, kwargs, n=n: keep(n, args[0] if args else kwargs["hidden_states"]),
                with_kwargs=True,
            )
            for n, block in enumerate(layers)
        ]
        handles.append(layers[-1].register_forward_hook(lambda _block, _args, out: keep(len(layers), out)))
        training = module.training
        module.eval()
        try:
            with torch.no_grad():
                for batch in sampled.batches(sample, module.device, "gelora"):
                    mask_BT1 = batch["attention_mask"][:, :, None].float()
                    weight_BT1 = mask_BT1 / mask_BT1.sum(1, keepdim=True)
                    module.get_decoder()(**batch, use_cache=False)
        finally:
            module.train(training)
            for handle in handles:
                handle.remove()
        return [intrinsic_dimension(torch.cat(points)) for points in kept]
