"""Rows that steps make something of, and the steps at work on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripted import Scripted

from luthier.data.curation.calls import Calls
from luthier.data.curation.lines import MADE
from luthier.data.steps import STEPS, Dropped, Noted
from luthier.data.steps.tools import Tools
from luthier.types import RAW, Example, Response, Source, Turn


def asked(question: str, answer: str | None = None, row: int = 1) -> Example:
    responses = () if answer is None else (Response((Turn("assistant", answer),)),)
    return Example((Turn("user", question),), responses, source=Source("a.jsonl", row))


def text(said: str, row: int = 1) -> Example:
    return Example((), (Response((Turn(RAW, said),)),), source=Source("a.txt", row))


def worked(
    name: str, rows: Sequence[Example], model: Scripted, journal: Path, /, **keys: Any
) -> list[tuple[Any, list[str]]]:
    """Of each row the rows that came of it, or the reason why none did, and what was noted."""
    given = Tools(0, lambda named: model, asking=Calls(journal))
    step = STEPS.build(name, keys).ready(given)
    found = []
    for outcome in step.apply_all(rows, given):
        notes = list(outcome.notes) if isinstance(outcome, Noted) else []
        made = outcome.example if isinstance(outcome, Noted) else outcome
        if isinstance(made, Dropped):
            found.append((made.reason, made.detail.split("; ") if made.detail else []))
        else:
            found.append((list(made) if isinstance(made, tuple) else [made], notes))
    return found


def said(row: Example) -> tuple[str, str]:
    """Question and answer."""
    return row.prompt[-1].text, row.responses[0].turns[0].text


def history(row: Example) -> dict[str, Any]:
    return dict(row.meta[MADE])
