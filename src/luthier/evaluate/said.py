"""What a model said while it learnt from that, for people to read: the answers of a step, what they earned and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType


def table(run: Run, step: int | None, count: int, *, worst: bool = False) -> RenderableType:
    """The best paid answers of the rollout that served a step, or the worst.

    Raises LuthierError for a run without rollouts, and for a step before the first.
    """
    from rich.console import Group
    from rich.rule import Rule
    from rich.text import Text

    path = at(run, step)
    answers = list(run.lines(path, "text"))
    known = [answer for answer in answers if answer["reward"] is not None]
    chosen = sorted(known, key=lambda answer: answer["reward"], reverse=not worst)[:count]
    rest = len(answers) - len(known)
    head = f"{path.stem}: {len(answers):,} answers" + (f", {rest:,} of which nothing could be said" if rest else "")
    parts: list[RenderableType] = [Text(head, "bold")]
    for answer in chosen:
        parts += [Rule(Text(_title(answer)), align="left"), Text(answer["asked"], "dim"), Text(answer["text"])]
    return Group(*parts)


def at(run: Run, step: int | None) -> Path:
    """The file of the rollout that served a step; the last one where none is named."""
    files = sorted(run.rollouts.glob("step-*.jsonl"))
    if not files:
        raise LuthierError(
            "this run keeps nothing of what its model said",
            where=str(run.folder),
            fix="give the folder of a run whose objective learns from that (grpo, ppo, …)",
        )
    if step is None:
        return files[-1]
    before = [path for path in files if int(path.stem.removeprefix("step-")) <= step]
    if not before:
        raise LuthierError(
            f"there is no rollout at step {step}", where=str(run.rollouts), fix="steps are counted from 1"
        )
    return before[-1]


def _title(answer: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {'?' if value is None else f'{value:g}'}" for name, value in answer["parts"].items())
    cut = ", cut off" if answer["finish"] == "length" else ""
    advantage = "" if answer["advantage"] is None else f", advantage {answer['advantage']:+.3f}"
    return f"{answer['reward']:g} ({said}){advantage}, {answer['tokens']} tokens{cut} · {answer['source']}"
