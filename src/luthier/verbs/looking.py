"""Verbs that show and change nothing: rows, values, cards, models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.recipe import Recipe, json_schema, resolve
from luthier.recipe import explain as explained
from luthier.recipe.describe import plugin_entries
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

    `adapt` instead of a recipe: the table of adapters; the name of one: its card.
    """
    from luthier.models.adapters.kit import guide
    from luthier.workflow.teaching import forecast

    name = str(recipe)
    if name == "adapt":
        console().print(guide.table())
    elif name in REGISTRIES["adapter"].names():
        found = plugin_entries(REGISTRIES["adapter"].get(name))
        console().print(guide.shown(name, [(entry.key, entry.default, entry.doc) for entry in found]))
    else:
        kinds = [kind for kind, registry in REGISTRIES.items() if name in registry.names()]
        if kinds and not Path(name).exists():
            raise LuthierError(
                f"{name!r} is no recipe, but a plug-in ({kinds[0]}), and only adapters have cards",
                fix=f"docs/recipes.md lists the keys of {name}; `luthier explain RECIPE` prints their values",
            )
        if name.isidentifier() and not Path(name).exists():
            raise LuthierError(
                f"{name!r} is neither a recipe nor a way to adapt a model",
                fix=f"{suggest(name, REGISTRIES['adapter'].names())}; of a recipe, give the path",
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
