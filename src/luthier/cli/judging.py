"""Commands that have answers judged: by models, in an arena, by people."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import EngineName, verb

Models = Annotated[
    list[str] | None, typer.Argument(metavar="MODEL…", help="Runs, `base`, models, or files of prompts and answers.")
]
Prompts = Annotated[
    str | None, typer.Option("--prompts", help="A file of prompts. Default: what the first run is scored on.")
]
Judge = Annotated[
    str, typer.Option("--judge", help="Who judges: a model, a run, a reward model's run, '{judge: {engine: …}}'.")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many prompts.")]


@verb("Know")
def arena(
    models: Models,
    judge: Judge,
    prompts: Prompts = None,
    folder: Annotated[Path, typer.Option(help="Where answers, comparisons and table go.")] = Path("arena"),
    limit: Limit = None,
    swiss: Annotated[int | None, typer.Option(min=1, help="So many rounds of neighbours, not each two.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The longest answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    engine: EngineName = None,
) -> None:
    """Rate any number of models over the same prompts: each two judged in both orders, Elo with intervals."""
    from luthier import verbs
    from luthier.types import Sampling
    from luthier.workflow.speaker import named

    drawn = Sampling(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
    plugin = named(engine or "local")
    verbs.arena(models or (), prompts, judge, folder, limit=limit, rounds=swiss, sampling=drawn, engine=plugin)


@verb("Know")
def judge(
    models: Models = None,
    prompts: Prompts = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="A model judges: its name, a run, '{judge: {engine: …}}'.")
    ] = None,
    agree: Annotated[
        str | None, typer.Option("--agree", metavar="PAIRS", help="Hold the judge against what people chose.")
    ] = None,
    blind: Annotated[bool, typer.Option("--blind", help="People judge, on a page of this machine.")] = False,
    rows: Annotated[int, typer.Option(min=1, help="With --blind: so many pairs of answers.")] = 50,
    sheets: Annotated[int, typer.Option(min=0, help="With --blind: so many CSV sheets, one a rater.")] = 0,
    page: Annotated[bool, typer.Option(help="With --blind: serve the page.")] = True,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0: any that is free.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Draws prompts and places.")] = 0,
    open_: Annotated[Path | None, typer.Option("--open", metavar="FOLDER", help="Break the seal: who has won?")] = None,
    folder: Annotated[Path | None, typer.Option(help="Default: blind, or judged.")] = None,
    limit: Limit = None,
    engine: EngineName = None,
) -> None:
    """Have two models' answers judged: by a model in both orders (--judge), or by people who see no names (--blind)."""
    from luthier import verbs
    from luthier.errors import LuthierError
    from luthier.workflow.speaker import named

    if open_ is not None:
        verbs.unseal(open_)
    elif blind:
        there = verbs.blind(
            models or (), prompts, folder or Path("blind"),
            rows=rows, sheets=sheets, seed=seed, engine=named(engine or "local"),
        )  # fmt: skip
        if page:
            verbs.page(there, port)
    elif judge is None:
        raise LuthierError(
            "nothing says who judges", where="luthier judge", fix="give --judge MODEL, or --blind for people, or --open"
        )
    elif agree is not None:
        verbs.agrees(agree, judge, limit=limit)
    else:
        verbs.judge(models or (), prompts, judge, folder or Path("judged"), limit=limit)
