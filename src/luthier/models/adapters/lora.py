"""LoRA (arXiv:2106.09685): y = W x + (alpha / r) B A x, A random and B zero at the start; PEFT's layers and format."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.quantizers import is_quantised
from luthier.recipe.schema import Float, Int, Why
from luthier.registry import suggest

if TYPE_CHECKING:
    from torch import nn

    from luthier.types import Encoded

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Lora(Adapter):
    """Train a low-rank update of the linear layers; the base's own weights stay as they are.

    The added weights are kept in fp32 whatever the base's type: their updates are too small for bf16.
    """

    r: Annotated[Int, Field(gt=0), Why("enough for instruction data; a larger r rarely helps there")] = 16
    """Rank of the update."""
    alpha: Annotated[Float, Field(gt=0), Why("2r")] | None = None
    """Scale of the update, divided by r. Default: 2r."""
    dropout: Annotated[Float, Field(ge=0, lt=1), Why("little use on one to three epochs, and slower")] = 0.0
    """Dropout on the update's input."""
    targets: Annotated[str | tuple[str, ...], Why("all linear layers train better than attention's alone")] = ALL_LINEAR
    """all-linear (every linear layer but the output head), a list of layer names, or a regular expression."""

    default_lr: ClassVar[float] = 2e-4
    kind: ClassVar[Literal["base", "peft", "own"]] = "peft"
    quantisable: ClassVar[bool] = True

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Wrap the targets that are not frozen; only the added weights train."""
        from peft import LoraConfig, get_peft_model

        linear = linear_layers(module)
        chosen = self._chosen(linear)
        free = [name for name in chosen if linear[name].weight.requires_grad or is_quantised(linear[name].weight)]
        if not free:
            raise LuthierError(
                "every layer that LoRA targets is frozen", fix="freeze fewer blocks or target other layers"
            )
        alpha = 2 * self.r if self.alpha is None else self.alpha
        options: dict[str, Any] = {"lora_alpha": int(alpha) if alpha == int(alpha) else alpha}
        config = LoraConfig(
            r=self.r,
            lora_dropout=self.dropout,
            target_modules=_short(free, linear),
            fan_in_fan_out=any(not _is_linear(linear[name]) for name in free),
            task_type="CAUSAL_LM",
            **options,
        )
        wrapped: Any = get_peft_model(module, config)
        return wrapped

    def _chosen(self, linear: dict[str, Any]) -> list[str]:
        if self.targets == ALL_LINEAR:
            return list(linear)
        known = sorted({name.split(".")[-1] for name in linear})
        if isinstance(self.targets, str):
            chosen = [name for name in linear if re.fullmatch(self.targets, name)]
            if not chosen:
                raise LuthierError(
                    f"lora: no linear layer's name matches the expression {self.targets!r}",
                    fix=f"layers are named like {next(iter(linear))!r}; for some by their last name give a list: "
                    f"{', '.join(known)}",
                )
            return chosen
        for target in self.targets:
            if not any(_named(name, target) for name in linear):
                raise LuthierError(f"lora: the model has no linear layer {target!r}", fix=suggest(target, known))
        return [name for name in linear if any(_named(name, target) for target in self.targets)]


def linear_layers(module: Any) -> dict[str, Any]:
    """Every linear layer by name (GPT-2's Conv1D is one, transposed), the output head left out."""
    from transformers.pytorch_utils import Conv1D

    head = module.get_output_embeddings()
    return {
        name: layer
        for name, layer in module.named_modules()
        if (_is_linear(layer) or isinstance(layer, Conv1D)) and layer is not head
    }


def _is_linear(layer: nn.Module) -> bool:
    from torch import nn

    return isinstance(layer, nn.Linear)


def _named(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _short(chosen: list[str], linear: dict[str, Any]) -> list[str]:
    """The last names of the layers where they mean exactly these layers, else the full names."""
    last = sorted({name.split(".")[-1] for name in chosen})
    meant = [name for name in linear if any(_named(name, target) for target in last)]
    return last if meant == chosen else chosen
