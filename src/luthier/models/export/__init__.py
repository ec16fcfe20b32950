"""Ways out of Luthier: an exporter writes the trained model into a folder for others to read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from luthier.registry import Registry

if TYPE_CHECKING:
    from luthier.models.merging import Drift
    from luthier.models.policy import Policy
    from luthier.types import Encoded

EXPORTERS = Registry("exporter", {"merged": "luthier.models.export.merged:Merged"})


@runtime_checkable
class Exporter(Protocol):
    """A frozen dataclass whose fields are its YAML keys."""

    def __call__(self, policy: Policy, folder: Path) -> list[Path]:
        """Write the model to `folder`, whole or not at all. Returns the files."""
        ...

    def proof(self, policy: Policy, folder: Path, rows: Sequence[Encoded]) -> Drift | None:
        """How far what was written to `folder` is from the trained model on rows of its data, None where that cannot be
        measured. Raises LuthierError when it is farther than the exporter allows."""
        ...
