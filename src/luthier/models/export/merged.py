"""The merged model: one folder of safetensors with tokenizer, template and generation settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from luthier.recipe.schema import Why

if TYPE_CHECKING:
    from luthier.models.policy import Policy


@dataclass(frozen=True)
class Merged:
    """Add the adapter into the base's weights; plain transformers (and whatever reads its folders) loads the result."""

    dtype: Annotated[Literal["auto", "bf16", "fp32", "fp16"], Why("the file is as large as the base's")] = "auto"
    """Type of the written weights. auto: the base's. The sum itself is always taken in fp32."""

    def __call__(self, policy: Policy, folder: Path) -> list[Path]:
        """Write the model to `folder`, whole or not at all. Returns the files."""
        from luthier.models.loading import DTYPES
        from luthier.models.saving import merge

        return merge(policy, folder, None if self.dtype == "auto" else DTYPES[self.dtype])
