"""What all adapters of PEFT's have in common: a configuration of PEFT's, checked, and a model wrapped by it.

One more of them is a declaration: a frozen dataclass with the keys a recipe may set, and `config`, which turns them
into PEFT's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, free_layers, named_by, transposed
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from luthier.types import Encoded


@dataclass(frozen=True)
class Tuner(Adapter):
    """An adapter that PEFT computes, saves and loads."""

    kind: ClassVar[Literal["base", "peft", "own"]] = "peft"
    default_lr: ClassVar[float] = 2e-4

    @abstractmethod
    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Wrap the model; only the added weights train. Raises LuthierError for what PEFT refuses."""
        peft = wrapped(module, self.config(module), self.name)
        self.prepare_layers(peft)
        return peft

    def prepare_layers(self, module: Any) -> None:
        """Put layers of ours in the place of PEFT's where they compute the same faster; called on opening, too."""


def wrapped(module: Any, config: Any, name: str) -> Any:
    """The model in PEFT's wrapper; what PEFT refuses as a LuthierError."""
    from peft import get_peft_model

    from luthier.models.adapters.peft.few_bits import mended

    try:
        peft = mended(get_peft_model(module, config))
    except REFUSALS as error:
        raise refused(error, str(config.peft_type.value) if name == "peft" else name, module) from error
    settle_lengths(peft)
    _of_its_rank(peft, name)
    _one_matrix_once(peft, config, name)
    return peft


REFUSALS = (
    ValueError,
    TypeError,
    NotImplementedError,
    ImportError,
    LookupError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
)
"""What PEFT raises where a configuration does not go with a model, or a package of its own is missing."""


def refused(error: Exception, kind: str, module: Any) -> Exception:
    """What PEFT said, as a LuthierError; too little memory stays what it is."""
    first = (str(error).strip().splitlines() or [""])[0]
    if "DefaultCPUAllocator" in first or type(error).__name__ == "OutOfMemoryError":
        return error
    said = first if isinstance(error, ValueError | ImportError) and first else f"{type(error).__name__}: {first}"
    return LuthierError(
        f"PEFT cannot put {kind} on a {type(module).__name__}: {said}",
        where="adapt",
        fix="change its keys, or take `adapt: lora`",
    )


def settle_lengths(peft: Any) -> None:
    """Set DoRA's lengths m to the very norms that its layers divide by, so that m / ‖W + s B A‖ is 1 to the bit.

    PEFT (0.21.2, `DoraLinearLayer.update_layer`) takes the first lengths from weights in the base's type, and in
    training the norms from weights in the type of A and B: on a bf16 base they differ by up to 1/256.
    """
    import torch
    from peft.tuners.lora.dora import DoraLinearLayer
    from peft.utils.integrations import dequantize_module_weight

    for layer in peft.modules():
        for name, length in getattr(layer, "lora_magnitude_vector", {}).items():
            if type(length) is not DoraLinearLayer:
                continue
            down, up = layer.lora_A[name], layer.lora_B[name]
            with torch.no_grad():
                update = length.get_lora_weight(down, up)
                weight = dequantize_module_weight(layer.get_base_layer()).to(update.dtype)
                length.weight.copy_(length.get_weight_norm(weight, update, layer.scaling[name]))


def _one_matrix_once(peft: Any, config: Any, name: str) -> None:
    """Raises LuthierError where first weights were taken out of an output head that is one matrix with the embeddings:
    they would have lost them, too."""
    from peft.tuners.lora import LoraLayer

    from luthier.models.adapters.peft.other import takes_out

    base = peft.get_base_model()
    ends = [base.get_input_embeddings(), base.get_output_embeddings()]
    on = [end for end in ends if isinstance(end, LoraLayer)]
    tied = bool(getattr(base.config.get_text_config(), "tie_word_embeddings", False))
    if on and tied and takes_out(getattr(config, "init_lora_weights", True)):
        raise LuthierError(
            f"{name} takes its first weights out of the output head, which is one matrix with the embeddings here: "
            "they would change, too",
            where=f"adapt.{name}",
            fix="leave the head out of its targets, or take `adapt: lora`, which begins with nothing",
        )


def _of_its_rank(peft: Any, name: str) -> None:
    """Raises LuthierError where PEFT (0.21.2, `pissa_init` and its like) has cut a layer's rank without a word: the
    adapter could not be opened again."""
    from peft.tuners.lora import LoraLayer
    from torch import nn

    layers = {n: part for n, part in peft.get_base_model().named_modules() if isinstance(part, LoraLayer)}
    layer: Any
    for place, layer in layers.items():
        for adapter, down in layer.lora_A.items():
            if isinstance(down, nn.Linear) and len(down.weight) < layer.r[adapter]:
                raise LuthierError(
                    f"{name} begins with r = {layer.r[adapter]} directions of each matrix, but {place} "
                    f"({layer.out_features} x {layer.in_features}) has only {len(down.weight)}",
                    where=f"adapt.{name}",
                    fix="lower r",
                )


@dataclass(frozen=True)
class Layered(Tuner):
    """A tuner that wraps linear layers."""

    targets: Annotated[Targets, Why("all linear layers train better than attention's alone")] = ALL_LINEAR
    """all-linear (every linear layer but the output head), a list of layer names, or a regular expression."""

    on_head: ClassVar[bool] = False
    """It can go on the output head, too, where that is named."""

    def layers(self, module: Any) -> dict[str, Any]:
        """The layers it goes on, by name."""
        return free_layers(module, self.targets, self.name, on_head=self.on_head)

    def where(self, module: Any) -> dict[str, Any]:
        """PEFT's keys for them."""
        layers = self.layers(module)
        return {"target_modules": named_by(list(layers), module), "task_type": "CAUSAL_LM"}

    def oriented(self, module: Any) -> dict[str, Any]:
        """As `where`, with the orientation of their weights."""
        return {**self.where(module), "fan_in_fan_out": transposed(self.layers(module))}


def whole(value: float) -> float:
    """5.0 as 5: PEFT writes it as it is given."""
    return int(value) if value == int(value) else value


def per_layer(layers: Mapping[str, Any], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Layer → value, for those that a key of `given` (a name's end, or an expression) means.

    Raises LuthierError for a key that means none of them.
    """
    import re

    found: dict[str, Any] = {}
    for key, value in given.items():
        meant = [name for name in layers if name == key or name.endswith(f".{key}") or re.fullmatch(key, name)]
        if not meant:
            raise LuthierError(
                f"{what}: no layer that is trained is called {key!r}",
                where=f"adapt.{what}",
                fix=f"layers are named like {next(iter(layers))!r}; give the end of a name or an expression",
            )
        found |= dict.fromkeys(meant, value)
    return found
