"""Models: fetch by name, load, attach what trains, save and merge. Light to import: torch comes on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.models.adapters import ADAPTERS
    from luthier.models.context import embeddings, expected_embeddings, expected_max_context, max_context
    from luthier.models.export import EXPORTERS
    from luthier.models.loading.fetching import Fetched, fetch
    from luthier.models.loading.known import Known, catalogue
    from luthier.models.loading.load import Beginning, load, open_base, open_run, sample_rows
    from luthier.models.loading.on_disk import OnDisk
    from luthier.models.policy import Policy
    from luthier.models.quantizers import QUANTIZERS
    from luthier.models.saving import merge, save

__all__ = [
    "ADAPTERS",
    "EXPORTERS",
    "QUANTIZERS",
    "Beginning",
    "Fetched",
    "Known",
    "OnDisk",
    "Policy",
    "catalogue",
    "embeddings",
    "expected_embeddings",
    "expected_max_context",
    "fetch",
    "load",
    "max_context",
    "merge",
    "open_base",
    "open_run",
    "sample_rows",
    "save",
]

_HOMES = {
    "ADAPTERS": "adapters",
    "Beginning": "loading.load",
    "EXPORTERS": "export",
    "Fetched": "loading.fetching",
    "Known": "loading.known",
    "OnDisk": "loading.on_disk",
    "Policy": "policy",
    "QUANTIZERS": "quantizers",
    "catalogue": "loading.known",
    "embeddings": "context",
    "expected_embeddings": "context",
    "expected_max_context": "context",
    "fetch": "loading.fetching",
    "load": "loading.load",
    "merge": "saving",
    "open_base": "loading.load",
    "open_run": "loading.load",
    "max_context": "context",
    "sample_rows": "loading.load",
    "save": "saving",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
