"""Commands that show and change nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from luthier import __version__
from luthier.cli.app import Overrides, verb


@verb("Look up")
def models() -> None:
    """List the models known by a short name: what is cached, sizes and licences."""
    from luthier import verbs

    verbs.models()


@verb("Look up")
def explain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|NAME", help="A recipe, or a name out of one.")],
    overrides: Overrides = None,
) -> None:
    """Print every value of a recipe with where it came from: you, a default and why, or derived and from what.

    `luthier explain adapt` prints the ways to adapt a model; `luthier explain grpo` (lora, maths, rollout, …) what it
    is, and its keys.
    """
    from luthier import verbs

    verbs.explain(recipe, overrides or ())


@verb("Look up")
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from luthier import verbs

    verbs.schema()


@verb("Look up")
def version() -> None:
    """Print the versions of Luthier and of what it stands on."""
    from importlib.metadata import version as installed

    typer.echo(f"luthier {__version__}, python {sys.version.split()[0]}")
    for package in ("torch", "transformers", "peft", "tokenizers", "safetensors"):
        typer.echo(f"{package} {installed(package)}")
