"""What PEFT's layers get wrong on a base in few bits, put right by hooks on the layers."""

from __future__ import annotations

from typing import Any

from luthier.models.quantizers import is_quantised


def mended(module: Any) -> Any:
    """The PEFT model, fit for a base in few bits; of an ordinary base nothing is touched.

    PEFT (0.21.2, `tuners/ia3/bnb.py`) hands on fp32 from (IA)³ whatever it was given, so that queries and keys differ
    in type. And to read an int8 matrix on CPU for DoRA it puts it anew without its scales (`utils/integrations.py`,
    `dequantize_module_weight`), which bitsandbytes' layer then takes for a matrix it has not seen.
    """
    from peft.tuners.ia3 import IA3Layer
    from peft.tuners.lora import LoraLayer

    for layer in module.modules():
        if not isinstance(layer, IA3Layer | LoraLayer):
            continue
        base: Any = layer.get_base_layer()
        if not is_quantised(getattr(base, "weight", None)):
            continue
        if isinstance(layer, IA3Layer):
            owner: Any = layer
            owner.register_forward_hook(_in_the_inputs_type)
        elif type(base).__name__ == "Linear8bitLt":
            base.register_forward_pre_hook(_seen)
    return module


def _in_the_inputs_type(_layer: Any, args: tuple[Any, ...], output: Any) -> Any:
    return output.to(args[0].dtype)


def _seen(layer: Any, _args: tuple[Any, ...]) -> None:
    """Codes without scales are those that the layer's state holds already, with their scales."""
    if layer.weight.CB is not None and layer.weight.SCB is None:
        layer.weight.CB = None
