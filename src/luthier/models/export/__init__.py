"""Ways out of Luthier: an exporter writes the trained model into a folder for others to read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from luthier.registry import Registry

if TYPE_CHECKING:
    from luthier.models.policy import Policy

EXPORTERS = Registry("exporter", {"merged": "luthier.models.export.merged:Merged"})


@runtime_checkable
class Exporter(Protocol):
    """A frozen dataclass whose fields are its YAML keys."""

    def __call__(self, policy: Policy, folder: Path) -> list[Path]:
        """Write the model to `folder`, whole or not at all. Returns the files."""
        ...
