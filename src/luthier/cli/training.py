"""Commands that train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import DEBUG, Overrides, RecipePath, debug, verb


@verb("Train")
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    processes: Annotated[
        int, typer.Option(min=1, help="Train in so many processes of this machine, for instance one for each GPU.")
    ] = 1,
) -> None:
    """Train what the recipe says, score it before and after, write the report. Run it again to resume."""
    if processes > 1:
        from luthier import verbs
        from luthier.distributed.launch import launch

        verbs.alone(recipe, overrides or (), processes)
        launch(processes, ["train", str(recipe), *(overrides or ()), *([DEBUG] if debug.on else ())])
        return
    from luthier import verbs

    verbs.train(recipe, overrides or ())


@verb("Train")
def run(
    pipeline: Annotated[Path, typer.Argument(metavar="PIPELINE", help="A pipeline (YAML).")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Dotted overrides, for instance stages.sft.train.lr=1e-4."),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Do stages that have changed, and all after them, anew.")
    ] = False,
) -> None:
    """Do the stages of a pipeline: train, generate, select, train again. Run it again to resume."""
    from luthier import verbs

    verbs.run(pipeline, overrides or (), again=again)


@verb("Train")
def demo(
    output: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Train the default model on the shipped task and show before and after, in a few minutes."""
    from luthier import verbs

    verbs.demo(output, overrides or ())
