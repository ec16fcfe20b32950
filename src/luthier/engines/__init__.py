"""Engines: tokens out. One engine holds one model. Light to import: torch comes on first use.

An engine's plug-in is a frozen dataclass whose fields are its settings; `open(model, stop_ids)` gives the `Engine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.registry import Registry

if TYPE_CHECKING:
    from luthier.engines.local import LocalEngine

__all__ = ["ENGINES", "LocalEngine"]

ENGINES = Registry(
    "engine",
    {
        "local": "luthier.engines.opening:Local",
        "openai": "luthier.engines.openai.settings:OpenAI",
        "vllm": "luthier.engines.vllm:VLLM",
    },
)
"""The built-in engines, and those of the entry points `luthier.engine`."""


def __getattr__(name: str) -> Any:
    if name == "LocalEngine":
        from luthier.engines.local import LocalEngine

        return LocalEngine
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
