"""Models: fetch by name, load, attach what trains, save and merge. Light to import: torch comes on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.models.adapters import ADAPTERS
    from luthier.models.context import expected_room, room
    from luthier.models.export import EXPORTERS
    from luthier.models.fetching import Fetched, fetch
    from luthier.models.known import Known, catalogue
    from luthier.models.loading import load, open_base, open_run, sample_rows
    from luthier.models.policy import Policy
    from luthier.models.quantizers import QUANTIZERS
    from luthier.models.saving import merge, save

__all__ = [
    "ADAPTERS",
    "EXPORTERS",
    "QUANTIZERS",
    "Fetched",
    "Known",
    "Policy",
    "catalogue",
    "expected_room",
    "fetch",
    "load",
    "merge",
    "open_base",
    "open_run",
    "room",
    "sample_rows",
    "save",
]

_HOMES = {
    "ADAPTERS": "adapters",
    "EXPORTERS": "export",
    "Fetched": "fetching",
    "Known": "known",
    "Policy": "policy",
    "QUANTIZERS": "quantizers",
    "catalogue": "known",
    "expected_room": "context",
    "fetch": "fetching",
    "load": "loading",
    "merge": "saving",
    "open_base": "loading",
    "open_run": "loading",
    "room": "context",
    "sample_rows": "loading",
    "save": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
