"""Modules of ours beside the base's own, attached by hooks: what such adapters have in common.

A part is registered as a submodule of the module whose output it changes, so that it moves, saves and trains with the
model, while every parameter of the base keeps its name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.errors import LuthierError
from luthier.models.adapters.kit.depth import blocks
from luthier.models.adapters.kit.targets import free_weights
from luthier.models.adapters.own.own import Own

if TYPE_CHECKING:
    from torch import Tensor, nn

    from luthier.types import Encoded


@dataclass(frozen=True)
class Beside(Own):
    """An adapter whose weights are parts of ours, each hooked to one module of the base."""

    _parts: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    """By the name that they have in the bare base."""
    _on: list[bool] = field(default_factory=lambda: [True], init=False, repr=False, compare=False)

    mergeable: ClassVar[bool] = False
    quantisable: ClassVar[bool | tuple[str, ...]] = True

    @abstractmethod
    def add(self, module: Any) -> None:
        """Hook the parts to the base, each by `beside`."""

    @abstractmethod
    def change(self, part: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """The output with what the part makes of it; `args` and `kwargs` are what the hooked module was called with."""

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Add the parts; they alone train."""
        self.add(module)
        module.requires_grad_(False)
        for part in self._parts.values():
            part.to(next(module.parameters()).device).requires_grad_(True)
        return module

    def beside(self, owner: nn.Module, name: str, part: nn.Module, under: str) -> None:
        """Register a part under a module called `name` and let it change what that module puts out."""

        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if not self._on[0]:
                return output
            if isinstance(output, tuple):
                return (self.change(part, args, kwargs, output[0]), *output[1:])
            return self.change(part, args, kwargs, output)

        owner.add_module(under, part)
        owner.register_forward_hook(hook, with_kwargs=True)
        self._parts[f"{name}.{under}"] = part

    def tensors(self, module: Any) -> dict[str, Tensor]:
        """The weights of all parts."""
        return {
            f"{name}.{key}": tensor.detach()
            for name, part in self._parts.items()
            for key, tensor in part.state_dict().items()
        }

    def restore(self, module: Any, tensors: Mapping[str, Tensor]) -> None:
        """Put them back. Raises KeyError for one that is missing."""
        for name, part in self._parts.items():
            for key, tensor in part.state_dict().items():
                tensor.copy_(tensors[f"{name}.{key}"])

    @contextmanager
    def off(self, module: Any) -> Iterator[None]:
        """The hooks hand on what they are given."""
        self._on[0] = False
        try:
            yield
        finally:
            self._on[0] = True


def free_blocks(module: Any, adapter: str) -> dict[str, Any]:
    """The decoder blocks that are not frozen, by name. Raises LuthierError when all are."""
    may_train = {id(weight) for weight in free_weights(module).values()}
    names = {id(part): name for name, part in module.named_modules()}
    free = {
        names[id(block)]: block
        for block in blocks(module)
        if any(id(weight) in may_train for weight in block.parameters())
    }
    if not free:
        raise LuthierError(f"every block that {adapter} could go on is frozen", fix="freeze fewer blocks")
    return free
