"""Commands that advise."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import Overrides, verb


@verb("Look up")
def plan(
    given: Annotated[
        Path | None, typer.Argument(metavar="ROWS|RECIPE", help="A file of rows, or a recipe (.yaml).")
    ] = None,
    overrides: Overrides = None,
    model: Annotated[
        str | None, typer.Option(help="What is to be trained: alias, hub id or folder. Default: smollm2-135m-instruct.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(metavar="8GB|4090|8x80GB", help="Where it is to run. Default: this machine.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="On this machine's processor, whatever GPU there is.")] = False,
    goal: Annotated[
        str | None, typer.Option(metavar="chat|classify|reason|domain|style|align", help="What it is for.")
    ] = None,
    write: Annotated[Path | None, typer.Option(help="A new file for the recipe that is proposed.")] = None,
    rules: Annotated[bool, typer.Option("--rules", help="Print every rule of thumb with its source.")] = False,
) -> None:
    """Say how to train on these rows, or what a recipe will take: memory, time, and why. docs/advice.md says more."""
    from luthier import verbs

    verbs.plan(given, overrides or (), model=model, gpu="cpu" if cpu else gpu, goal=goal, write=write, rules=rules)
