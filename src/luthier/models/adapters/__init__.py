"""What of the model trains, and what is added to it. Light to import: torch and peft come on attaching."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.recipe.schema import Plugin
from luthier.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded

ADAPTERS = Registry(
    "adapter",
    {
        "full": "luthier.models.adapters.base.full:Full",
        "lora": "luthier.models.adapters.peft.lora:Lora",
        "rslora": "luthier.models.adapters.peft.lora_forms:RsLora",
        "dora": "luthier.models.adapters.peft.lora_forms:Dora",
        "pissa": "luthier.models.adapters.peft.lora_starts:Pissa",
        "olora": "luthier.models.adapters.peft.lora_starts:Olora",
        "eva": "luthier.models.adapters.peft.lora_starts:Eva",
        "corda": "luthier.models.adapters.peft.lora_starts:Corda",
        "loftq": "luthier.models.adapters.peft.lora_starts:Loftq",
        "ir_qlora": "luthier.models.adapters.own.ir_qlora:IrQlora",
        "adalora": "luthier.models.adapters.peft.adalora:AdaLora",
        "vera": "luthier.models.adapters.peft.scaling:Vera",
        "ia3": "luthier.models.adapters.peft.scaling:Ia3",
        "oft": "luthier.models.adapters.peft.orthogonal:Oft",
        "boft": "luthier.models.adapters.peft.orthogonal:Boft",
        "prefix": "luthier.models.adapters.peft.virtual:Prefix",
        "prompt": "luthier.models.adapters.peft.virtual:Prompt",
        "p_tuning": "luthier.models.adapters.peft.virtual:PTuning",
        "p_tuning_v2": "luthier.models.adapters.peft.virtual:PTuningV2",
        "peft": "luthier.models.adapters.peft.other:Peft",
        "freeze": "luthier.models.adapters.base.freeze:Freeze",
        "progressive": "luthier.models.adapters.base.progressive:Progressive",
        "llama_pro": "luthier.models.adapters.base.llama_pro:LlamaPro",
        "train": "luthier.models.adapters.base.train:Train",
        "sara": "luthier.models.adapters.base.sara:Sara",
        "houlsby": "luthier.models.adapters.own.houlsby:Houlsby",
        "bitfit": "luthier.models.adapters.base.bitfit:BitFit",
        "loreft": "luthier.models.adapters.own.loreft:LoReft",
        "lora_ga": "luthier.models.adapters.peft.lora_ga:LoraGa",
        "gelora": "luthier.models.adapters.peft.gelora:GeLora",
    },
)


class Adapter(ABC):
    """A frozen dataclass whose fields are its YAML keys; what it can do is declared here, never guessed from its name.

    What an earlier adapter of the list froze has `requires_grad` False; a later one leaves those weights alone.
    """

    card: ClassVar[Card]
    """What `luthier explain` prints of it."""
    default_lr: ClassVar[float]
    """Peak learning rate unless the recipe sets one."""
    kind: ClassVar[Literal["base", "peft", "own"]]
    """What trains: the base's own weights, saved as a whole model; PEFT's layers, saved in PEFT's format; or weights of
    ours beside (or on top of) the base's, saved by name. The last two can be switched off."""
    exact_start: ClassVar[bool] = True
    """The untrained adapter leaves the model's outputs as they were, to the last bit."""
    starts_elsewhere: ClassVar[bool] = False
    """The untrained adapter makes another model of the base, by design and not by rounding. Preference training then
    compares with the base, and its first loss is not that of equal models. Where this is False and `exact_start` too,
    it compares with the model as training began."""
    rewrites_base: ClassVar[bool] = False
    """Its first weights are taken out of the base's: switched off, the model is not the base."""
    mergeable: ClassVar[bool] = True
    """What it learns can be added into the base's weights."""
    quantisable: ClassVar[bool | tuple[str, ...]] = False
    """It trains on a base in few bits: in any kind of them, or in those named."""
    packs: ClassVar[bool] = True
    """Rows may lie end to end: it treats each token by itself, or knows where rows begin."""
    shares_prefix: ClassVar[bool] = True
    """Rows may share the tokens of a common prefix."""
    checkpoints: ClassVar[bool] = True
    """It works under gradient checkpointing."""
    alone: ClassVar[bool] = False
    """Composes with no other adapter."""
    sample_rows: ClassVar[int] = 0
    """How many rows of the training data `attach` wants to see."""

    @property
    def name(self) -> str:
        """What a recipe calls it."""
        return next((n for n in ADAPTERS.names() if ADAPTERS.get(n) is type(self)), type(self).__name__.lower())

    @property
    def keeps_backbone(self) -> bool:
        """Does the recipe ask to keep the outputs of the frozen blocks on disk, for later epochs?"""
        return False

    @property
    def virtual_tokens(self) -> int:
        """Places of the context that it takes before each row."""
        return 0

    # before training
    @abstractmethod
    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Mark what trains (and add what is added); return the module, or what is wrapped around it.

        `sample`: the first `sample_rows` rows of the training data; () when the weights are loaded afterwards, and then
        whatever is drawn or measured here is overwritten. Raises LuthierError when nothing would train.
        """

    def count(self, shape: Shape) -> int | None:
        """How many numbers train on a model of this shape; None where the data or the model itself decide."""
        return None

    def fits(self, total: int) -> None:
        """Raises LuthierError where a run of so many steps is too short for it. Called before the first one."""
        return

    # while training
    def before_step(self, module: Any, step: int, total: int) -> bool:
        """Called before each optimiser step (from 0), and on resuming; True if another set of weights trains now."""
        return False

    def penalty(self, module: Any) -> Tensor | None:
        """A scalar added to each step's loss, with gradient."""
        return None

    def after_step(self, module: Any, step: int, total: int) -> None:
        """Called after each optimiser step with the weights stepped, before the gradients are dropped."""
        return

    def lr_factors(self, module: Any) -> Mapping[str, float]:
        """Factors on the learning rate by parameter name; 1 for those not named."""
        return {}

    def memory(self, module: Any) -> dict[str, Tensor]:
        """What it remembers from step to step besides the weights that train (which checkpoints hold anyway)."""
        return {}

    def remember(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `memory` gave, on resuming, after `before_step`."""
        return


def build(adapt: Sequence[Plugin]) -> list[Adapter]:
    """The adapters of a recipe in the order they are attached: what freezes comes before what adds weights.

    Raises LuthierError for unknown names and keys and for adapters that do not go together.
    """
    return [adapter for _, adapter in named(adapt)]


def named(adapt: Sequence[Plugin]) -> list[tuple[str, Adapter]]:
    """As `build`, each with its name."""
    adapters: list[tuple[str, Adapter]] = [(plugin.name, ADAPTERS.build(plugin.name, plugin.args)) for plugin in adapt]
    for name, adapter in adapters:
        if adapter.alone and len(adapters) > 1:
            raise LuthierError(
                f"`adapt: {name}` composes with no other adapter", fix=f"leave {name} out, or the others"
            )
    adding = [name for name, adapter in adapters if adapter.kind == "peft"]
    if len(adding) > 1:
        raise LuthierError(
            f"one run trains one adapter, not {len(adding)}: {', '.join(adding)}", fix="keep one of them"
        )
    return sorted(adapters, key=lambda pair: ORDER.index(pair[1].kind))


ORDER = ("base", "own", "peft")


def default_lr(adapt: Sequence[Plugin]) -> float:
    """The peak learning rate for what trains: the added weights' where there are some."""
    adapters = build(adapt)
    return adapters[-1].default_lr if adapters else ADAPTERS.get("full").default_lr
