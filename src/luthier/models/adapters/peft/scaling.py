"""Adapters that only scale: (IA)³ learns a factor for each key, value and inner activation; VeRA for each row and
column of fixed random factors shared by all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.targets import free_layers, transposed
from luthier.models.adapters.peft.tuner import Layered, Tuner
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape

LLAMAS = ("k_proj", "v_proj"), ("down_proj",)
"""The layers of Llama's kind whose outputs, and whose inputs, (IA)³ scales."""


@dataclass(frozen=True)
class Ia3(Tuner):
    """Train one factor for each key, value and inner activation of the feed-forward layers."""

    targets: Annotated[tuple[str, ...], Why("the paper's: keys, values and the feed-forward layer's inside")] = ()
    """Layers whose outputs are scaled, by name. Default: those that make keys and values."""
    feedforward: tuple[str, ...] = ()
    """Layers whose inputs are scaled, by name. Default: each feed-forward block's last one; with targets: none."""

    default_lr: ClassVar[float] = 3e-3
    quantisable: ClassVar[bool | tuple[str, ...]] = True
    card: ClassVar[Card] = Card(
        title="(IA)³: infused adapter by inhibiting and amplifying inner activations",
        paper="arXiv:2205.05638",
        authors="Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel",
        venue="NeurIPS 2022",
        problem="Even LoRA's weights are many where thousands of tasks each want their own.",
        idea="Learn only how strongly each key, value and inner activation counts.",
        formula="K ← l_k ⊙ K,  V ← l_v ⊙ V,  W₂ (l_ff ⊙ γ(W₁ x));  l = 1 at the start",
        trains="one number for each key, value and inner activation",
        choose="few examples of a task that the base nearly does already; thousands of small adapters",
        avoid="when something new must be learnt",
        limits="where keys and values come out of one layer (GPT-2) queries are scaled too; biases are scaled with "
        "their layer",
        related=("vera", "bitfit", "lora"),
    )

    def __post_init__(self) -> None:
        """Raises LuthierError for layers that would silently not be scaled as they are named."""
        if self.feedforward and not self.targets:
            raise LuthierError(
                "ia3: feedforward is read beside targets, and there are none",
                where="adapt.ia3.feedforward",
                fix="name the layers whose outputs are scaled, too: targets: [k_proj, v_proj]",
            )
        for name in set(self.targets) & set(self.feedforward):
            raise LuthierError(
                f"ia3: {name!r} is in targets and in feedforward, and a layer is scaled at one side",
                where="adapt.ia3",
                fix="leave it out of one of them",
            )

    def count(self, shape: Shape) -> int | None:
        """One for each output of the layers whose outputs are scaled, and for each input of the others."""
        outputs, inputs = (self.targets, self.feedforward) if self.targets else LLAMAS
        scaled = shape.over(outputs, lambda _i, o: o)
        return scaled + shape.over(inputs, lambda i, _o: i) if inputs else scaled

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import IA3Config

        outputs, inputs = (self.targets, self.feedforward) if self.targets else self._defaults(module)
        layers = free_layers(module, (*outputs, *inputs), "ia3")
        return IA3Config(
            target_modules=[*outputs, *inputs],
            feedforward_modules=list(inputs),
            fan_in_fan_out=transposed(layers),
            task_type="CAUSAL_LM",
        )

    def _defaults(self, module: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
        from peft.utils.constants import (
            TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING as FEEDFORWARD,
        )
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING as TARGETS

        last = {name.rpartition(".")[2] for name, _ in module.named_modules()}
        if {*LLAMAS[0], *LLAMAS[1]} <= last:  # PEFT scales queries for some of these families, the paper keys
            return LLAMAS
        family = module.config.model_type
        if family not in TARGETS:
            raise LuthierError(
                f"ia3: where a {type(module).__name__} makes keys, values and inner activations is not known",
                where="adapt.ia3",
                fix="name them: ia3: {targets: [key, value], feedforward: [down]}",
            )
        inputs = tuple(FEEDFORWARD[family])
        return tuple(name for name in TARGETS[family] if name not in inputs), inputs


@dataclass(frozen=True)
class Vera(Layered):
    """Train two vectors for each layer around random matrices that all layers share and that never change."""

    r: Annotated[Int, Field(gt=0), Why("the paper's; it costs one number a layer for each")] = 256
    """Rank of the shared random matrices."""
    start: Annotated[Float, Field(gt=0), Why("the paper's")] = 0.1
    """First value of the inner vector d."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the update's input."""
    seed: Annotated[Int, Field(ge=0)] = 0
    """Draws the shared matrices; it is part of the adapter."""

    default_lr: ClassVar[float] = 1e-2
    card: ClassVar[Card] = Card(
        title="VeRA: vector-based random matrix adaptation",
        paper="arXiv:2310.11454",
        authors="Kopiczko, Blankevoort, Asano",
        venue="ICLR 2024",
        problem="LoRA's weights add up where many adapters are kept at hand.",
        idea="Share one pair of random matrices over all layers; learn how each layer scales their rows and columns.",
        formula="y = W x + b ⊙ B (d ⊙ A x),  A, B random and fixed, b = 0, d = 0.1 at the start",
        trains="r + out for each linear layer",
        choose="many adapters, each of them small",
        avoid="when quality at LoRA's memory is what counts",
        limits="wants a learning rate some 10 to 100 times LoRA's; the random matrices are saved too, so that the "
        "folder does not depend on the random numbers of another version",
        related=("ia3", "lora"),
    )

    def count(self, shape: Shape) -> int | None:
        """r + outputs for each layer."""
        return shape.over(self.targets, lambda _i, o: self.r + o)

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import VeraConfig

        return VeraConfig(
            r=self.r,
            d_initial=self.start,
            vera_dropout=self.dropout,
            projection_prng_key=self.seed,
            save_projection=True,
            **self.oriented(module),
        )
