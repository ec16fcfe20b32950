"""What the rows show: too few, lost or cut, and those that stand in the test, too."""

from __future__ import annotations

from itertools import islice

from luthier.data import read
from luthier.data.duplicates import contamination, rows
from luthier.data.ledger import Ledger
from luthier.data.scored import scored_rows
from luthier.errors import LuthierError
from luthier.evaluate.diagnosis.evidence import Evidence
from luthier.evaluate.diagnosis.finding import Finding

LOOKED_AT = 50_000
"""Training rows that are compared with the test."""
FEW, LOST, CUT = 100, 0.05, 0.2
"""Rows below which little can be learnt, and shares of lost and of shortened rows (judged)."""


def tested_on_training_rows(seen: Evidence) -> Finding | None:
    """Rows of the tasks that the model has trained on, too."""
    items, hits = [], []
    try:
        for task in seen.recipe.evaluate:
            items += [rows.item_of(example) for example in scored_rows(task)]
        if not items:
            return None
        examples = islice(read(seen.recipe.data, Ledger()), LOOKED_AT)
        hits = contamination.Index(items).search([rows.text_of(example) for example in examples])
    except LuthierError:  # the data have gone since: there is nothing to compare
        return None
    dirty = {hit.item for hit in hits}
    if not dirty:
        return None
    first = items[hits[0].item]
    evidence = (
        f"{len(dirty)} of {len(items)} test rows stand in the training rows, for instance {first.name}",
        f"what they share: {hits[0].text[:100]!r}" if hits[0].text else "",
    )
    advice = "`steps: [{decontaminate: evaluate}]` leaves those rows out of training"
    weight = min(0.95, 0.5 + len(dirty) / len(items))
    return Finding("leak", "it is scored on rows it trained on", tuple(filter(None, evidence)), (), advice, weight)


def lost(seen: Evidence) -> Finding | None:
    """Many rows were dropped, or cut short."""
    told = seen.ledger.get("rows", {})
    read_, share = int(told.get("read", 0)), float(told.get("lost_share", 0.0))
    short = int(told.get("truncated", 0)) + int(told.get("cut", 0))
    if not read_ or (share < LOST and short < CUT * read_):
        return None
    evidence = []
    if share >= LOST:
        reasons = [f"{name} ({one['count']:,})" for name, one in list(seen.ledger.get("dropped", {}).items())[:3]]
        evidence.append(f"{share:.0%} of {read_:,} rows were lost: {'; '.join(reasons)}")
    changes: tuple[str, ...] = ()
    if short >= CUT * read_:
        evidence.append(f"{short:,} of {read_:,} rows are longer than train.max_tokens and were shortened")
        changes = (f"train.max_tokens={2 * seen.recipe.train.max_tokens}",)
    return Finding("lost", "many rows do not train as they are", tuple(evidence), changes, "", 0.45)


def few(seen: Evidence) -> Finding | None:
    """Too few rows for anything but style."""
    start = seen.last("start")
    count = int(start["examples"] or 0) if start else 0
    if not count or count >= FEW or seen.recipe.rollout is not None:
        return None
    evidence = (f"{count} rows train",)
    advice = "some hundreds teach a form, a thousand a task; `luthier plan` has the numbers by task"
    return Finding("few", "there are few rows", evidence, (), advice, 0.2)
