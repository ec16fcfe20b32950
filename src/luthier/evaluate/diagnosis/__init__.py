"""What is wrong with a run, most likely first: each finding with its evidence and what to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from luthier.evaluate.diagnosis import answers, ended, learning, preferences, rollouts, rows
from luthier.evaluate.diagnosis.evidence import Evidence
from luthier.evaluate.diagnosis.finding import Finding

Check = Callable[[Evidence], Finding | None]

CHECKS: tuple[Check, ...] = (
    ended.out_of_memory,
    ended.not_a_number,
    ended.failed,
    ended.unfinished,
    learning.untrained,
    learning.flat,
    learning.diverging,
    learning.reciting,
    preferences.both_fall,
    preferences.not_told_apart,
    rollouts.hacked,
    rollouts.silent,
    rollouts.unsaid,
    rollouts.narrowed,
    rollouts.long_or_cut,
    rollouts.apart,
    answers.cut_off,
    answers.repeating,
    answers.all_alike,
    answers.worse_than_base,
    rows.tested_on_training_rows,
    rows.lost,
    rows.few,
)


def diagnose(seen: Evidence, more: Sequence[Check] = ()) -> list[Finding]:
    """All that is found, the likeliest and worst first."""
    found = [finding for check in (*CHECKS, *more) if (finding := check(seen)) is not None]
    return sorted(found, key=lambda finding: -finding.weight)


__all__ = ["CHECKS", "Check", "Evidence", "Finding", "diagnose"]
