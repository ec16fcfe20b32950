"""What all adapters of PEFT's have in common: a configuration of PEFT's, checked, and a model wrapped by it.

One more of them is a declaration: a frozen dataclass with the keys a recipe may set, and `config`, which turns them
into PEFT's own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.targets import ALL_LINEAR, Targets, free_layers, named_by, transposed
from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from luthier.types import Encoded


@dataclass(frozen=True)
class Tuner(Adapter):
    """An adapter that PEFT computes, saves and loads."""

    kind: ClassVar[Literal["base", "peft", "own"]] = "peft"
    default_lr: ClassVar[float] = 2e-4

    @abstractmethod
    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Wrap the model; only the added weights train. Raises LuthierError for what PEFT refuses."""
        peft = wrapped(module, self.config(module), type(self).__name__.lower())
        self.settle(peft)
        return peft

    def settle(self, module: Any) -> None:
        """Put layers of ours in the place of PEFT's where they compute the same faster; called on opening, too."""


def wrapped(module: Any, config: Any, name: str) -> Any:
    """The model in PEFT's wrapper; what PEFT refuses as a LuthierError."""
    from peft import get_peft_model

    try:
        return get_peft_model(module, config)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise LuthierError(
            f"PEFT cannot put {name} on a {type(module).__name__}: {str(error).strip().splitlines()[0]}",
            where="adapt",
            fix="change its keys, or take `adapt: lora`",
        ) from error


@dataclass(frozen=True)
class Layered(Tuner):
    """A tuner that wraps linear layers."""

    targets: Annotated[Targets, Why("all linear layers train better than attention's alone")] = ALL_LINEAR
    """all-linear (every linear layer but the output head), a list of layer names, or a regular expression."""

    def layers(self, module: Any) -> dict[str, Any]:
        """The layers it goes on, by name."""
        return free_layers(module, self.targets, type(self).__name__.lower())

    def where(self, module: Any) -> dict[str, Any]:
        """PEFT's keys for them."""
        layers = self.layers(module)
        return {"target_modules": named_by(list(layers), module), "task_type": "CAUSAL_LM"}

    def oriented(self, module: Any) -> dict[str, Any]:
        """As `where`, with the orientation of their weights."""
        return {**self.where(module), "fan_in_fan_out": transposed(self.layers(module))}


def whole(value: float) -> float:
    """5.0 as 5: PEFT writes it as it is given."""
    return int(value) if value == int(value) else value


def per_layer(layers: Mapping[str, Any], given: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Layer → value, for those that a key of `given` (a name's end, or an expression) means.

    Raises LuthierError for a key that means none of them.
    """
    import re

    found: dict[str, Any] = {}
    for key, value in given.items():
        meant = [name for name in layers if name == key or name.endswith(f".{key}") or re.fullmatch(key, name)]
        if not meant:
            raise LuthierError(
                f"{what}: no layer that is trained is called {key!r}",
                where="adapt",
                fix=f"layers are named like {next(iter(layers))!r}; give the end of a name or an expression",
            )
        found |= dict.fromkeys(meant, value)
    return found
