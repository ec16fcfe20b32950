"""LoRA-GA (arXiv:2407.05000): LoRA whose first step goes where full fine-tuning's would.

With A = c V_{1:r}ᵀ and B = c U_{r+1:2r} from the SVD of the loss's gradient G = U S Vᵀ, the first step changes W by a
multiple of B Bᵀ G + G Aᵀ A = c² U_{1:2r} S_{1:2r} V_{1:2r}ᵀ: of all steps of rank 2r the one nearest to G.

Shape suffixes: O = outputs, I = inputs, R = rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.sampled import Measuring, Rows, given
from luthier.models.adapters.kit.targets import is_linear
from luthier.models.adapters.peft.lora import Rewriting
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.types import Encoded


@dataclass(frozen=True)
class LoraGa(Measuring, Rewriting):
    """LoRA that begins with the main directions of the loss's gradient on your data, which are taken out of the base.

    The gradient is that of the next-token loss on the first responses, whatever the objective.
    """

    rows: Annotated[Rows, Why("half of what the authors' code takes")] = 64
    gamma: Annotated[Float, Field(gt=0), Why("the authors' setting")] = 16.0
    """A and B begin with the factor c = outputs^¼ / √gamma: a larger gamma takes less out of the base."""
    niter: Annotated[Int, Field(ge=0), Why("close to the exact vectors, in a fraction of the time")] = 16
    """Power iterations of the fast SVD. 0: the exact one."""

    default_lr: ClassVar[float] = 5e-5
    scale: ClassVar[float] = 2.0
    directions: ClassVar[int] = 2
    card: ClassVar[Card] = Card(
        title="LoRA-GA: low-rank adaptation with gradient approximation",
        paper="arXiv:2407.05000",
        authors="Wang, Yu, Li",
        venue="NeurIPS 2024",
        problem="LoRA's random first weights make its first steps unlike those of full fine-tuning, and slow.",
        idea="Begin with the gradient's singular vectors, so that the first step is full fine-tuning's to rank 2r.",
        formula="G = U S Vᵀ;  A = c V_{1:r}ᵀ, B = c U_{r+1:2r}, c = d_out^¼ / √γ, base W − s B A  (s = α/r)",
        trains="as LoRA",
        choose="when few steps must do and some dozens of rows tell what the rest are like",
        avoid="with `quantize:`, and where the base with the adapter off is needed in memory (a second copy is loaded)",
        limits="r at most half of a layer's smaller side; learning rates of LoRA are too high; begins as the base to "
        "rounding only; saved as plain LoRA of rank 2r on the untouched base",
        related=("lora", "pissa", "corda", "eva"),
    )

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Measure the gradients, wrap the model, put their singular vectors in and take the product out of the base."""
        import torch

        from luthier.models.adapters.kit.gradients import gradients

        layers = self.layers(module)
        ranks = dict.fromkeys(layers, self.r) | dict(self.config(module).rank_pattern)
        started: dict[str, tuple[Tensor, Tensor]] = {}
        for name, gradient_OI in gradients(module, layers, given(sample, "lora_ga")):
            started[name] = self._first(gradient_OI, ranks[name])
        peft = super().attach(module, sample)
        inside = dict(peft.get_base_model().named_modules())
        with torch.no_grad():
            for name, (a_RI, b_OR) in started.items():
                layer: Any = inside[name]
                base: Any = layer.get_base_layer()
                layer.lora_A["default"].weight.copy_(a_RI)
                layer.lora_B["default"].weight.copy_(b_OR)
                offset_OI = layer.scaling["default"] * (b_OR @ a_RI)
                taken = base.weight.float() - (offset_OI if is_linear(base) else offset_OI.T)
                base.weight.copy_(taken)
        return peft

    def _first(self, gradient_OI: Tensor, r: int) -> tuple[Tensor, Tensor]:
        """(A, B)."""
        import torch

        if self.niter and 4 * r < min(gradient_OI.shape):
            u, _, v = torch.svd_lowrank(gradient_OI, q=4 * r, niter=self.niter)
        else:
            u, _, vh = torch.linalg.svd(gradient_OI, full_matrices=False)
            v = vh.T
        c = len(gradient_OI) ** 0.25 / self.gamma**0.5
        return c * v[:, :r].T, c * u[:, r : 2 * r]
