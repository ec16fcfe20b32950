"""IR-QLoRA (arXiv:2402.05445): LoRA on a base in 4 bits, both arranged so that less information is lost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, free_layers, is_linear, sides
from luthier.models.adapters.own.beside import Beside
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape


@dataclass(frozen=True)
class IrQlora(Beside):
    """Round the base with shifted blocks that lose less, and train LoRA with a shortcut around each of its matrices.

    With `quantize: nf4`. Without it the rounded weights are held in the model's type: the same maths, no memory saved.
    """

    r: Annotated[Int, Field(gt=0), Why("as LoRA's")] = 16
    """Rank of the update."""
    alpha: Annotated[Float, Field(gt=0), Why("2r")] | None = None
    """Scale of the update, divided by r. Default: 2r."""
    targets: Targets = ALL_LINEAR
    """all-linear (every linear layer but the output head), a list of layer names, or a regular expression."""
    width: Annotated[Float, Field(ge=0), Why("the paper's λ")] = 0.1
    """How far from a block's median shifts are looked for, in standard deviations of its width."""
    steps: Annotated[Int, Field(gt=0), Why("as the authors' code; finer ones find nothing more")] = 51
    """Shifts tried on each side of the median."""

    card: ClassVar[Card] = Card(
        title="IR-QLoRA: information retention",
        paper="arXiv:2402.05445",
        authors="Qin, Ma, Zheng, Li, Zhang, Liu, Luo, Liu, Magno",
        venue="ICML 2024",
        problem="Rounding to 4 bits leaves some of the 16 codes of a block nearly unused, and LoRA's thin matrices "
        "pass on little of what they see.",
        idea="Shift each block before rounding so that the entropy of its codes is largest; add to each of LoRA's "
        "matrices a shortcut without parameters, weighted by one number that begins at zero.",
        formula="w ≈ NF4(w − τ) + τ, τ = argmax H(codes);  y += (α/r) (B + β₂ R) (A + β₁ P) x",
        trains="as LoRA, and two numbers for each layer",
        choose="with `quantize: nf4`, where 4 bits hurt",
        avoid="when the plain base in 4 bits is to be served beside it: this one is rounded otherwise",
        limits="nf4 only, rows of whole blocks of 64. The shifts are looked for when the model is first called: "
        "minutes for billions of weights. Switched off, the model is the base in calibrated nf4",
        related=("lora", "loftq"),
    )
    default_lr: ClassVar[float] = 2e-4
    exact_start: ClassVar[bool] = False
    rewrites_base: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    quantisable: ClassVar[bool | tuple[str, ...]] = ("nf4",)

    def count(self, shape: Shape) -> int | None:
        """LoRA's, and two for each layer."""
        return shape.over(self.targets, lambda i, o: self.r * (i + o) + 2)

    def add(self, module: Any) -> None:
        """A part for each layer. Raises LuthierError for layers in int8, or with rows of broken blocks."""
        from luthier.models.adapters.own.elastic import Elastic
        from luthier.models.adapters.peft.rounding import Originals
        from luthier.models.quantizers.calibrated import BLOCK

        originals = Originals(Path(module.name_or_path))
        for name, layer in free_layers(module, self.targets, "ir_qlora").items():
            inputs, outputs = sides(layer)
            if type(layer).__name__ == "Linear8bitLt" or inputs % BLOCK:
                raise LuthierError(
                    f"ir_qlora calibrates nf4 in rows of whole blocks of {BLOCK}, and {name} "
                    + (f"has rows of {inputs}" if inputs % BLOCK else "is in int8"),
                    where="adapt.ir_qlora",
                    fix="set quantize: nf4" if inputs % BLOCK == 0 else "leave it out with targets, or take loftq",
                )
            self.beside(layer, name, Elastic(inputs, outputs, self.r), "ir_qlora")
            self._calibrating(layer, name, originals)

    def _calibrating(self, layer: Any, name: str, originals: Any) -> None:
        """Calibrate a layer when it is first called, if that has not come from disk; from then on add its shifts."""
        part: Any = self._parts[f"{name}.ir_qlora"]
        part.origin = layer, name, originals

        def before(*_: Any) -> None:
            if not part.calibrated:
                part.calibrate(layer, self._original(part), self.width, self.steps)

        def after(_layer: Any, args: tuple[Any, ...], output: Tensor) -> Tensor:
            return output if part.tau is None else output + part.shifted(args[0])

        layer.register_forward_pre_hook(before)
        layer.register_forward_hook(after)

    def _original(self, part: Any) -> Tensor:
        """The layer's weights as its file has them, outputs by inputs."""
        layer, name, originals = part.origin
        weight: Tensor = originals.of(layer, name)
        return weight

    def change(self, part: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """y + (α/r) B' A' x."""
        return output + self._scale() * part(args[0])

    def _scale(self) -> float:
        return (2 * self.r if self.alpha is None else self.alpha) / self.r

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put the parts back, and round the layers with the shifts that were found."""
        super().restore(module, tensors)
        for part in self._parts.values():
            one: Any = part
            one.round(one.origin[0], self._original(one))

    def merge(self, module: Any) -> None:
        """Add B' A' into the matrices, which hold the rounded base, and take the parts away."""
        for part in self._parts.values():
            one: Any = part
            down_RI, up_OR = one.matrices()
            layer = one.origin[0]
            update_OI = (self._scale() * up_OR @ down_RI).to(layer.weight.dtype)
            layer.weight.data += update_OI if is_linear(layer) else update_OI.T
            delattr(layer, "ir_qlora")
            layer._forward_hooks.clear()
            layer._forward_pre_hooks.clear()
        self._parts.clear()
