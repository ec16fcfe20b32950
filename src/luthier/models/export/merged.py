"""The merged model: one folder of safetensors with tokenizer, template and generation settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from luthier.recipe.schema import Float, Why

if TYPE_CHECKING:
    from luthier.models.merging import Drift
    from luthier.models.policy import Policy
    from luthier.types import Encoded


@dataclass(frozen=True)
class Merged:
    """Add the adapter into the base's weights; plain transformers (and whatever reads its folders) loads the result."""

    dtype: Annotated[Literal["auto", "bf16", "fp32", "fp16"], Why("what is written is what was trained and scored")] = (
        "auto"
    )
    """Type of the written weights. auto: the one it was trained in (`model.dtype`), whatever
    the base's own file is in. The sum itself is always taken in fp32."""

    drift: Annotated[Float, Field(gt=0), Why("rounding to bf16 costs a hundredth of it, a wrong merge far more")] = 0.05
    """Largest mean divergence from the trained model, KL in nats a token, on up to 16 rows of the run's data."""
    merges: ClassVar[bool] = True
    """It needs an adapter that can be added into the base's weights."""

    def __call__(self, policy: Policy, folder: Path) -> list[Path]:
        """Write the model to `folder`, whole or not at all. Returns the files."""
        from luthier.models.loading.load import DTYPES
        from luthier.models.saving import merge

        return merge(policy, folder, None if self.dtype == "auto" else DTYPES[self.dtype])

    def proof(self, policy: Policy, folder: Path, rows: Sequence[Encoded]) -> Drift | None:
        """As `Exporter.proof`."""
        from luthier.models.merging import drift, refuse_beyond

        found = drift(policy, folder, rows)
        if found is not None:
            refuse_beyond(found, self.drift, folder)
        return found
