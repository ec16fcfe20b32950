"""What each micro-batch of a step showed, whichever process computed it: known to all, in the order of the step.

Shape suffixes: M = the values asked of a micro-batch, N = its rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from luthier.distributed.group import Group
from luthier.forward.batches import Batch
from luthier.train.telemetry.step_metrics import SUMS


@dataclass(frozen=True)
class Finding:
    """What one micro-batch showed, still on the device."""

    sums_M: Tensor
    """Each term's loss summed, or the share of the step's loss alone."""
    implicit_N: Tensor | None = None
    """What each response is worth in the objective's own terms, where it judges."""
    given_N: Tensor | None = None
    """The data's rewards of the same responses."""
    shown: Mapping[str, Tensor] = field(default_factory=dict)
    """Sums for `StepMetrics`."""

    def of_loss(self, loss: Tensor) -> Finding:
        """The same with the share of the step's loss."""
        return replace(self, sums_M=loss.detach().reshape(1))


def everywhere(
    group: Group, batches: Sequence[Batch], mine: Mapping[int, Finding], width: int, device: torch.device
) -> list[Finding]:
    """The findings of all micro-batches, of which this process computed `mine` by their places; M is `width`.

    One sum over the processes: each number has a place of its own, and fp64 holds an fp32 as it is.
    """
    if not group.several:
        return [mine[place] for place in range(len(batches))]
    sizes = [width + 1 + 2 * len(SUMS) + 2 * batch.num_rows for batch in batches]
    written = {place: _written(finding, batches[place].num_rows) for place, finding in mine.items()}
    pieces = group.by_place(written, sizes, device)
    return [_read(piece, width, batch.num_rows) for piece, batch in zip(pieces, batches, strict=True)]


def _written(finding: Finding, rows: int) -> Tensor:
    like = finding.sums_M.detach().double()
    zero, one = like.new_zeros(()), like.new_ones(())
    shown = [(finding.shown[name].double(), one) if name in finding.shown else (zero, zero) for name in SUMS]
    judged = finding.implicit_N is not None and finding.given_N is not None
    values_N = [finding.implicit_N, finding.given_N] if judged else [like.new_zeros(rows)] * 2
    return torch.cat(
        [
            like,
            torch.stack([one if judged else zero, *(value for pair in shown for value in pair)]),
            *(value_N.double() for value_N in values_N if value_N is not None),
        ]
    )


def _read(piece: Tensor, width: int, rows: int) -> Finding:
    sums_M, flags, implicit_N, given_N = torch.split(piece.float(), [width, 1 + 2 * len(SUMS), rows, rows])
    present = flags[2::2].tolist()
    shown = {name: flags[1 + 2 * i] for i, name in enumerate(SUMS) if present[i]}
    judged = bool(flags[0])
    return Finding(sums_M, implicit_N if judged else None, given_N if judged else None, shown)
