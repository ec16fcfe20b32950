"""The command line: verbs and dotted overrides. Nothing heavy is imported before a verb needs it."""

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
    _debug.on = DEBUG in given or os.environ.get("LUTHIER_DEBUG", "") not in ("", "0")
    _hush()
    _take_any_text()
    app([argument for argument in given if argument != DEBUG])


class _Debug:
    on = False


_debug = _Debug()


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
    if not _debug.on and not sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


def _verb(function: Callable[..., None]) -> Callable[..., None]:
    """A command whose faults are told in plain words."""

    @app.command()
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (KeyboardInterrupt, Exception) as error:
            if isinstance(error, typer.Exit):
                raise
            from luthier.workflow.faults import report

            resumes = function.__name__ in ("train", "demo", "generate", "run", "curate")
            raise typer.Exit(report(error, debug=_debug.on, resumes=resumes)) from error

    return guarded


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


@_verb
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
        launch(processes, ["train", str(recipe), *(overrides or ()), *([DEBUG] if _debug.on else ())])
        return
    from luthier import verbs

    verbs.train(recipe, overrides or ())


@_verb
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    overrides: Overrides = None,
    engine: EngineName = None,
) -> None:
    """Score a run's model, base and tuned side by side, on the tasks of its recipe."""
    from luthier import verbs

    verbs.evaluate(run, [*([f"engine={engine}"] if engine else []), *(overrides or ())])


@_verb
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


@_verb
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


@_verb
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


@_verb
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


@_verb
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


@_verb
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


@_verb
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


@_verb
def samples(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that learnt from what it said.")],
    step: Annotated[int | None, typer.Option(min=1, help="Of which step. Default: the last one.")] = None,
    count: Annotated[int, typer.Option(min=1, help="So many answers.")] = 5,
    worst: Annotated[bool, typer.Option("--worst", help="The worst paid ones instead of the best.")] = False,
) -> None:
    """Show what the model said while it learnt from that (grpo, ppo, …), and what it earned."""
    from luthier import verbs

    verbs.samples(run, step=step, count=count, worst=worst)


@_verb
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


@_verb
def models() -> None:
    """List the models known by a short name: what is cached, sizes and licences."""
    from luthier import verbs

    verbs.models()


@_verb
def explain(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE|adapt|NAME", help="A recipe, or an adapter's name.")],
    overrides: Overrides = None,
) -> None:
    """Print every value of a recipe with where it came from: you, a default and why, or derived and from what.

    `luthier explain adapt` prints the ways to adapt a model, `luthier explain lora` the card of one of them.
    """
    from luthier import verbs

    verbs.explain(recipe, overrides or ())


@_verb
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from luthier import verbs

    verbs.schema()


@_verb
def demo(
    output: Annotated[Path, typer.Option(help="The run folder.")] = Path("runs/demo"),
    overrides: Overrides = None,
) -> None:
    """Train the default model on the shipped task and show before and after, in a few minutes."""
    from luthier import verbs

    verbs.demo(output, overrides or ())


@_verb
def version() -> None:
    """Print the versions of Luthier and of what it stands on."""
    from importlib.metadata import version as installed

    typer.echo(f"luthier {__version__}, python {sys.version.split()[0]}")
    for package in ("torch", "transformers", "peft", "tokenizers", "safetensors"):
        typer.echo(f"{package} {installed(package)}")


if __name__ == "__main__":
    main()
