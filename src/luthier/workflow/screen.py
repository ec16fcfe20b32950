"""What the verbs show in the terminal besides progress."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.run import Run

if TYPE_CHECKING:
    from rich.console import Console

PIPED_WIDTH = 200
"""Columns where there is no terminal: tables are not cut for a file."""


def hush() -> None:
    """Show nothing from now on: another process of the run does."""
    _quiet.on = True
    console.cache_clear()


class _Quiet:
    on = False


_quiet = _Quiet()


@cache
def console(stderr: bool = False) -> Console:
    """Results go to stdout; what accompanies them goes to stderr."""
    from rich.console import Console

    if _quiet.on:
        return Console(stderr=stderr, quiet=True)
    made = Console(stderr=stderr, highlight=False)
    return made if made.is_terminal else Console(stderr=stderr, highlight=False, width=PIPED_WIDTH)


def say(text: str) -> None:
    """A line that accompanies the work."""
    console(stderr=True).print(text, markup=False, highlight=False)


def closing(run: Run) -> None:
    """How a run went: its main curve, its time, where everything lies and what to do next."""
    from luthier.evaluate import curve_text, said

    out = console()
    summary = run.read_json(run.summary_path)
    name, curve = curve_text(run)
    out.print(f"\n{name}", style="bold")
    out.print(curve, markup=False)
    out.print(", ".join([*_figures(summary), *_ends(run, summary)]), markup=False)
    for kind in said.kinds(run):
        right = f"{kind['first']:.0%} right when first asked, {kind['last']:.0%} when last"
        out.print(f"{kind['kind']:<11} {kind['prompts']:,} prompts, {right}", markup=False)
    places = {
        "adapter": run.adapter,
        "model": run.model,
        "merged": run.merged,
        "report": run.report_path,
        "loss curve": run.folder / "loss.png",
        "rewards": run.folder / "reward.png",
        "prompts": run.prompts_path,
        "answers": run.rollouts,
    }
    out.print()
    for name, path in places.items():
        if path.exists():
            out.print(f"{name:<11} {path}", markup=False)
    out.print(f"\n{_next(run)}", style="bold", markup=False)


def _next(run: Run) -> str:
    """What the run is good for: a reward model scores, a chat model answers, another goes on with a text."""
    if run.head is not None:
        return f"Score with it:  `scorers: [{{reward_model: {run.folder}}}]` in a recipe's `evaluate:`"
    if any(_has_template(folder) for folder in (run.adapter, run.model)):
        return f"Talk to it:  luthier chat {run.folder}"
    return f"Write it for others:  luthier export {run.folder}"


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    if (folder / "chat_template.jinja").is_file():
        return True
    return settings.is_file() and bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))


def _figures(summary: dict[str, Any]) -> list[str]:
    seconds, tokens = summary.get("seconds") or 0.0, summary.get("tokens") or 0
    count = summary.get("steps")
    parts = ["1 step" if count == 1 else f"{count} steps", f"{seconds:,.0f} s", f"{tokens:,} tokens"]
    if summary.get("tokens_per_s"):
        parts.append(f"{summary['tokens_per_s']:,.0f} tokens/s")
    if summary.get("peak_memory"):
        parts.append(f"peak {summary['peak_memory'] / 2**30:.1f} GiB")
    if (summary.get("shared") or 0) >= 0.001:
        parts.append(f"{summary['shared']:.0%} of them shared")
    return parts


def _ends(run: Run, summary: dict[str, Any]) -> list[str]:
    """What the run began and ended with: the reward where answers were paid, and the loss where that says anything (a
    policy gradient's does not: it is about 0 whatever is learnt)."""
    parts = []
    paid = [event["reward"] for event in run.events("rollout") if event.get("reward") is not None]
    if paid:
        parts.append(f"reward {paid[0]:.3f} → {paid[-1]:.3f}")
    first, last = summary.get("first_loss"), summary.get("last_loss")
    if first is not None and last is not None and not any("clipped" in event for event in run.events("step")):
        parts.append(f"loss {round(first, 3) + 0.0:.3f} → {round(last, 3) + 0.0:.3f}")  # -0.000 is 0.000
    return parts
