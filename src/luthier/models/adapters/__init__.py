"""What of the model trains, and what is added to it. Light to import: torch and peft come on attaching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from luthier.errors import LuthierError
from luthier.recipe.schema import Plugin
from luthier.registry import Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTERS = Registry(
    "adapter",
    {
        "full": "luthier.models.adapters.full:Full",
        "lora": "luthier.models.adapters.lora:Lora",
        "freeze": "luthier.models.adapters.freeze:Freeze",
    },
)


@runtime_checkable
class Adapter(Protocol):
    """A frozen dataclass whose fields are its YAML keys; what it can do is declared, never guessed from its name.

    What an earlier adapter of the list froze has `requires_grad` False; a later one leaves those weights alone.
    """

    default_lr: ClassVar[float]
    """Peak learning rate unless the recipe sets one."""
    adds_weights: ClassVar[bool]
    """Adds weights beside the base's, which stays as it was: saved in PEFT's format, and can be switched off."""
    exact_start: ClassVar[bool]
    """The untrained adapter leaves the model's outputs as they were, to the last bit."""
    mergeable: ClassVar[bool]
    """What it learns can be added into the base's weights."""
    alone: ClassVar[bool]
    """Composes with no other adapter."""

    def attach(self, module: PreTrainedModel) -> PreTrainedModel:
        """Mark what trains (and add what is added). Raises LuthierError when nothing would train."""
        ...


def build(adapt: Sequence[Plugin]) -> list[Adapter]:
    """The adapters of a recipe in the order they are attached: what freezes comes before what adds weights.

    Raises LuthierError for unknown names and keys and for adapters that do not go together.
    """
    adapters: list[tuple[str, Adapter]] = [(plugin.name, ADAPTERS.build(plugin.name, plugin.args)) for plugin in adapt]
    for name, adapter in adapters:
        if adapter.alone and len(adapters) > 1:
            raise LuthierError(
                f"`adapt: {name}` composes with no other adapter", fix=f"leave {name} out, or the others"
            )
    adding = [name for name, adapter in adapters if adapter.adds_weights]
    if len(adding) > 1:
        raise LuthierError(
            f"one run trains one adapter, not {len(adding)}: {', '.join(adding)}", fix="keep one of them"
        )
    return [adapter for _, adapter in sorted(adapters, key=lambda named: named[1].adds_weights)]


def default_lr(adapt: Sequence[Plugin]) -> float:
    """The peak learning rate for what trains: the added weights' where there are some."""
    adapters = build(adapt)
    return adapters[-1].default_lr if adapters else ADAPTERS.get("full").default_lr
