"""A pipeline done, stage by stage. What is done already stays; a stage that was stopped goes on."""

from __future__ import annotations

import gc
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from luthier.recipe import Recipe
from luthier.run import Run
from luthier.scorers.judges import asking
from luthier.workflow import generation
from luthier.workflow.pipeline.book import Book
from luthier.workflow.pipeline.keys import Answering
from luthier.workflow.pipeline.reading import Pipeline
from luthier.workflow.pipeline.report import write_report
from luthier.workflow.pipeline.revising import revise
from luthier.workflow.pipeline.selecting import select
from luthier.workflow.pipeline.stages import Rewriting, Stage
from luthier.workflow.speaker import Speaker

Train = Callable[[Recipe], Run]


def run(pipeline: Pipeline, train: Train, say: Callable[[str], None], *, again: bool = False) -> Path:
    """Do what is left of the pipeline, and return its folder. `train`: the verb. `again`: stages that have changed and
    all after them are done anew. Raises LuthierError, before anything is begun, where that is needed and not asked."""
    for line in pipeline.told:
        say(line)
    home = Run(pipeline.output)
    with home.locked():
        book = Book.read(home)
        left = {stage.name for stage in book.left(pipeline.stages, again=again)}
        for number, stage in enumerate(pipeline.stages, 1):
            head = f"stage {number} of {len(pipeline.stages)}: {stage.label} ({stage.kind})"
            if stage.name not in left:
                say(f"{head} is finished")
                continue
            say(head)
            _do(stage, book, train, say)
            write_report(pipeline, book)
        write_report(pipeline, book)
    return home.folder


def _do(stage: Stage, book: Book, train: Train, say: Callable[[str], None]) -> None:
    book.begin(stage)
    start = time.perf_counter()
    work = stage.work
    if isinstance(work, Recipe):
        figures = _trained(train(work))
    elif isinstance(work, Answering):
        generation.generate(Speaker(work.model), work, stage.made, overwrite=False, say=say)
        figures = _answers(stage.made)
    elif isinstance(work, Rewriting):
        figures = revise(work, stage.folder, say)
    else:
        figures = select(work, stage.folder, say)
    asking.forget()
    gc.collect()  # the model of a stage must not stand beside that of the next
    book.finish(stage, time.perf_counter() - start, figures)


def _trained(run: Run) -> dict[str, Any]:
    summary = run.read_json(run.summary_path)
    figures = {key: summary.get(key) for key in ("steps", "first_loss", "last_loss")}
    rewards = [event.get("reward") for event in run.events("rollout")]
    if rewards:
        figures |= {"first_reward": rewards[0], "last_reward": rewards[-1]}
    scores = {
        f"{task} · {score['scorer']}": {name: _value(one) for name, one in score["systems"].items()}
        for task, comparison in summary.get("scores", {}).items()
        for score in comparison["scores"][:1]
    }
    return {key: value for key, value in figures.items() if value is not None} | ({"scores": scores} if scores else {})


def _value(one: Any) -> Any:
    return one.get("value") if isinstance(one, Mapping) else one


def _answers(path: Path) -> dict[str, Any]:
    """What a file of answers comes to; a line at a time."""
    ends, tokens = Counter[str](), 0
    with path.open("rb") as file:
        for line in file:
            row = json.loads(line)
            ends[str(row["finish"])] += 1
            tokens += row.get("tokens") or 0
    return {"answers": ends.total(), "tokens": tokens, "cut": ends["length"]}
