"""LoRA (arXiv:2106.09685): y = W x + (alpha / r) B A x, A random and B zero at the start; PEFT's layers and format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.targets import linear_layers, sides
from luthier.models.adapters.peft.tuner import Layered, per_layer, whole
from luthier.recipe.schema import Expression, Float, Int, Why
from luthier.registry import suggest

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape

__all__ = ["Lora", "LowRank", "linear_layers"]

Rank = Annotated[Int, Field(gt=0)]
Scale = Annotated[Float, Field(gt=0)]


@dataclass(frozen=True)
class LowRank(Layered):
    """What LoRA and its kin have in common."""

    r: Annotated[Rank, Why("enough for instruction data; a larger r rarely helps there")] = 16
    """Rank of the update."""
    alpha: Annotated[Scale, Why("2r")] | None = None
    """Scale of the update, divided by r. Default: 2r; r where the first weights are the base's; r/2 for rslora."""
    dropout: Annotated[Float, Field(ge=0, lt=1), Why("little use on one to three epochs, and slower")] = 0.0
    """Dropout on the update's input."""
    ranks: dict[Expression, Rank] = field(default_factory=dict)
    """Another rank for some layers: the end of their name, or an expression → r. Their alpha follows their rank."""
    alphas: dict[Expression, Scale] = field(default_factory=dict)
    """Another alpha for some layers."""
    plus: Annotated[Scale, Why("LoRA+ (arXiv:2402.12354) takes 16, at a smaller learning rate")] = 1.0
    """B learns so many times as fast as A."""
    save_modules: tuple[str, ...] = ()
    """Modules that train whole beside it and are saved with it, by name: lm_head, embed_tokens, norms."""

    default_lr: ClassVar[float] = 2e-4
    quantisable: ClassVar[bool | tuple[str, ...]] = True
    on_head: ClassVar[bool] = True
    scale: ClassVar[float] = 2.0
    """Default alpha over r."""
    directions: ClassVar[int] = 0
    """How many times r directions of each layer's matrix the first weights are made of."""

    def options(self, module: Any) -> dict[str, Any]:
        """What sets it apart from plain LoRA, as keys of PEFT's LoraConfig."""
        return {}

    def count(self, shape: Shape) -> int | None:
        """r (inputs + outputs) for each layer; not known with whole modules beside it."""
        layers = shape.linear(self.targets)
        ranks = dict.fromkeys(layers, self.r) | per_layer(layers, self.ranks, "ranks")
        update = sum(ranks[name] * (inputs + outputs) for name, (inputs, outputs) in layers.items())
        return None if self.save_modules else update

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import LoraConfig

        layers = self.layers(module)
        alpha = self.scale * self.r if self.alpha is None else self.alpha
        ranks = per_layer(layers, self.ranks, "ranks")
        alphas = {name: whole(alpha / self.r * r) for name, r in ranks.items()}
        alphas |= {name: whole(a) for name, a in per_layer(layers, self.alphas, "alphas").items()}
        self._spanned(layers, dict.fromkeys(layers, self.r) | ranks)
        self._saved(module, layers)
        tied = bool(getattr(module.config.get_text_config(), "tie_word_embeddings", False))
        keys: dict[str, Any] = {
            "r": self.r,
            "lora_alpha": whole(alpha),
            "lora_dropout": self.dropout,
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            **({"modules_to_save": list(self.save_modules)} if self.save_modules else {}),
            **({"ensure_weight_tying": True} if self.save_modules and tied else {}),
            **self.oriented(module),
            **self.options(module),
        }
        return LoraConfig(**keys)

    def _spanned(self, layers: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
        """Raises LuthierError where a layer has fewer directions than the first weights are made of."""
        for name, layer in layers.items():
            inputs, outputs = sides(layer)
            most = min(inputs, outputs)
            taken = self.directions * ranks[name]
            if taken > most:
                times = "" if self.directions == 1 else self.directions
                raise LuthierError(
                    f"{self.name} begins with {times}r = {taken} directions of each matrix, "
                    f"but {name} ({outputs} x {inputs}) has only {most}",
                    where=f"adapt.{self.name}.r",
                    fix=f"lower r, or that layer's: ranks: {{{name.rpartition('.')[2]}: {most // self.directions}}}",
                )

    def _saved(self, module: Any, layers: Mapping[str, Any]) -> None:
        """Raises LuthierError for modules to save that are not there, or have the update too."""
        names = [name for name, part in module.named_modules() if name and any(True for _ in part.parameters())]
        for given in self.save_modules:
            meant = {name for name in names if name == given or name.endswith(f".{given}")}
            if not meant:
                known = sorted({name.rpartition(".")[2] for name in names if not name.rpartition(".")[2].isdigit()})
                raise LuthierError(
                    f"{self.name}: the model has no module {given!r} with weights",
                    where=f"adapt.{self.name}.save_modules",
                    fix=suggest(given, known),
                )
            both = next((name for name in layers if any(f"{name}.".startswith(f"{each}.") for each in meant)), None)
            if both:
                raise LuthierError(
                    f"{self.name}: {both} would train whole and have an update beside it",
                    where=f"adapt.{self.name}.save_modules",
                    fix="leave it out there, or out of targets",
                )

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """B learns `plus` times as fast."""
        if self.plus == 1:
            return {}
        return {name: self.plus for name, _ in module.named_parameters() if ".lora_B." in name}


@dataclass(frozen=True)
class Rewriting(LowRank):
    """LoRA whose first weights are taken out of the base's. Alpha is r unless a method says otherwise."""

    scale: ClassVar[float] = 1.0
    exact_start: ClassVar[bool] = False
    rewrites_base: ClassVar[bool] = True
    on_head: ClassVar[bool] = False
    directions: ClassVar[int] = 1
    quantisable: ClassVar[bool | tuple[str, ...]] = False


@dataclass(frozen=True)
class Lora(LowRank):
    """Train a low-rank update of the linear layers; the base's own weights stay as they are.

    The added weights are kept in fp32 whatever the base's type: their updates are too small for bf16.
    """

    rslora: Annotated[bool, Why("a change of r then needs no new learning rate, but alpha means something else")] = (
        False
    )
    """Divide alpha by the root of r instead of r (rsLoRA)."""
    dora: Annotated[bool, Why("it is slower and gains little at higher r")] = False
    """Train the weights' direction and size apart (DoRA)."""
    init: Annotated[Literal["default", "gaussian", "orthogonal"], Why("the paper's B = 0, A uniform")] = "default"
    """How A is drawn. orthogonal draws B too, at right angles to A, so that B A = 0 to rounding."""

    card: ClassVar[Card] = Card(
        title="LoRA: low-rank adaptation",
        paper="arXiv:2106.09685",
        authors="Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen",
        venue="ICLR 2022",
        problem="Full fine-tuning keeps a copy of all weights and of the optimiser's state for each task.",
        idea="The change of a weight matrix is of low rank; train its two thin factors and leave the matrix alone.",
        formula="y = W x + (α/r) B A x,  A: r × in, B: out × r, B = 0 at the start",
        trains="A and B of every linear layer: r (in + out) each",
        choose="by default: little memory, merges into the base, goes with a base in 4 bits",
        avoid="when much must be learnt that the base does not know (continued pre-training): take full, or a high r",
        limits="the update has at most rank r; A gets no gradient in the very first step",
        related=("rslora", "dora", "pissa", "adalora", "full"),
    )

    def count(self, shape: Shape) -> int | None:
        """With DoRA also one length for each output."""
        update = super().count(shape)
        return update + shape.over(self.targets, lambda _i, o: o) if self.dora and update is not None else update

    @property
    def exact_start(self) -> bool:  # type: ignore[override]
        """B A of right angles is zero to rounding only."""
        return self.init != "orthogonal"

    def options(self, module: Any) -> dict[str, Any]:
        """rsLoRA, DoRA, and how A is drawn. Raises LuthierError for right angles of an odd rank."""
        odd = next((r for r in (self.r, *self.ranks.values()) if r % 2), None) if self.init == "orthogonal" else None
        if odd is not None:
            raise LuthierError(
                f"init: orthogonal shares its directions between A and B: it wants an even rank, not {odd}",
                where="adapt.lora.r",
                fix=f"take {odd + 1}, or another init",
            )
        drawn: Any = True if self.init == "default" else self.init
        return {"use_rslora": self.rslora, "use_dora": self.dora, "init_lora_weights": drawn}
