"""Luthier: fine-tune, align, compress, evaluate and serve language models from one recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Recipe", "Run", "chat", "evaluate", "export", "train"]

_HOMES = {
    "Recipe": "luthier.recipe",
    "Run": "luthier.run",
    "train": "luthier.verbs",
    "evaluate": "luthier.verbs",
    "export": "luthier.verbs",
    "chat": "luthier.verbs",
}

if TYPE_CHECKING:
    from luthier.recipe import Recipe
    from luthier.run import Run
    from luthier.verbs import chat, evaluate, export, train


def __getattr__(name: str) -> Any:
    """Import on first use, so that `import luthier` stays free of torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
