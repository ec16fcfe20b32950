"""LLM.int8() (arXiv:2208.07339): 8-bit matrices with outlier features apart, through bitsandbytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luthier.models.quantizers import need_bitsandbytes
from luthier.recipe.schema import Float, Why

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Int8:
    """8 bits a weight, one scale for each output.

    On CUDA, and in evaluation on CPU, inputs are rounded to 8 bits too, but for features beyond `threshold`; in
    training on CPU the matrices are made again in the model's type and nothing else is rounded.
    """

    threshold: Annotated[Float, Field(ge=0), Why("the paper's")] = 6.0
    """Input features with a value beyond it are multiplied in 16 bits; 0: none."""

    def config(self, dtype: torch.dtype) -> Any:
        """As `Quantizer.config`."""
        need_bitsandbytes("int8")
        import transformers

        config: Any = transformers.BitsAndBytesConfig

        return config(load_in_8bit=True, llm_int8_threshold=self.threshold)
