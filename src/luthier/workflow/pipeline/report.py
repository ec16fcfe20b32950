"""The page of a pipeline: a row a stage, with links to what each has made."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.evaluate.report import clock
from luthier.run import write_atomically
from luthier.workflow.pipeline.book import FINISHED, Book
from luthier.workflow.pipeline.reading import Pipeline
from luthier.workflow.pipeline.selecting import SUMMARY
from luthier.workflow.pipeline.stages import ANSWERS, LEDGER, ROWS, Stage

REPORT = "report.html"
FILES = {"train": (REPORT,), "generate": (ANSWERS,), "revise": (ROWS, LEDGER), "select": (ROWS, LEDGER, SUMMARY)}


def write_report(pipeline: Pipeline, book: Book) -> Path:
    """Write report.html into the pipeline's folder, from what is known of its stages. All of it is in the one file."""
    from jinja2 import Environment, StrictUndefined

    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    source = files("luthier.workflow.pipeline").joinpath("report.html.j2").read_text(encoding="utf-8")
    stages = [_row(number, stage, book) for number, stage in enumerate(pipeline.stages, 1)]
    content = {
        "name": pipeline.output.name,
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "pipeline": str(pipeline.path),
        "stages": stages,
        "done": sum(stage["state"] == FINISHED for stage in stages),
    }
    path = pipeline.output / REPORT
    book.home.still_held()
    write_atomically(path, page.from_string(source).render(**content))
    return path


def _row(number: int, stage: Stage, book: Book) -> dict[str, Any]:
    known = book.stages.get(stage.name, {})
    links = [(name, f"{stage.name}/{name}") for name in FILES[stage.kind] if (stage.folder / name).is_file()]
    return {
        "number": number,
        "label": stage.label,
        "kind": stage.kind,
        "state": known.get("state", "to come"),
        "time": clock(known["seconds"]) if "seconds" in known else "",
        "figures": figures(stage.kind, known.get("figures", {})),
        "links": links,
    }


def figures(kind: str, known: Mapping[str, Any]) -> list[str]:
    """What came of a stage, in words."""
    if not known:
        return []
    if kind == "generate":
        return [f"{known['answers']:,} answers", f"{known['tokens']:,} tokens", f"{known['cut']:,} cut off"]
    if kind == "revise":
        return [f"{known['rows']:,} of {known['answers']:,} answers revised", f"in {known['rounds']:,} rounds"]
    if kind == "select":
        return _selected(known)
    found = [f"{known['steps']:,} steps"] if "steps" in known else []
    for name in ("loss", "reward"):
        first, last = known.get(f"first_{name}"), known.get(f"last_{name}")
        if first is not None and last is not None:
            found.append(f"{name} {first:.3f} → {last:.3f}")
    for task, systems in known.get("scores", {}).items():
        values = [f"{name} {value:.3g}" for name, value in systems.items() if value is not None]
        found.append(f"{task}: {', '.join(values)}")
    return found


def _selected(known: Mapping[str, Any]) -> list[str]:
    found = [f"{known['kept']:,} of {known['answers']:,} answers kept, {known['rows']:,} rows"]
    if known["reward"] is not None:
        found.append(f"reward {known['reward']:.3g}, of those kept {known['reward_kept']:.3g}")
    if known["right"] is not None:
        found.append(f"{known['right']:.1%} right; {known['solved']:.1%} of prompts with a right one")
    return [*found, *(f"{count:,} {why}" for why, count in known["left_out"].items())]
