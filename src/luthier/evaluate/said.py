"""What a model said while it learnt from that, for people to read: the answers of a step, what they earned and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.run import Run

if TYPE_CHECKING:
    from rich.console import RenderableType

LOOKED_AT = 10
"""Files of rollouts at either end of a run that changed answers are looked for in."""
CHANGED = 5
"""Changed answers shown."""


def table(run: Run, step: int | None, count: int, *, worst: bool = False) -> RenderableType:
    """The best paid answers of the rollout that served a step, or the worst: before those the ones of which nothing
    could be said.

    Raises LuthierError for a run without rollouts, and for a step that none has served.
    """
    from rich.console import Group
    from rich.rule import Rule
    from rich.text import Text

    path = at(run, step)
    answers = list(run.lines(path, "text"))
    known = [answer for answer in answers if answer["reward"] is not None]
    unsaid = [answer for answer in answers if answer["reward"] is None]
    order = sorted(known, key=lambda answer: answer["reward"], reverse=not worst)
    chosen = [*unsaid, *order][:count] if worst else [*order, *unsaid][:count]
    head = f"{path.stem}: {len(answers):,} answers"
    if unsaid:
        shown = "first here" if worst else "shown by --worst"
        head += f", {len(unsaid):,} of which nothing could be said ({shown})"
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
    begun = int(files[-1].stem.removeprefix("step-"))
    last = max((int(event["step"]) for event in run.events("step")), default=begun)
    last = max(last, begun)
    if step > last:
        raise LuthierError(
            f"the run has not come to step {step}: its last is {last}",
            where=str(run.rollouts),
            fix=f"give --step {last}, or leave it out for the last rollout",
        )
    return before[-1]


def along(run: Run) -> dict[str, Any]:
    """For the report: how many prompts of which kind, the best and the worst paid answer at the beginning, in the
    middle and at the end, and prompts whose answers have changed most in worth. Empty for a run without rollouts."""
    files = sorted(run.rollouts.glob("step-*.jsonl"))
    if not files:
        return {"kinds": [], "steps": [], "changed": []}
    chosen = dict.fromkeys((files[0], files[len(files) // 2], files[-1]))
    read = {path: [one for one in run.lines(path, "text") if one["reward"] is not None] for path in chosen}
    steps = [{"step": answers[0]["step"], "answers": _ends(answers)} for answers in read.values() if answers]
    return {"kinds": kinds(run), "steps": steps, "changed": _changed(run, files)}


def kinds(run: Run) -> list[dict[str, Any]]:
    """How many prompts are hopeless, learnable, easy, and how often each kind was answered rightly, first and last."""
    rows = list(run.lines(run.prompts_path, "kind"))
    found = []
    for kind in ("hopeless", "learnable", "easy"):
        own = [row for row in rows if row["kind"] == kind]
        if own:
            means = {when: fmean(row[when] for row in own) for when in ("first", "last")}
            found.append({"kind": kind, "prompts": len(own), **means})
    return found


def _ends(answers: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    order = sorted(answers, key=lambda one: one["reward"])
    if not order[0]["parts"]:  # nobody judges
        return [("an answer", order[0])]
    return [("best paid", order[-1]), ("worst paid", order[0])]


def _changed(run: Run, files: Sequence[Path]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Prompts that came early and late, with an answer of either time, those first whose mean reward changed most."""
    early, late = _by_prompt(run, files[:LOOKED_AT]), _by_prompt(run, files[-LOOKED_AT:])
    pairs = []
    for prompt in early.keys() & late.keys():
        before, after = early[prompt], late[prompt]
        if before[0]["step"] < after[0]["step"]:
            gain = fmean(one["reward"] for one in after) - fmean(one["reward"] for one in before)
            pairs.append((abs(gain), before[0], after[-1]))
    order = sorted(pairs, key=lambda pair: (-pair[0], pair[1]["source"]))
    return [(before, after) for gain, before, after in order[:CHANGED] if gain > 0]


def _by_prompt(run: Run, files: Sequence[Path]) -> dict[str, list[Mapping[str, Any]]]:
    found: dict[str, list[Mapping[str, Any]]] = {}
    for path in files:
        for one in run.lines(path, "text"):
            if one["reward"] is not None:
                found.setdefault(one["prompt"], []).append(one)
    return found


def _title(answer: Mapping[str, Any]) -> str:
    said = ", ".join(f"{name} {'?' if value is None else f'{value:g}'}" for name, value in answer["parts"].items())
    cut = ", cut off" if answer["finish"] == "length" else ""
    advantage = "" if answer["advantage"] is None else f", advantage {answer['advantage']:+.3f}"
    worth = "nothing could be said" if answer["reward"] is None else f"{answer['reward']:g}"
    judged = f"{worth} ({said}){advantage}, " if answer["parts"] else ""
    return f"{judged}{answer['tokens']} tokens{cut} · {answer['source']}"
