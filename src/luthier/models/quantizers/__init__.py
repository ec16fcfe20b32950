"""Bases in few bits: what `quantize:` names. Light to import: torch and bitsandbytes come when a model is loaded.

The matrices of the decoder's blocks are quantised while the model is read; embeddings, norms, biases and the output
head keep the recipe's type (QLoRA, arXiv:2305.14314, does the same). A quantised weight holds codes and cannot train:
only adapters that declare `quantisable` go with it.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from luthier.errors import LuthierError, missing_extra
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


def keep_types(module: Any, dtype: torch.dtype) -> None:
    """Make a model that was just read in few bits fit for training, or raise LuthierError where it cannot be.

    On CPUs with AVX512-BF16 bitsandbytes (0.50.2) repacks a 4-bit layer's weights the first time it is called for
    evaluation, and rounds their scales to bf16 for good: later losses would be another model's, and a training step
    after an evaluation would find no gradient. Its switch for that is a field of each layer. And its CPU kernels take
    the scales of other blocks where a block of 64 weights reaches over the end of a row (0.50.2).

    An 8-bit layer on a CPU would compute in evaluation what it does not in training: see `int8.steady`. And every layer
    computes in the model's `dtype`, whatever type an adapter around it widens its input to: (IA)³ of PEFT's would have
    other values, and keys of another type than queries.
    """

    def narrow(_layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (args[0].to(dtype), *args[1:])

    for name, layer in module.named_modules():
        if is_quantised(getattr(layer, "weight", None)):
            layer.register_forward_pre_hook(narrow)
        if type(layer).__name__ == "Linear8bitLt" and layer.weight.device.type == "cpu":
            from luthier.models.quantizers.int8 import steady

            layer.state = steady(layer.state)
        if type(layer).__name__ != "Linear4bit":
            continue
        layer.support_avx512bf16_for_cpu = False
        if layer.weight.device.type == "cpu" and layer.in_features % layer.weight.blocksize:
            raise LuthierError(
                f"on CPU nf4 needs rows of whole blocks of {layer.weight.blocksize} weights, "
                f"{name} has rows of {layer.in_features}",
                where="quantize",
                fix="take `quantize: int8`, or train on CUDA",
            )


def is_quantised(weight: Any) -> bool:
    """Does the parameter hold codes of few bits?"""
    return type(weight).__name__ in WEIGHTS


def numbers(weight: Any) -> int:
    """How many weights a parameter stands for: two 4-bit codes share a byte."""
    state = weight.quant_state if type(weight).__name__ == "Params4bit" else None
    return int(state.shape.numel()) if state is not None else int(weight.numel())


def dequantised(layer: Any) -> Tensor:
    """The matrix (out, in) that a quantised linear layer multiplies with: of nf4 in the type that the weights had
    before, of int8 in fp32."""
    from bitsandbytes import functional

    weight = layer.weight
    if type(weight).__name__ == "Params4bit":
        found: Tensor = functional.dequantize_4bit(weight.data, weight.quant_state)
        return found
    state = layer.state  # the first call moves codes and scales there
    codes, scale = (weight.data, weight.SCB) if state.CB is None else (state.CB, state.SCB)
    rows: Tensor = functional.int8_vectorwise_dequant(codes, scale)
    return rows


def dequantise_(module: Any, dtype: torch.dtype) -> None:
    """Give a transformers model ordinary matrices again, in place: those it computed with, and all of it in `dtype`."""
    import torch
    from torch import nn
    from transformers import pytorch_utils

    conv1d: Any = pytorch_utils.Conv1D

    for name, layer in list(module.named_modules()):
        if not is_quantised(getattr(layer, "weight", None)):
            continue
        matrix = dequantised(layer).to(dtype)
        turned = issubclass(layer.source_cls, conv1d)  # GPT-2 keeps its matrices as (in, out)
        with torch.device("meta"):
            plain: Any = (
                conv1d(layer.out_features, layer.in_features)
                if turned
                else nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
            )
        plain.weight = nn.Parameter(matrix.T.contiguous() if turned else matrix)
        plain.bias = layer.bias
        module.set_submodule(name, plain)
    module.hf_quantizer.remove_quantization_config(module)
    for flag in ("is_loaded_in_4bit", "is_loaded_in_8bit"):  # PEFT's IA3 (0.21.2) asks for these before it merges
        setattr(module, flag, False)
    module.to(dtype)
