"""Objectives on single tokens: supervised fine-tuning and continued pre-training.

Shape suffixes: S = scored tokens of the micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from luthier.objectives.base import Objective
from luthier.objectives.rows import Rows
from luthier.types import TOKEN, Needs


@dataclass(frozen=True)
class SFT(Objective):
    """Maximum likelihood of the scored tokens: -w log pi(y_t | y_<t), one value a token.

    Label smoothing (arXiv:1512.00567) mixes the target with the uniform distribution:
    -w [(1 - e) log pi(y_t) + e mean_v log pi(v)].
    """

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target spread evenly over the vocabulary."""
    needs: ClassVar[Needs] = Needs(responses=1, unit=TOKEN)
    imitates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.label_smoothing > 0:
            self.need(readouts=("logp", "mean_logp"))

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each scored token, S."""
        logp_S = rows.logp_S
        if self.label_smoothing > 0:
            logp_S = (1 - self.label_smoothing) * logp_S + self.label_smoothing * rows.readouts["mean_logp"]
        return -rows.weight_S * logp_S


@dataclass(frozen=True)
class Pretrain(SFT):
    """Continued pre-training: the same likelihood, every token of the text scored."""

    needs: ClassVar[Needs] = Needs(responses=1, loss_on="all", unit=TOKEN)
