"""Rows of the training data, for adapters that measure the model on them before they begin.

Shape suffixes: B = rows, T = tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.recipe.schema import Int

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.types import Encoded

ROWS = 8
"""Rows that go through the model together."""
Rows = Annotated[Int, Field(gt=0)]


@dataclass(frozen=True)
class Measuring(Adapter):
    """An adapter that measures the model on rows of the training data before it begins."""

    rows: Rows = 64
    """Rows of the training data to measure."""

    @property
    def sample_rows(self) -> int:  # type: ignore[override]
        """As the key says."""
        return self.rows


def given(sample: Sequence[Encoded], adapter: str) -> Sequence[Encoded]:
    """The rows as they are. Raises LuthierError when there are none."""
    if not sample:
        raise LuthierError(
            f"`{adapter}` measures the model on rows of the training data, and there are none here",
            where="adapt",
            fix="train with a recipe, or hand rows to `models.load(…, beginning=Beginning(sample=…))`",
        )
    return sample


def batches(sample: Sequence[Encoded], device: Any, adapter: str, *, together: int = ROWS) -> list[dict[str, Tensor]]:
    """The first responses of the rows, padded on the right, a few at a time: `input_ids` and `attention_mask`, B x T.

    Raises LuthierError when there are no rows.
    """
    import torch

    sample = given(sample, adapter)
    found = []
    for begin in range(0, len(sample), together):
        ids = [torch.from_numpy(row.ids[0].astype("int64")) for row in sample[begin : begin + together]]
        mask_BT = torch.nn.utils.rnn.pad_sequence([torch.ones_like(each) for each in ids], batch_first=True)
        ids_BT = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
        found.append({"input_ids": ids_BT.to(device), "attention_mask": mask_BT.to(device)})
    return found
