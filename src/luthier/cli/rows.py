"""Commands on rows."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import Overrides, RecipePath, verb


@verb("Data")
def data(
    recipe: RecipePath,
    overrides: Overrides = None,
    show: Annotated[int, typer.Option(min=0, help="Show so many rows, the tokens that train coloured.")] = 0,
    diff: Annotated[int, typer.Option(min=0, help="Show so many changes of each step, coloured.")] = 0,
    report: Annotated[
        bool, typer.Option("--report", help="Write data.html, a page on the rows, into this folder.")
    ] = False,
) -> None:
    """Read, render and tokenise the data, and show the ledger, without training."""
    from luthier import verbs

    verbs.data(recipe, overrides or (), show=show, diff=diff, report=report)


@verb("Data")
def curate(
    given: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE|FILES", help="A recipe, or files of rows; keys as steps=[exact]."),
    ],
    out: Annotated[Path | None, typer.Option(help="A file for the rows; ledger and changes go beside it.")] = None,
    first: Annotated[int | None, typer.Option("--try", min=1, help="Of each source only so many rows.")] = None,
    why: Annotated[str | None, typer.Option(metavar="FILE:LINE", help="Tell what became of one row.")] = None,
    show: Annotated[int, typer.Option(min=0, help="Show so many changes of each step, coloured.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="Default: one for each processor.")] = None,
    report: Annotated[
        bool, typer.Option("--report", help="Write a page on the rows: data.html, beside `--out`.")
    ] = False,
) -> None:
    """Bring rows through the steps of a recipe, and write what comes of them. Run again, it does only what is new."""
    from luthier.workflow import curation

    curation.curate(given, curation.Asked(out, first, why, show, processes, report))


@verb("Data")
def engagement(
    given: Annotated[
        list[str],
        typer.Argument(metavar="LOG|KEY=VALUE", help="Logs of conversations, and keys: docs/engagement.md has them."),
    ],
    out: Annotated[
        Path | None, typer.Option(help="A folder for the labelled responses: train.jsonl, test.jsonl, ledger.json.")
    ] = None,
) -> None:
    """Show how long users talk with each model, and label responses by what users did next, to learn from."""
    from luthier.workflow import engagement as work

    logs, keys = work.parted(given)
    work.engagement(logs, out, keys)
