"""BitFit (arXiv:2106.10199): only the biases train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.card import Card
from luthier.models.adapters.targets import ALL_LINEAR, Targets, free_layers
from luthier.models.quantizers import is_quantised
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.types import Encoded


@dataclass(frozen=True)
class BitFit(Adapter):
    """Train every bias of the model, and nothing else. Llama, Mistral and Qwen 3 have none: see `add_biases`."""

    add_biases: Annotated[bool, Why("a model with biases that its kind has not loads only here")] = False
    """Give every linear layer that has no bias one of zeros."""
    targets: Targets = ALL_LINEAR
    """The layers that `add_biases` means: all-linear, a list of layer names, or a regular expression."""

    _biases: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By name in the bare base: the bias, and its value in the base."""
    _added: list[Any] = field(default_factory=list, init=False, repr=False, compare=False)
    """The layers that had none."""

    default_lr: ClassVar[float] = 1e-3
    kind: ClassVar[Literal["base", "peft", "own"]] = "own"
    quantisable: ClassVar[bool] = True
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

    @property
    def mergeable(self) -> bool:  # type: ignore[override]
        """A model's own biases are weights of it; added ones are not."""
        return not self.add_biases

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Mark the biases that are not frozen. Raises LuthierError when there are none."""
        if self.add_biases:
            self._add(module)
        few_bits = any(is_quantised(weight) for weight in module.parameters())  # loading froze everything then
        biases = [(name, weight) for name, weight in module.named_parameters() if name.endswith("bias")]
        for name, weight in biases:
            if weight.requires_grad or few_bits:
                self._biases[name] = (weight, weight.detach().clone())
        if not biases:
            raise LuthierError(
                f"bitfit trains biases, and a {type(module).__name__} has none",
                where="adapt.bitfit",
                fix="set `adapt: {bitfit: {add_biases: true}}` to add some, or take `adapt: lora`",
            )
        if not self._biases:
            raise LuthierError("every bias that bitfit could train is frozen", fix="freeze fewer blocks")
        module.requires_grad_(False)
        for weight, _ in self._biases.values():
            weight.requires_grad_(True)
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

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The biases as they are now."""
        return {name: weight.detach() for name, (weight, _) in self._biases.items()}

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put them back. Raises KeyError for one that is missing."""
        for name, (weight, _) in self._biases.items():
            weight.data.copy_(tensors[name])

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The base's values for the while; layers that had no bias have none."""
        trained = [(weight, weight.detach().clone()) for weight, _ in self._biases.values()]
        added = [(layer, layer.bias) for layer in self._added]
        for weight, base in self._biases.values():
            weight.data.copy_(base)
        for layer in self._added:
            layer.bias = None
        try:
            yield
        finally:
            for layer, bias in added:
                layer.bias = bias
            for weight, value in trained:
                weight.data.copy_(value)

    def merge(self, module: Any) -> None:
        """Nothing to do: these are the base's own weights."""
