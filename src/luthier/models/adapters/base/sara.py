"""SaRA (arXiv:2409.06633): only the smallest entries of each matrix train; all others stay as they are, bit by bit.

Each matrix is held as a buffer, the K entries that train as an fp32 vector beside it. The matrix enters the graph
through a function whose backward pass gathers the gradient of these entries, so neither the optimiser nor weight decay
ever sees another one, and state is kept for K numbers only.

Shape suffixes: K = entries of a matrix that train, N = all entries of it, R x C = its shape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, free_layers
from luthier.models.adapters.own.own import Own
from luthier.recipe.schema import Float, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded

SMALLEST_REGULARISED = 64
"""A matrix with a side no longer than this is left out of the low-rank term, as in the authors' code."""


@dataclass(frozen=True)
class Sara(Own):
    """Train the entries of smallest magnitude of each matrix, the ones the model makes least use of.

    Halfway those that have grown past the threshold are settled, and only the ones still below it go on.
    """

    share: Annotated[Float, Field(gt=0, le=1), Why("the paper finds the smallest 10 to 20 % to be unused")] = 0.1
    """Share of each matrix's entries that train."""
    threshold: Annotated[Float, Field(gt=0)] | None = None
    """Train the entries below this magnitude instead, whatever their share (the paper: 2e-3)."""
    targets: Targets = ALL_LINEAR
    """all-linear (every linear layer but the output head), a list of layer names, or a regular expression."""
    low_rank: Annotated[Float, Field(ge=0), Why("the paper's weight")] = 5e-4
    """Weight of the nuclear norm of the update of one matrix, drawn at random each step."""
    reselect: bool = True
    """Choose again at half of the run, among the entries that train."""

    _parts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """`Entries` by the layer's name in the bare base."""

    card: ClassVar[Card] = Card(
        title="SaRA (progressive sparse low-rank adaptation)",
        paper="arXiv:2409.06633",
        authors="Teng Hu, Jiangning Zhang, Ran Yi, Hongrui Huang, Yabiao Wang, Lizhuang Ma",
        venue="ICLR 2025",
        problem="Added low-rank weights disturb what a model knows; yet many of its own weights are near zero and do "
        "next to nothing.",
        idea="Train just these entries, keep their update of low rank with a nuclear norm, and halfway go on with "
        "those that are still small. Gradients and optimiser state exist for them alone.",
        formula="W' = W + P ⊙ M,  M = [|W| < τ];  loss + λ ‖P ⊙ M‖_*,  τ by quantile for each matrix",
        trains="the smallest tenth of each matrix",
        choose="The base's behaviour must be kept closely and LoRA's update would be too blunt; a sparse file of exact "
        "changes is wanted.",
        avoid="Memory is short: each matrix's gradient is formed before its entries are gathered. LoRA is smaller.",
        limits="Made for diffusion models; there is little evidence on language models. No quantised base. The file "
        "holds 4 bytes for each entry and one bit for each weight.",
        related=("lora", "train", "freeze"),
    )
    default_lr: ClassVar[float] = 2e-4

    def count(self, shape: Shape) -> int | None:
        """A share of each matrix; not known beforehand for a threshold."""
        if self.threshold is not None:
            return None
        return shape.over(self.targets, lambda i, o: int(self.share * i * o))

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Take the small entries out of every target that is not frozen."""
        from luthier.models.adapters.base.entries import Entries, threshold

        layers = free_layers(module, self.targets, "sara")
        module.requires_grad_(False)
        for name, layer in layers.items():
            tau = self.threshold or threshold(layer.weight, self.share)
            if bool((layer.weight.float().abs() < tau).any()):
                self._parts[name] = Entries(layer, tau)
        if not self._parts:
            key = "share" if self.threshold is None else "threshold"
            raise LuthierError("sara: no entry of a matrix that may train is small enough", fix=f"raise {key}")
        # once before each forward pass of the model, not of its layers: fused blocks read the layers' weights
        module.get_decoder().register_forward_pre_hook(self._refresh)
        return module

    def _refresh(self, *_: Any) -> None:
        for part in self._parts.values():
            part.refresh()

    def penalty(self, module: Any) -> Tensor | None:
        """λ times the nuclear norm of one matrix's update, with its gradient U V^T."""
        import torch

        large = [part for part in self._parts.values() if min(part.weight.shape) > SMALLEST_REGULARISED]
        if not self.low_rank or not large:
            return None
        return self.low_rank * large[int(torch.randint(len(large), ()))].nuclear_norm()

    def after_step(self, module: Any, step: int, total: int) -> None:
        """Write the entries back; at half of the run settle those that have outgrown the threshold."""
        for part in self._parts.values():
            part.restore_settled()
            if self.reselect and step + 1 == total // 2:
                part.mark_settled()
            part.write()

    def memory(self, module: Any) -> dict[str, Tensor]:
        """Which entries are settled."""
        return {name: part.settled_K for name, part in self._parts.items() if part.settled_K is not None}

    def remember(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Settle the same entries again."""
        for name, settled_K in tensors.items():
            self._parts[name].settled_K = settled_K.to(self._parts[name].values.device)

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """For each matrix which entries were trained, as bits, and their values in fp32."""
        saved: dict[str, Tensor] = {}
        for name, part in self._parts.items():
            saved |= {f"{name}.values": part.values.detach(), f"{name}.mask": part.mask_bits()}
        return saved

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put the entries back. Raises KeyError for a matrix that is missing."""
        for name, part in self._parts.items():
            part.load(tensors[f"{name}.mask"], tensors[f"{name}.values"])

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The base's entries for the while."""
        for part in self._parts.values():
            part.write(part.base_K)
        try:
            yield
        finally:
            for part in self._parts.values():
                part.write()

    def merge(self, module: Any) -> None:
        """The matrices hold the trained entries already: make plain parameters of them."""
        for part in self._parts.values():
            part.dissolve()
        self._parts.clear()
