"""BitFit (arXiv:2106.10199): only the biases train."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, free_layers, free_weights
from luthier.models.adapters.own.own import Chosen
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass(frozen=True)
class BitFit(Chosen):
    """Train every bias of the model, and nothing else. Llama, Mistral and Qwen 3 have none: see `add_biases`."""

    add_biases: Annotated[bool, Why("a model with biases that its kind has not loads only here")] = False
    """Give every linear layer that has no bias one of zeros."""
    targets: Targets = ALL_LINEAR
    """The layers that `add_biases` means: all-linear, a list of layer names, or a regular expression."""

    _added: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    """The layers that had none."""

    default_lr: ClassVar[float] = 1e-3
    card: ClassVar[Card] = Card(
        title="BitFit: bias-only fine-tuning",
        paper="arXiv:2106.10199",
        authors="Ben Zaken, Goldberg, Ravfogel",
        venue="ACL 2022",
        problem="Fine-tuning changes everything, though much of it may only bring out what the model knows already.",
        idea="Train the biases alone: less than a thousandth of the weights, the same ones for every task.",
        formula="y = W x + b: b trains, W stays",
        trains="every bias",
        choose="small data on a model that has biases (GPT-2, BERT's kin), or the smallest change that can be made",
        avoid="when new knowledge must go in; on models without biases LoRA is the plainer choice",
        limits="Llama, Mistral and Qwen 3 have no biases, Qwen 2 only at queries, keys and values; models with added "
        "biases cannot be merged: their kind has no place for them",
        related=("train", "ia3", "lora"),
    )

    def __post_init__(self) -> None:
        if self.targets != ALL_LINEAR and not self.add_biases:
            raise LuthierError(
                "bitfit: `targets` says which layers get biases added, and none are: every bias of the model trains",
                where="adapt.bitfit.targets",
                fix="set add_biases: true, or leave targets out",
            )

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        """A model's own biases are weights of it; added ones are not."""
        return not self.add_biases

    def count(self, shape: Shape) -> int | None:
        """One for each output where biases are added; a model of this kind has none of its own."""
        return shape.over(self.targets, lambda _i, o: o) if self.add_biases else None

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Mark the biases that are not frozen. Raises LuthierError when there are none."""
        if self.add_biases:
            self._add(module)
        if not any(name.endswith("bias") for name, _ in module.named_parameters()):
            raise LuthierError(
                f"bitfit trains biases, and a {type(module).__name__} has none",
                where="adapt.bitfit",
                fix="set `adapt: {bitfit: {add_biases: true}}` to add some, or take `adapt: lora`",
            )
        free = {name: weight for name, weight in free_weights(module).items() if name.endswith("bias")}
        if not free:
            raise LuthierError("every bias that bitfit could train is frozen", fix="freeze fewer blocks")
        self.choose(module, free)
        return module

    def _add(self, module: Any) -> None:
        import torch
        from torch import nn

        dtype = module.get_input_embeddings().weight.dtype
        for layer in free_layers(module, self.targets, "bitfit").values():
            if layer.bias is None:
                size = layer.out_features  # only layers of torch's kind lack a bias: Conv1D always has one
                layer.bias = nn.Parameter(torch.zeros(size, dtype=dtype, device=layer.weight.device))
                self._added.append(layer)

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The base's values for the while; layers that had no bias have none."""
        added = [(layer, layer.bias) for layer in self._added]
        with super().off(module):
            for layer in self._added:
                layer.bias = None
            try:
                yield
            finally:
                for layer, bias in added:
                    layer.bias = bias
