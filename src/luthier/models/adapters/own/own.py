"""Adapters whose weights we save ourselves, by name: beside the base's weights, or some of these.

An adapter of kind "own" can be switched off, and says how what it learnt is put back and, where it can be, merged.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter

if TYPE_CHECKING:
    from torch import Tensor


class Own(Adapter):
    """An adapter that PEFT does not know. The modules it is handed are the bare base."""

    kind: ClassVar[Literal["base", "peft", "own"]] = "own"

    @abstractmethod
    def tensors(self, module: Any) -> dict[str, Tensor]:
        """What to save, by name: all that `restore` needs to make the trained model out of the base."""

    @abstractmethod
    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, on a module to which this adapter has been attached. Raises KeyError."""

    @abstractmethod
    def off(self, module: Any) -> AbstractContextManager[None]:
        """Inside the block the module computes what the base does."""

    def merge(self, module: Any) -> None:
        """Fold what was learnt into the base's own weights and take away what was added, so that
        `module.state_dict()` is the base's with other values. Raises LuthierError where nothing can be folded."""
        raise LuthierError(
            f"what {type(self).__name__} learnt is no change of the base's weights: it cannot be merged",
            fix="use the run with its adapter",
        )


@dataclass(frozen=True)
class Chosen(Own):
    """Some of the base's own weights train. Their values in the base are remembered, so that they can be put back."""

    _chosen: dict[str, tuple[Any, Any]] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By name in the bare base: the weight, and its value in the base."""

    quantisable: ClassVar[bool | tuple[str, ...]] = True

    def choose(self, module: Any, weights: Mapping[str, Any]) -> None:
        """From now on these weights train, and no others."""
        for name, weight in weights.items():
            self._chosen[name] = (weight, weight.detach().clone())
        module.requires_grad_(False)
        for weight in weights.values():
            weight.requires_grad_(True)

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The weights as they are now."""
        return {name: weight.detach() for name, (weight, _) in self._chosen.items()}

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put the weights back. Raises KeyError for one that is missing."""
        for name, (weight, _) in self._chosen.items():
            weight.data.copy_(tensors[name])

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The base's values for the while."""
        now = {name: weight.detach().clone() for name, (weight, _) in self._chosen.items()}
        for weight, base in self._chosen.values():
            weight.data.copy_(base)
        try:
            yield
        finally:
            self.restore(module, now)

    def merge(self, module: Any) -> None:
        """Nothing to do: these are the base's own weights."""
