"""Luthier: fine-tune, align, evaluate and export language models from one recipe."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["LuthierError", "Recipe", "Run", "chat", "evaluate", "export", "train"]

_HOMES = {
    "LuthierError": "luthier.errors",
    "Recipe": "luthier.recipe",
    "Run": "luthier.run",
    "export": "luthier.verbs",
    "chat": "luthier.verbs",
}

if TYPE_CHECKING:
    from luthier.errors import LuthierError
    from luthier.recipe import Recipe
    from luthier.run import Run
    from luthier.verbs import chat, evaluate, export, train


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import luthier` stays free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


class _Room(ModuleType):
    """A room that is a verb too: `luthier.train(recipe)` is `luthier.verbs.train(recipe)`."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(import_module("luthier.verbs"), self.__name__.rpartition(".")[2])(*args, **kwargs)


class _RoomVerb:
    """Python sets a package's attribute to a submodule when it is first imported; here it becomes callable as well.

    Both have the name, the room `train/` and the verb `luthier.train(…)`, and both must work in any order of imports.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, package: ModuleType | None, owner: type) -> Any:
        room = import_module(f"luthier.{self.name}")
        room.__class__ = _Room
        return room

    def __set__(self, package: ModuleType, room: ModuleType) -> None:
        """The room stays in sys.modules, where `__get__` finds it."""


class _Package(ModuleType):
    train = _RoomVerb()
    evaluate = _RoomVerb()


sys.modules[__name__].__class__ = _Package
