"""AdaLoRA (arXiv:2303.10512): W x + P Λ Q x, whose singular values Λ compete for a budget while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.tuner import Layered, whole
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape

Share = Annotated[Float, Field(ge=0, lt=1)]
RANK, SENSITIVITY, UNCERTAINTY = "rank.", "sensitivity.", "uncertainty."


@dataclass(frozen=True)
class AdaLora(Layered):
    """LoRA in the form of a singular value decomposition that gives rank away where it matters least."""

    r: Annotated[Int, Field(gt=0), Why("LoRA's default")] = 16
    """Mean rank in the end."""
    start: Annotated[Int, Field(gt=0)] | None = None
    """Rank at the start. Default: one and a half times r."""
    alpha: Annotated[Float, Field(gt=0), Why("2r")] | None = None
    """Scale of the update. Default: 2r."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the update's input."""
    before: Annotated[Share, Why("importance must be measured before anything is judged by it")] = 0.1
    """Share of the run before ranks begin to fall."""
    after: Annotated[Share, Why("the ranks that are left train on undisturbed")] = 0.3
    """Share of the run after they have fallen."""
    every: Annotated[Int, Field(gt=0), Why("PEFT's")] = 1
    """Steps between two judgements."""
    orthogonality: Annotated[Float, Field(ge=0), Why("PEFT's; the paper takes 0.1 to 0.5")] = 0.5
    """Weight of the penalty that keeps P and Q orthogonal."""

    default_lr: ClassVar[float] = 1e-3
    card: ClassVar[Card] = Card(
        title="AdaLoRA: adaptive budget allocation",
        paper="arXiv:2303.10512",
        authors="Zhang, Chen, Bukharin, Karampatziakis, He, Cheng, Chen, Zhao",
        venue="ICLR 2023",
        problem="LoRA gives every layer the same rank, needed or not.",
        idea="Write the update as P Λ Q and set the singular values to zero that matter least, over all layers.",
        formula="y = W x + (α/r) P Λ Q x,  loss + γ mean(‖Pᵀ P − I‖, ‖Q Qᵀ − I‖);  importance = smoothed |w · ∂L/∂w| × "
        "its uncertainty",
        trains="P, Λ and Q of every linear layer, at one and a half times the final rank",
        choose="a small final adapter whose ranks should differ by layer, on a run of some hundred steps",
        avoid="short runs: importance has no time to settle",
        limits="the number of steps must be known; more memory than LoRA of the same final rank while training",
        related=("lora", "eva", "gelora"),
    )

    def __post_init__(self) -> None:
        if self.before + self.after >= 1:
            raise LuthierError(
                f"adalora: no step is left in which ranks fall ({self.before:g} before, {self.after:g} after)",
                where="adapt.adalora.before",
                fix="let before and after be less than 1 together",
            )

    def fits(self, total: int) -> None:
        """Ranks fall over the steps from tinit to total - tfinal; there must be one."""
        first, last = self._fall(total)
        if first >= last:
            raise LuthierError(
                f"adalora: of {total} step{'s' * (total != 1)} none is left in which ranks fall",
                where="adapt.adalora",
                fix="train for more steps, or take `adapt: lora`",
            )

    def _fall(self, total: int) -> tuple[int, int]:
        """The step after which ranks begin to fall, and the one at which they have."""
        return int(self.before * total), total - max(1, int(self.after * total))

    def count(self, shape: Shape) -> int | None:
        """P, Λ and Q, at the rank of the start."""
        return shape.over(self.targets, lambda i, o: self._start() * (i + o + 1))

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model; the schedule follows when the number of steps is known."""
        from peft import AdaLoraConfig

        start = self._start()
        if start <= self.r:
            raise LuthierError(
                f"adalora: the rank at the start ({start}) must be above the one in the end ({self.r})",
                where="adapt.adalora.start",
                fix="leave start out",
            )
        alpha: Any = whole(2.0 * self.r if self.alpha is None else self.alpha)
        return AdaLoraConfig(
            target_r=self.r,
            init_r=start,
            lora_alpha=alpha,
            lora_dropout=self.dropout,
            deltaT=self.every,
            orth_reg_weight=self.orthogonality,
            total_step=1 << 30,
            **self.oriented(module),
        )

    def _start(self) -> int:
        return self.start if self.start is not None else self.r * 3 // 2 + 1

    def after_step(self, module: Any, step: int, total: int) -> None:
        """Measure importance and take rank away (algorithm 1), on the gradients of this step."""
        tuner = module.base_model
        config = tuner.peft_config[tuner.trainable_adapter_name]
        config.total_step = total
        first, last = self._fall(total)
        config.tinit, config.tfinal = first, total - last
        tuner.update_and_allocate(step)

    def penalty(self, module: Any) -> Tensor | None:
        """γ times the mean of all ‖Pᵀ P − I‖_F and ‖Q Qᵀ − I‖_F, as in PEFT; the paper (eq. 4) sums their squares."""
        import torch

        terms = []
        for name, weight in module.named_parameters():
            if ".lora_A." in name or ".lora_B." in name:
                gram = weight @ weight.T if ".lora_A." in name else weight.T @ weight
                terms.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device)))
        return self.orthogonality * torch.stack(terms).mean() if self.orthogonality and terms else None

    def memory(self, module: Any) -> dict[str, Tensor]:
        """The smoothed importance of each weight, and which ranks are left."""
        import torch

        tuner = module.base_model
        allocator = tuner.rankallocator
        pattern = tuner.peft_config[tuner.trainable_adapter_name].rank_pattern or {}
        return {
            **{SENSITIVITY + name: tensor for name, tensor in allocator.exp_avg_ipt.items()},
            **{UNCERTAINTY + name: tensor for name, tensor in allocator.exp_avg_unc.items()},
            **{RANK + name: torch.tensor(left) for name, left in pattern.items()},
        }

    def remember(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put both back."""
        tuner = module.base_model
        allocator = tuner.rankallocator

        def part(key: str) -> dict[str, Tensor]:
            return {name[len(key) :]: tensor for name, tensor in tensors.items() if name.startswith(key)}

        allocator.exp_avg_ipt, allocator.exp_avg_unc = part(SENSITIVITY), part(UNCERTAINTY)
        allocator.ipt = {name: tensor.clone() for name, tensor in allocator.exp_avg_ipt.items()}
        pattern = {name: left.tolist() for name, left in part(RANK).items()}
        tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = pattern or None
