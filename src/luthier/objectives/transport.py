"""Alignment by optimal transport: rewards are compared by rank over the whole step, not within a pair.

Shape suffixes: S = scored tokens of the step, N = rows, P = pairs (and ranks).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from luthier.objectives.pairs import Compared, smoothed
from luthier.objectives.rows import Rows
from luthier.recipe.schema import Float
from luthier.types import PAIR, Needs


@dataclass(frozen=True)
class AOT(Compared):
    """Alignment via optimal transport (arXiv:2406.05882): the better rewards dominate the worse ones as distributions.

    Paired: the pairs' differences of log-probability, sorted, against the reference's own sorted differences.
    `unpaired`: the better rewards, sorted, against the sorted worse ones. The logistic loss of each difference between
    equal ranks; log 2 at the start. Ranks exist only within the whole step (`Needs.whole_step`), which the loop
    therefore lays out as one micro-batch: the step has to fit into memory at once, and `train.batch` is the sample's
    size, in the evaluation loss too, where as many validation examples are ranked at a time, in their order.
    """

    unpaired: bool = False
    """Compare better and worse responses of equal rank, of whatever prompt."""
    label_smoothing: Annotated[Float, Field(ge=0, lt=0.5)] = 0.0
    """Share of the pairs that may be the wrong way round."""
    needs: ClassVar[Needs] = Needs(responses=2, roles=("reference",), whole_step=True, unit=PAIR)

    def loss(self, rows: Rows) -> Tensor:
        """Unreduced loss of each rank, P: as many as pairs, in the order of their ranks."""
        if self.unpaired:
            high_P, low_P = (values_P.sort().values for values_P in rows.better_worse(rows.log_ratio()))
        else:
            if rows.ref_S is None:
                raise ValueError("aot needs the reference's log-probabilities")
            policy, reference = (rows.better_worse(rows.total(logp_S)) for logp_S in (rows.logp_S, rows.ref_S))
            high_P, low_P = ((better_P - worse_P).sort().values for better_P, worse_P in (policy, reference))
        return smoothed(self.beta * (high_P - low_P), self.label_smoothing)
