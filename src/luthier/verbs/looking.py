"""Verbs that show and change nothing: rows, values, cards, models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.recipe import Recipe, json_schema, resolve
from luthier.recipe import explain as explained
from luthier.registry import suggest
from luthier.verbs.opening import loaded
from luthier.workflow.job import Job
from luthier.workflow.registries import REGISTRIES
from luthier.workflow.screen import console

if TYPE_CHECKING:
    from luthier.data import Prepared, Prompts


def data(
    recipe: Recipe | str | Path,
    overrides: Sequence[str] = (),
    *,
    show: int = 0,
    diff: int = 0,
    report: bool = False,
) -> Prepared | Prompts:
    """Show the ledger of a recipe's data without training, the first rows with the tokens that train coloured, and the
    first changes of each step (`diff`). `report`: write data.html."""
    resolved = resolve(loaded(recipe, overrides), REGISTRIES).recipe
    job = Job(resolved).lenient()  # what is lost is to be seen, too
    if show:
        console().print(job.shown(show))
    if diff:
        from luthier.data.curation import shown

        for one in shown.samples(job.rows.ledger.steps, diff):
            console().print(one)
    if report:
        from luthier.workflow import curation

        curation.report(resolved)
    job.rows.refuse_lost(resolved.train.max_lost)
    job.check_data()
    return job.rows


def models() -> None:
    """List the known models: what is cached, sizes and licences."""
    from rich.table import Table

    from luthier.models import catalogue

    table = Table("name", "cached", "from", "licence", "about", box=None, header_style="bold", pad_edge=False)
    for known in catalogue():
        size = f"{known.size / 2**20:,.0f} MiB" if known.cached else "–"
        table.add_row(known.alias, size, known.origin, known.licence, known.about)
    console().print(table)


def explain(recipe: Recipe | str | Path, overrides: Sequence[str] = ()) -> None:
    """Print every resolved value of a recipe with where it came from.

    `adapt` instead of a recipe: the table of adapters; the name of a plug-in (grpo, maths, lora) or of a part of the
    recipe (rollout, train): its card.
    """
    from luthier.workflow import cards
    from luthier.workflow.teaching import forecast

    name = str(recipe)
    found = [] if Path(name).is_file() else cards.cards(name)
    for place, card in enumerate(found):
        console().print(*([] if place == 0 else [""]), card, sep="\n")
    if not found:
        if not Path(name).is_file() and name.isidentifier():
            raise LuthierError(
                f"{name!r} is neither a recipe, nor a plug-in, nor a part of a recipe",
                fix=f"{suggest(name, cards.names())}; of a recipe, give the path",
            )
        given = loaded(recipe, overrides)
        console().print(explained(given, REGISTRIES))
        for line in forecast.lines(Job(resolve(given, REGISTRIES).recipe)):
            console().print(line, markup=False)


def schema() -> dict[str, Any]:
    """Print the JSON schema of recipes, for editors; and return it."""
    content = json_schema(REGISTRIES)
    print(json.dumps(content, indent=2, ensure_ascii=False))
    return content
