"""What a set step says, held against what it was to say, and counted: here and on Ray alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.curation.chunks import Placed
from luthier.data.steps.step import Columns, Reread, SetStep, Verdicts
from luthier.data.tally import LISTED, Reason, StepTally, number
from luthier.errors import LuthierError


@dataclass
class Said:
    """Verdicts as they are written down."""

    keep: NDArray[np.bool_]
    gone: NDArray[np.int64]
    """The places of the rows that go."""
    reasons: list[str]
    arrays: dict[str, NDArray[Any]]
    """Of why, value and witness those that were given."""
    told: dict[str, str]
    tally: StepTally


def decided(placed: Placed, columns: Columns, rows: Reread, seed: int) -> Said:
    """Ask a set step. Raises LuthierError where it does not say something of every row."""
    assert isinstance(placed.step, SetStep)
    try:
        verdicts = placed.step.decide(columns, rows, seed) if len(rows) else Verdicts(np.ones(0, np.bool_))
    except LuthierError as error:
        raise LuthierError(error.what, where=error.where or placed.label, fix=error.fix) from error
    _whole(placed, verdicts, len(rows))
    given = {name: getattr(verdicts, name) for name in ("why", "value", "witness")}
    arrays = {name: np.asarray(array) for name, array in given.items() if array is not None}
    told = {str(index): text for index, text in verdicts.told.items()}
    gone = np.flatnonzero(~np.asarray(verdicts.keep))
    tally = StepTally(placed.at, placed.name, len(rows), notes=list(verdicts.notes))
    _count(tally, gone, rows, verdicts.reasons, arrays, told)
    return Said(np.asarray(verdicts.keep), gone, list(verdicts.reasons), arrays, told, tally)


def _count(
    tally: StepTally,
    gone: NDArray[np.int64],
    rows: Reread,
    reasons: Sequence[str],
    arrays: dict[str, NDArray[Any]],
    told: dict[str, str],
) -> None:
    """Enter what goes; of each reason the first rows by name."""
    which = arrays["why"][gone] if "why" in arrays else np.zeros(len(gone), np.int64)
    for place, reason in enumerate(reasons):
        these = gone[which == place]
        if len(these):
            entry = tally.reasons[reason] = Reason(len(these))
            for index in these[:LISTED].tolist():
                detail = why(index, rows, reasons, arrays, told)[1]
                entry.rows.append(f"{rows.source(index)} {detail}".rstrip())
    tally.dropped = len(gone)


def why(
    index: int, rows: Reread, reasons: Sequence[str], arrays: dict[str, NDArray[Any]], told: dict[str, str]
) -> tuple[str, str]:
    """Why a row goes, and what is particular to it."""
    reason = reasons[int(arrays["why"][index])] if "why" in arrays else reasons[0]
    said = []
    witness = int(arrays["witness"][index]) if "witness" in arrays else -1
    if witness >= 0:
        said.append(f"= {rows.source(witness)}")
    if "value" in arrays and not np.isnan(value := float(arrays["value"][index])):
        said.append(f"{'' if witness < 0 else 'likeness '}{value:.4g}")
    if str(index) in told:
        said.append(told[str(index)])
    return reason, ", ".join(said)


def _whole(placed: Placed, verdicts: Verdicts, rows: int) -> None:
    """Raises LuthierError where a step did not say something of every row."""
    for name in ("keep", "why", "value", "witness"):
        array = getattr(verdicts, name)
        if array is not None and np.shape(array) != (rows,):
            what = (
                f"the step {placed.name!r} was to decide on {rows:,} rows; its {name!r} is of shape {np.shape(array)}"
            )
            raise LuthierError(what, where=placed.at, fix="`decide` says one thing of each row")


def allowed(tally: StepTally, placed: Placed, allow_drop: float) -> None:
    """Raises LuthierError where a step dropped more than anyone would want."""
    if placed.step.drops_much or tally.share <= allow_drop:
        return
    why = "; ".join(f"{what} ({one.count:,}×, first {one.rows[0]})" for what, one in tally.main_reasons()[:3])
    raise LuthierError(
        f"the step {tally.name!r} drops {tally.share:.0%} of {number(tally.seen + tally.made)}, and allow_drop is "
        f"{allow_drop:.0%}: {why}",
        where=tally.at,
        fix="look at them with `luthier curate … --show 5`; if that is meant, set allow_drop=1",
    )


__all__ = ["Said", "allowed", "decided", "why"]
