"""Verbs that advise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError

if TYPE_CHECKING:
    from luthier.workflow.planning import Proposed


def plan(
    given: str | Path | None,
    overrides: Sequence[str] = (),
    *,
    model: str | None = None,
    gpu: str | None = None,
    goal: str | None = None,
    write: Path | None = None,
    rules: bool = False,
) -> Proposed | None:
    """Print how to train on rows, or what a recipe will take; of rows return the plan and write the recipe to `write`.

    `gpu`: 8GB, 4090, 8x80GB, cpu, cpu:16GB; `goal`: chat, classify, reason, domain, style, align; `rules`: print every
    rule. Raises LuthierError for what is not there or not known.
    """
    from luthier.workflow import planning

    if rules:
        planning.all_rules()
        return None
    if given is None:
        raise LuthierError("a plan for what?", fix="give a file of rows or a recipe: luthier plan rows.jsonl")
    path = Path(given)
    if path.suffix.lower() in planning.RECIPES and (model or goal or write):
        given_too = "--model" if model else "--goal" if goal else "--write"
        raise LuthierError("a recipe says that itself", where=given_too, fix="leave it out, or give rows")
    asked = planning.Asked(model or planning.DEFAULT_MODEL, gpu, goal, overrides)
    return planning.shown(path, asked, write)
