"""The program: how a command is begun, and how its faults are told. The commands stand beside it, by theme."""

from __future__ import annotations

import functools
import io
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from luthier import __version__

app = typer.Typer(
    name="luthier",
    help="Fine-tune, align, evaluate and export language models from one recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="`luthier demo` shows everything in a few minutes. `luthier VERB --help` says more about a verb.",
)

DEBUG = "--debug"
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (YAML).")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides, for instance train.lr=1e-4.")
]

EngineName = Annotated[
    str | None, typer.Option("--engine", help="What answers: local, vllm, '{openai: {url: …, model: …}}'.")
]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug.on = DEBUG in given or os.environ.get("LUTHIER_DEBUG", "") not in ("", "0")
    _hush()
    _take_any_text()
    app([argument for argument in given if argument != DEBUG])


class _Debug:
    on = False


debug = _Debug()


def _take_any_text() -> None:
    """Bytes that are no text of the terminal's encoding come in as half characters and go out as escapes: neither ends
    a command in the middle."""
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def _hush() -> None:
    """Libraries keep their progress bars, advice and statistics to themselves; what the user set stays."""
    for name, value in {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
        "TQDM_DISABLE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "true",
    }.items():
        os.environ.setdefault(name, value)
    # of a kernel for generation that it could not fetch from a hub (we do not use that one), and of int8's own rounding
    for noisy in ("bitsandbytes.backends.cpu.ops", "bitsandbytes.autograd._functions"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    if not debug.on and not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def verb(panel: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A command whose faults are told in plain words; the help shows it in this panel."""

    def made(function: Callable[..., None]) -> Callable[..., None]:
        @app.command(rich_help_panel=panel)
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except (KeyboardInterrupt, Exception) as error:
                if isinstance(error, typer.Exit):
                    raise
                from luthier.workflow.faults import report

                resumes = function.__name__ in ("train", "demo", "generate", "run", "curate", "arena", "judge")
                raise typer.Exit(report(error, debug=debug.on, resumes=resumes)) from error

        return guarded

    return made


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"luthier {__version__}")
        raise typer.Exit


@app.callback()
def _global(
    debug: Annotated[bool, typer.Option(DEBUG, help="Show tracebacks. May stand anywhere.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    del debug, version  # `main` and the callback have seen to them
