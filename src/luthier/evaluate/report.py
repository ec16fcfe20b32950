"""report.html: everything a run left behind on one page that needs nothing but a browser."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from luthier.evaluate import said
from luthier.evaluate.charts import Line, interval_chart, line_chart, write_plot
from luthier.evaluate.comparison import improved, number, p_value
from luthier.evaluate.curves import Curves, Points, read_curves, smoothed
from luthier.run import Run, write_atomically

SAMPLES_OF_EACH_KIND = 10
"""Samples shown of those that became better, worse and neither, per task."""
TEXT_SHOWN = 6000
"""Characters shown of one text; the rest is in samples.jsonl."""

_PLAIN_EVENTS = frozenset({"step", "rollout", "evaluation", "checkpoint", "environment"})
_START = ("device", "threads", "allocator", "versions")
_YAML_LINE = re.compile(r"^(?P<indent>[\s-]*)(?P<key>[^\s:#'\"][^:#]*)(?P<colon>:)(?P<rest>.*)$")


def write_report(run: Run) -> Path:
    """Write report.html (and loss.png or reward.png) from what lies in the run folder; a part that is missing is said
    to be missing.

    The page is self-contained: no script, no font and no picture comes from elsewhere, and all text is escaped.
    """
    from jinja2 import Environment, StrictUndefined

    run.still_held()
    write_plot(run)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    page.filters.update(number=number, p_value=p_value, plain=plain, quantity=quantity, columns=columns, words=words)
    source = files("luthier.evaluate").joinpath("report.html.j2").read_text(encoding="utf-8")
    write_atomically(run.report_path, page.from_string(source).render(style=style(), **_content(run)))
    return run.report_path


def style() -> str:
    """The looks that all pages share."""
    return files("luthier.evaluate").joinpath("style.css").read_text(encoding="utf-8")


def _content(run: Run) -> dict[str, Any]:
    events = list(run.events())
    summary = run.read_json(run.summary_path)
    scores = summary.pop("scores", {})
    # without the whole environment, what the training loop says of its own is better than nothing
    environments = [
        *({key: event[key] for key in _START if key in event} for event in events if event["kind"] == "start"),
        *(event for event in events if event["kind"] == "environment"),
    ]
    samples = _samples(run)
    return {
        "name": run.folder.resolve().name,
        "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "recipe": _recipe(run),
        "summary": _summary(summary, read_curves(run)),
        "tasks": [_task(name, scores.get(name), samples.get(name, [])) for name in {**scores, **samples}],
        "charts": _charts(run),
        "not_finite": read_curves(run).not_finite,
        "ledger": run.read_json(run.ledger_path),
        "said": said.along(run),
        "events": [_told(event) for event in events if event["kind"] not in _PLAIN_EVENTS],
        "any_events": bool(events),
        "checkpoints": sum(event["kind"] == "checkpoint" for event in events),
        "environment": {key: value for key, value in (environments or [{}])[-1].items() if key not in ("kind", "time")},
    }


def _summary(summary: Mapping[str, Any], curves: Curves) -> dict[str, Any]:
    """The figures above all; where answers were paid, the rewards: the loss says nothing there (a policy gradient's is
    about 0), or is the held-out score upside down."""
    paid = curves.rollouts["reward"]
    if not paid:
        return dict(summary)
    hidden = ("first_loss", "last_loss", "evaluation_loss") if curves.steps["clipped"] else ("evaluation_loss",)
    shown = {key: value for key, value in summary.items() if key not in hidden}
    shown |= {"first_reward": paid[0][1], "last_reward": paid[-1][1]}
    if curves.scores and summary.get("evaluation_loss") is not None:
        shown["held-out_score"] = 1 - summary["evaluation_loss"]
    return shown


def _told(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event without what stands under Environment, and without lists of nothing."""
    hidden = _START if event["kind"] == "start" else ()
    return {key: value for key, value in event.items() if key not in hidden and value != []}


def _recipe(run: Run) -> list[tuple[str, str, str]]:
    """The lines of the locked recipe as (indent, key with its colon, rest)."""
    if not run.recipe_path.exists():
        return []
    lines = []
    for line in run.recipe_path.read_text(encoding="utf-8").removesuffix("\n").split("\n"):
        match = _YAML_LINE.match(line)
        lines.append((match["indent"], match["key"] + ":", match["rest"]) if match else ("", "", line))
    return lines


def _samples(run: Run) -> dict[str, list[dict[str, Any]]]:
    """The samples of each task, in order."""
    tasks: dict[str, list[dict[str, Any]]] = {}
    for sample in run.samples():
        tasks.setdefault(sample["task"], []).append(sample)
    return tasks


def _task(name: str, comparison: Mapping[str, Any] | None, samples: list[dict[str, Any]]) -> dict[str, Any]:
    scores = [] if comparison is None else [_score(score) for score in comparison["scores"]]
    headline = scores[0] if scores else None
    kinds: dict[str, list[dict[str, Any]]] = {"better": [], "worse": [], "same": []}
    for sample in samples:
        kinds[_kind(sample, headline)].append(sample)
    shown = sorted(
        ({**sample, "kind": kind} for kind, some in kinds.items() for sample in some[:SAMPLES_OF_EACH_KIND]),
        key=lambda sample: sample["row"],
    )
    return {
        "name": name,
        "rows": comparison["rows"] if comparison else len(samples),
        "systems": comparison["systems"] if comparison else list(samples[0]["systems"]),
        "cut": {system: cut for system, cut in (comparison or {}).get("cut", {}).items() if cut},
        "remarks": (comparison or {}).get("remarks", []),
        "scores": scores,
        "parts": (comparison or {}).get("parts", []),
        "headline": headline,
        "samples": shown,
        "total": len(samples),
        "counts": {kind: len(some) for kind, some in kinds.items()},
    }


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    difference = {
        system: {**one, "improved": improved(score["higher_is_better"], one["low"], one["high"], one.get("raised"))}
        for system, one in score["difference"].items()
    }
    picture = interval_chart(score["systems"], score["range"])
    return {**score, "difference": difference, "picture": picture}


def _kind(sample: Mapping[str, Any], headline: Mapping[str, Any] | None) -> str:
    """How the last system's answer compares with the first's by the headline score."""
    if headline is None or len(sample["systems"]) < 2:
        return "same"
    first, *_, last = (answer["scores"].get(headline["scorer"]) for answer in sample["systems"].values())
    if first is None or last is None or first == last:
        return "same"
    return "better" if (last > first) == headline["higher_is_better"] else "worse"


def _charts(run: Run) -> list[dict[str, Any]]:
    curves = read_curves(run)
    loss = [
        Line("loss", curves.loss, "raw"),
        Line("smoothed", smoothed(curves.loss), "main"),
        Line("evaluation", curves.evaluation, "evaluation"),
    ]
    better_worse = {"Rewards": "reward", "Log-probability of responses": "logp"}
    judged = {
        title: [
            Line("better, smoothed", smoothed(curves.steps[f"{field}_better"])),
            Line("worse, smoothed", smoothed(curves.steps[f"{field}_worse"]), "other"),
        ]
        for title, field in better_worse.items()
    }
    judged["Accuracy"] = [Line("accuracy", curves.steps["accuracy"], "raw"), *_smooth(curves.steps["accuracy"])]
    titles = {
        "kl": "KL to the reference, nats a token",
        "lr": "Learning rate",
        "grad_norm": "Gradient norm",
        "tokens_per_s": "Tokens per second",
    }
    spoken = {
        "Reward": [Line("reward", curves.rollouts["reward"], "raw"), *_smooth(curves.rollouts["reward"])],
        **{
            f"Reward: {name.replace('_', ' ')}": [Line(name, points, "raw"), *_smooth(points)]
            for name, points in curves.parts.items()
        },
        "Held-out score": [Line("held out", curves.scores, "evaluation")],
        "Share right": [Line("right", curves.rollouts["right"], "raw"), *_smooth(curves.rollouts["right"])],
        "Groups without contrast, answers cut off": [
            Line("without contrast", curves.rollouts["silent"]),
            Line("cut off", curves.rollouts["cut"], "other"),
        ],
        "Tokens of an answer": [Line("length", curves.rollouts["length"])],
        "Entropy, nats a token": [Line("entropy", curves.rollouts["entropy"])],
    }
    titles |= {"mismatch_k3": "Engine and trainer apart, k3", "drift": "KL within a rollout", "explained": "Explained"}
    own = {title: [Line(field, curves.steps[field])] for field, title in titles.items()}
    charts = {**spoken, "Loss": loss, **judged, **own}
    charts["Memory, GiB"] = [Line("memory", tuple((step, size / 2**30) for step, size in curves.steps["memory"]))]
    return [
        {"title": title, "lines": [line for line in lines if line.points], "svg": svg}
        for title, lines in charts.items()
        if (svg := line_chart(lines, title))
    ]


def _smooth(points: Points) -> list[Line]:
    return [Line("smoothed", smoothed(points))] if points else []


def clock(seconds: float) -> str:
    """A duration: 42 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def quantity(value: Any, key: str = "") -> str:
    """A value of the summary, ledger or environment as text, by its key: bytes, seconds, counts and ratios."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if ("memory" in key or "bytes" in key) and value >= 2**20:
            return f"{value / 2**30:.2f} GiB"
        if key == "seconds" or key.endswith("_seconds"):
            return clock(value)
        if key == "time":
            return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value))
        if isinstance(value, float) and "share" in key and 0 <= value <= 1:
            return f"{value:.1%}"
        return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def words(key: Any) -> str:
    """A key as people read it: without underscores."""
    return str(key).replace("_", " ")


def columns(value: Mapping[str, Any]) -> list[str]:
    """The keys that all values of a mapping of mappings share, so that it can stand as a table; [] if they differ."""
    shared = [list(inner) if isinstance(inner, Mapping) else [] for inner in value.values()]
    return shared[0] if shared and all(keys == shared[0] for keys in shared) else []


def plain(text: str | None) -> str:
    """A text as it is shown: cut where it would swamp the page, and saying so."""
    if text is None:
        return ""
    return text if len(text) <= TEXT_SHOWN else f"{text[:TEXT_SHOWN]}\n… {len(text) - TEXT_SHOWN:,} more characters"
