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

    On CUDA inputs are rounded to 8 bits too, but for features beyond `threshold`. On CPU the matrices are made again in
    the model's type and nothing else is rounded.
    """

    threshold: Annotated[Float, Field(ge=0), Why("the paper's")] = 6.0
    """Input features with a value beyond it are multiplied in 16 bits; 0: none. On CUDA only."""

    def config(self, dtype: torch.dtype) -> Any:
        """As `Quantizer.config`."""
        need_bitsandbytes("int8")
        import transformers

        config: Any = transformers.BitsAndBytesConfig

        return config(load_in_8bit=True, llm_int8_threshold=self.threshold)


def steady(state: Any) -> Any:
    """The state of an 8-bit layer on a CPU, with the arithmetic of training in evaluation too.

    bitsandbytes (0.50.2) decides by the layer's mode: in training the inputs stay as they are, in evaluation they are
    rounded to 8 bits, but for features that are large anywhere in the batch. Then a model is another one in evaluation
    than it was trained to be, a reference differs from the policy that equals it, and a row's values depend on its
    neighbours.
    """
    from bitsandbytes.autograd._functions import MatmulLtState

    class Steady(MatmulLtState):
        @property
        def is_training(self) -> bool:
            return True

        @is_training.setter
        def is_training(self, _mode: bool) -> None:
            pass

    made = Steady()
    vars(made).update(vars(state))
    return made
