"""Chosen weights of the base train, by themselves or beside an adapter, and are saved by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.card import Card
from luthier.models.adapters.depth import select
from luthier.models.quantizers import is_quantised

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.types import Encoded


@dataclass(frozen=True)
class Train(Adapter):
    """Train some of the base's own weights: `[lora, {train: norms}]` beside LoRA, `{train: norms}` alone.

    Saved are these weights, not the model; the base's values are remembered, so that they can be switched off.
    """

    weights: str = "norms"
    """norms, biases, embeddings, head, or a regular expression found in the weights' names."""

    _chosen: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By name in the bare base: the weight, and its value in the base."""

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
    kind: ClassVar[Literal["base", "peft", "own"]] = "own"
    quantisable: ClassVar[bool] = True

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Mark the named weights that are not frozen. Raises LuthierError when there are none."""
        few_bits = any(is_quantised(weight) for weight in module.parameters())  # then loading froze everything
        for name, weight in select(module, self.weights):
            if weight.requires_grad or (few_bits and weight.is_floating_point() and not is_quantised(weight)):
                self._chosen[name] = (weight, weight.detach().clone())
        if not self._chosen:
            raise LuthierError(
                f"train: every weight that {self.weights!r} means is frozen", fix="freeze less, or name other weights"
            )
        chosen = {id(weight) for weight, _ in self._chosen.values()}
        for weight in module.parameters():
            weight.requires_grad_(id(weight) in chosen)
        return module

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: weight.detach() for name, (weight, _) in self._chosen.items()}

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put the weights back. Raises KeyError for one that is missing."""
        for name, (weight, _) in self._chosen.items():
            weight.data.copy_(tensors[name])

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The base's values for the while."""
        now = {name: weight.detach().clone() for name, (weight, _) in self._chosen.items()}
        for weight, base in self._chosen.values():
            weight.data.copy_(base)
        try:
            yield
        finally:
            self.restore(module, now)

    def merge(self, module: Any) -> None:
        """Nothing to do: these are the base's own weights."""
