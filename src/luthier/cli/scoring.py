"""Commands that tell how good a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import EngineName, Overrides, verb


@verb("Know")
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    overrides: Overrides = None,
    engine: EngineName = None,
    show: Annotated[
        int, typer.Option(min=0, help="Score nothing; print the exact prompts of so many rows of each task.")
    ] = 0,
    again: Annotated[bool, typer.Option("--again", help="Ask benchmarks anew, whatever answers are kept.")] = False,
) -> None:
    """Score a run's model, base and tuned side by side, on the tasks of its recipe."""
    from luthier import verbs

    given = [*([f"engine={engine}"] if engine else []), *(overrides or ())]
    verbs.evaluate(run, given, show=show, again=again)


@verb("Know")
def diagnose(run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, finished or not.")]) -> None:
    """Tell what looks wrong with a run, most likely first, with the numbers that say so and what to change."""
    from luthier import verbs

    verbs.diagnose(run)


@verb("Know")
def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that learnt from what it said.")],
    step: Annotated[int | None, typer.Option(min=1, help="Of which step. Default: the last one.")] = None,
    count: Annotated[int, typer.Option(min=1, help="So many answers.")] = 5,
    worst: Annotated[bool, typer.Option("--worst", help="The worst paid ones instead of the best.")] = False,
) -> None:
    """Show what the model said while it learnt from that (grpo, ppo, …), and what it earned."""
    from luthier import verbs

    verbs.samples(run, step=step, count=count, worst=worst)
