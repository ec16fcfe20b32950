"""Commands that write models for others to load."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from luthier.cli.app import verb


@verb("Hand on")
def export(
    given: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|KEY=VALUE",
            help="A run folder, then the exporter's keys, for instance dtype=fp32; with --merge several RUN:WEIGHT.",
        ),
    ],
    to: Annotated[str | None, typer.Option(help="What to write: see `luthier schema`. Default: merged.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where. Default: a folder of that name in the run.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Combine the adapters of several runs into a run at --folder.")
    ] = False,
    how: Annotated[
        str | None,
        typer.Option(
            help="With --merge: linear (unless said otherwise), ties, dare_linear, dare_ties, magnitude_prune."
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With --merge: the share of each update that ties, dare_* and magnitude_prune keep. Default: 0.5.",
        ),
    ] = None,
) -> None:
    """Write a run's model for others to load, and check that it reads text as training did."""
    from luthier import verbs
    from luthier.workflow import export_check

    run, *rest = given
    keys = [each for each in rest if "=" in each]
    export_check.must_do_something(merge=merge, how=how, density=density, to=to, keys=keys)
    if not merge:
        verbs.export(run, to or "merged", folder=folder, keys=rest)
        return
    runs = [run, *(part for part in rest if "=" not in part)]
    combined = verbs.combine(runs, folder, how=how or "linear", density=0.5 if density is None else density)
    if to is not None:
        verbs.export(combined, to, keys=keys)
