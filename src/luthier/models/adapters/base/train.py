"""Chosen weights of the base train, by themselves or beside an adapter, and are saved by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.depth import select
from luthier.models.adapters.kit.targets import free_weights
from luthier.models.adapters.own.own import Chosen
from luthier.recipe.schema import Expression

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass(frozen=True)
class Train(Chosen):
    """Train some of the base's own weights: `[lora, {train: norms}]` beside LoRA, `{train: norms}` alone.

    Saved are these weights, not the model; the base's values are remembered, so that they can be switched off.
    """

    weights: Expression = "norms"
    """norms, biases, embeddings, head, or a regular expression found in the weights' names."""

    card: ClassVar[Card] = Card(
        title="Training chosen weights (LayerNorm tuning)",
        paper="arXiv:2312.11420",
        authors="Bingchen Zhao, Haoqin Tu, Chen Wei, Jieru Mei, Cihang Xie",
        venue="ICLR 2024",
        problem="Adapters leave the base's small vectors (norms) and its tables (embeddings, head) as they are, though "
        "a new domain may need just these.",
        idea="Train exactly the weights that are named, beside any adapter; the norms of attention blocks alone were "
        "enough to turn language models into multi-modal ones.",
        formula="norm(x) = γ ⊙ x / rms(x): γ trains, every matrix stays",
        trains="the weights named (norms: a few numbers per block)",
        choose="Beside LoRA when style or domain shifts; {train: embeddings} after adding tokens; alone for the "
        "smallest files.",
        avoid="Alone for new knowledge: scales of features can hardly hold it.",
        limits="A head tied to the embeddings is one matrix with them: naming either trains both.",
        related=("lora", "bitfit", "ia3", "freeze"),
    )
    default_lr: ClassVar[float] = 1e-3

    def count(self, shape: Shape) -> int | None:
        """Those of the norms or the tables; not known for an expression."""
        tables = {"embeddings": shape.table, "head": shape.table}
        return {"norms": shape.norms, **tables}.get(self.weights)

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Mark the named weights that are not frozen. Raises LuthierError when there are none."""
        free = free_weights(module)
        chosen = {name: weight for name, weight in select(module, self.weights) if name in free}
        if not chosen:
            raise LuthierError(
                f"train: every weight that {self.weights!r} means is frozen", fix="freeze less, or name other weights"
            )
        self.choose(module, chosen)
        return module
