"""Commands that have a model answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import EngineName, verb


@verb("Use")
def chat(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, alias, hub id or folder.")],
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    both: Annotated[bool, typer.Option("--both", help="Answer with and without the adapter, side by side.")] = False,
    engine: EngineName = None,
) -> None:
    """Talk to a model. /help lists what you can type."""
    from luthier import verbs

    verbs.chat(
        model,
        system=system,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
        both=both,
        engine=engine or "local",
    )


@verb("Use")
def generate(
    model: Annotated[str, typer.Argument(metavar="RUN|MODEL", help="A run folder, alias, hub id or folder.")],
    prompts: Annotated[Path, typer.Option(help="The prompts: rows of any shape that data may have.")],
    out: Annotated[Path, typer.Option(help="Where the answers go, a line each. Run again to resume.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="For instance temperature=0.8; docs/generation.md has them all."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Answers to each prompt.")] = 1,
    engine: EngineName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew where there are answers.")] = False,
) -> None:
    """Answer the prompts of a file. A run that was stopped goes on where it was."""
    from luthier import verbs

    keys = [f"n={n}", *([f"engine={engine}"] if engine else []), *(overrides or [])]
    verbs.generate(model, prompts, out, keys, overwrite=overwrite)


@verb("Use")
def serve(
    given: Annotated[
        list[str],
        typer.Argument(metavar="RUN|MODEL", help="Runs and models of one base; settings as serve.KEY=VALUE."),
    ],
    adapters: Annotated[Path | None, typer.Option(help="A folder of runs whose adapters clients may name.")] = None,
    host: Annotated[str, typer.Option(help="Where to listen; anything but this machine needs keys.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    api_key: Annotated[
        str | None, typer.Option(envvar="LUTHIER_API_KEY", show_envvar=True, help="A key that clients need.")
    ] = None,
    api_keys: Annotated[
        Path | None, typer.Option(help="A file of keys, one a line; `admin KEY` may load and unload adapters.")
    ] = None,
) -> None:
    """Serve runs by OpenAI's API, with a chat page. docs/serving.md says the rest."""
    from luthier import verbs
    from luthier.serve.settings import read_keys

    verbs.serve(given, adapters=adapters, host=host, port=port, keys=read_keys(api_key, api_keys))
