"""The experiment on spoilt rows in tables.

Shape suffixes: S = seeds, N = scored rows.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import arms
import spoiling
from learning import runs

Found = Mapping[str, Sequence[dict[str, Any]]]
"""The runs of each arm, a seed each."""
COMPARED = (
    (arms.CURATED, arms.ALL),
    (arms.CURATED, arms.SPOILT),
    (arms.CURATED, arms.MECHANICS),
    (arms.MECHANICS, arms.ALL),
    (arms.UNSPOILT, arms.ALL),
    (arms.UNSPOILT, arms.CURATED),
    (arms.IFD, arms.LONGEST),
    (arms.IFD, arms.TENTH),
    (arms.LONGEST, arms.TENTH),
    (arms.CURATED, arms.TENTH),
)
"""Which arm is held against which."""


def of_sets(sets: Sequence[dict[str, Any]]) -> str:
    """A line a set of rows: what is in it of each kind that was spoiling."""
    heads = ["set", "rows", "unspoilt", *spoiling.SHARES, "spoilt", "words an answer"]
    lines = []
    for one in sets:
        count, bad = one["rows"], sum(one["bad"].values())
        kinds = (str(one["bad"][kind]) for kind in spoiling.SHARES)
        lines.append([one["set"], str(count), str(count - bad), *kinds, f"{bad / count:.0%}", f"{one['words']:.0f}"])
    return runs.table(heads, lines)


def of_runs(found: Found) -> str:
    """A line an arm: its scores by seed."""
    heads = ["", "tokens trained", "held-out perplexity, by seed", "others' perplexity", "ROUGE-L", "answers cut off"]
    first = found[arms.ALL][0]
    lines = [["before", "–", *_scores([first], "base")]]
    for arm, done in found.items():
        lines.append([arm, f"{fmean(one['tokens'] for one in done):,.0f}", *_scores(done, "tuned")])
    return runs.table(heads, lines)


def _scores(done: Sequence[dict[str, Any]], system: str) -> list[str]:
    told = []
    for task, digits in ((arms.HELD_OUT, 2), (arms.OTHERS, 2), (arms.WORDS, 3)):
        values = [one["scores"][task][system]["value"] for one in done]
        mean = f"{fmean(values):.{digits}f}"
        each = ", ".join(f"{value:.{digits}f}" for value in values)
        told.append(mean if len(values) == 1 else f"{mean} ({each})")
    return [*told, ", ".join(str(one["cut"][system]) for one in done)]


def difference(found: Found, task: str, one: str, other: str) -> runs.Scored:
    """How far an arm's scores of rows lie above another's, means of the seeds that both have, with an interval by
    resampling rows."""
    seeds = min(len(found[arm]) for arm in (one, other))
    of_arm_SN = [[run["rows"]["tuned"][task] for run in found[arm][:seeds]] for arm in (one, other)]
    mean_N = [[fmean(row) for row in zip(*rows_SN, strict=True)] for rows_SN in of_arm_SN]
    return runs.mean([a - b for a, b in zip(*mean_N, strict=True)])


def of_differences(found: Found) -> str:
    """A line a pair of arms."""
    heads = ["first less second", "held-out, nats a token", "others, nats a token", "ROUGE-L"]
    lines = []
    for one, other in COMPARED:
        if one in found and other in found:
            tasks = (arms.HELD_OUT, arms.OTHERS, arms.WORDS)
            each = (runs.shown(difference(found, task, one, other), sign=True) for task in tasks)
            lines.append([f"{one} − {other}", *each])
    return runs.table(heads, lines)
