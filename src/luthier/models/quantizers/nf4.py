"""NF4, the 4-bit normal float of QLoRA (arXiv:2305.14314, §3), through bitsandbytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from luthier.models.quantizers import need_bitsandbytes
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Nf4:
    """4 bits a weight: 16 codes at the quantiles of a normal distribution, one scale for 64 weights.

    A quarter of bf16's memory for the base's matrices; they are made again in `compute` for each product.
    """

    double: Annotated[bool, Why("0.37 bits a weight for nothing measurable, as the paper found")] = True
    """Quantise the scales too, to 8 bits: 4.127 bits a weight instead of 4.5."""
    compute: Annotated[Literal["auto", "bf16", "fp32", "fp16"], Why("the model's dtype")] = "auto"
    """Type in which the matrices are multiplied. auto: the model's."""

    def config(self, dtype: torch.dtype) -> Any:
        """As `Quantizer.config`."""
        need_bitsandbytes("nf4")
        import torch
        import transformers

        config: Any = transformers.BitsAndBytesConfig

        types = {"auto": dtype, "bf16": torch.bfloat16, "fp32": torch.float32, "fp16": torch.float16}
        return config(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=self.double,
            bnb_4bit_compute_dtype=types[self.compute],
        )
