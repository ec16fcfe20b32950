"""The scores of a benchmark's parts: its subjects, and the fields that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.evaluate.verdicts import Verdict
from luthier.types import Example

if TYPE_CHECKING:
    from rich.table import Table

SHOWN = 24
"""Subjects that are shown; where there are more, the fields are, and files hold the rest."""
KEYS = ("field", "subject")
"""What rows say of where they belong, from the large to the small."""


@dataclass(frozen=True)
class Part:
    """The headline's value over some of the rows. No interval: a part has few rows."""

    kind: str
    """field or subject."""
    name: str
    rows: int
    values: Mapping[str, float]
    """By system."""


def parts(headline: Verdict, rows: Sequence[Example]) -> tuple[Part, ...]:
    """The headline's value of each field and subject that rows name, where they name more than one.

    As everywhere, over the rows that every system could be judged on.
    """
    judged = [i for i in range(len(rows)) if all(each[i] is not None for each in headline.statistics.values())]
    found: list[Part] = []
    for kind in KEYS:
        places: dict[str, list[int]] = {}
        for index in judged:
            name = str(rows[index].meta.get(kind) or "")
            places.setdefault(name, []).append(index)
        if len(places) < 2:
            continue
        for name, some in places.items():
            values = {}
            for system, each in headline.statistics.items():
                rows_NK = np.array([each[index] for index in some], np.float64)
                values[system] = float(headline.metric.pooled(rows_NK.sum(axis=0)[None])[0])
            found.append(Part(kind, name or "other", len(some), values))
    return tuple(found)


def table(found: Sequence[Part], task: str, scorer: str) -> Table | None:
    """The parts for the terminal: the subjects if they are few, else the fields."""
    from rich.markup import escape
    from rich.table import Table

    from luthier.evaluate.comparison import number

    subjects = [part for part in found if part.kind == "subject"]
    shown = subjects if len(subjects) <= SHOWN else [part for part in found if part.kind == "field"]
    if not shown:
        return None
    systems = list(shown[0].values)
    made = Table(title=escape(f"{task}: {scorer} by {shown[0].kind}"))
    for heading in (shown[0].kind, "rows", *systems):
        made.add_column(heading, justify="left" if heading == shown[0].kind else "right")
    for part in shown:
        made.add_row(escape(part.name), f"{part.rows:,}", *(number(part.values[name]) for name in systems))
    if len(subjects) > len(shown):
        made.caption = f"{len(subjects)} subjects are in summary.json and in the report"
    return made
