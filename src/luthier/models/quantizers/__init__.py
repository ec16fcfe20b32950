"""Bases in few bits: what `quantize:` names. Light to import: torch and bitsandbytes come when a model is loaded.

The matrices of the decoder's blocks are quantised while the model is read; embeddings, norms, biases and the output
head keep the recipe's type (QLoRA, arXiv:2305.14314, does the same). A quantised weight holds codes and cannot train:
only adapters that declare `quantisable` go with it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.errors import missing_extra
from luthier.recipe.schema import Plugin
from luthier.registry import Registry

if TYPE_CHECKING:
    import torch
    from torch import Tensor

QUANTIZERS = Registry(
    "quantizer",
    {
        "nf4": "luthier.models.quantizers.nf4:Nf4",
        "int8": "luthier.models.quantizers.int8:Int8",
    },
)
WEIGHTS = ("Params4bit", "Int8Params")
"""bitsandbytes' classes of quantised weights, by name: they are recognised without importing it."""


@runtime_checkable
class Quantizer(Protocol):
    """A frozen dataclass whose fields are its YAML keys."""

    def config(self, dtype: torch.dtype) -> Any:
        """What transformers' `quantization_config` is to be, for a model whose other weights are of type `dtype`.

        Raises LuthierError where the library is missing.
        """
        ...


def settings(quantize: Plugin, dtype: torch.dtype) -> Any:
    """The `quantization_config` of a recipe's `quantize:`. Raises LuthierError as `Quantizer.config` does."""
    return QUANTIZERS.build(quantize.name, quantize.args).config(dtype)


def need_bitsandbytes(name: str) -> None:
    """Raises LuthierError where bitsandbytes is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "quant", f"`quantize: {name}`")


def settle(module: Any) -> None:
    """Let quantised layers compute the same in training and in evaluation, on every CPU.

    On CPUs with AVX512-BF16 bitsandbytes repacks a 4-bit layer's weights the first time it is called for evaluation,
    and rounds their scales to bf16 for good: later losses would be another model's, and a training step after an
    evaluation would find no gradient. Its switch for that is a field of each layer.
    """
    for layer in module.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.support_avx512bf16_for_cpu = False


def is_quantised(weight: Any) -> bool:
    """Does the parameter hold codes of few bits?"""
    return type(weight).__name__ in WEIGHTS


def numbers(weight: Any) -> int:
    """How many weights a parameter stands for: two 4-bit codes share a byte."""
    state = weight.quant_state if type(weight).__name__ == "Params4bit" else None
    return int(state.shape.numel()) if state is not None else int(weight.numel())


def dequantised(layer: Any, dtype: torch.dtype | None = None) -> Tensor:
    """The weight (out, in) that a quantised linear layer multiplies with.

    `dtype`: default the type the weights had before, which is what the layer computes with.
    """
    import torch
    from bitsandbytes import functional

    weight = layer.weight
    if type(weight).__name__ == "Params4bit":
        found: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
    else:
        state = layer.state
        codes, scale = (weight.CB, weight.SCB) if state.CB is None else (state.CB, state.SCB)
        found = functional.int8_vectorwise_dequant(codes if codes is not None else weight.data, scale)
        found = found.to(torch.get_default_dtype() if dtype is None else dtype)
    return found if dtype is None else found.to(dtype)
