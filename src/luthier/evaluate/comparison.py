"""The outcome of comparing systems on a task: scores with intervals, samples, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from luthier.evaluate.intervals import DISCORDANT, Estimate, detectable, holm
from luthier.run import Run, json_line, write_atomically
from luthier.types import Example

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from luthier.evaluate.benchmarks.parts import Part


@dataclass(frozen=True)
class Score:
    """One scorer's verdict on all systems. `difference` is each later system minus the first, paired by row."""

    scorer: str
    higher_is_better: bool
    range: tuple[float, float]
    """The lowest and the highest value the scorer can give."""
    rows: int
    unscored: int
    """Rows the scorer could not judge (no reference of its kind)."""
    prompts: int
    """Different prompts among the rows: so many independent witnesses there are."""
    systems: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]


@dataclass(frozen=True)
class Answer:
    """What one system said to one example (None where no scorer asked for words), and its score by each scorer."""

    text: str | None
    finish: str | None
    scores: Mapping[str, float | None]


@dataclass(frozen=True)
class Sample:
    """One example with the answers of all systems."""

    example: Example
    expected: str | None
    answers: Mapping[str, Answer]


@dataclass(frozen=True)
class Comparison:
    """Systems side by side on one task; the first system is the baseline, the first score the headline."""

    task: str
    systems: tuple[str, ...]
    scores: tuple[Score, ...]
    samples: tuple[Sample, ...]
    seconds: Mapping[str, float]
    """Generating and scoring time of each system."""
    cut: Mapping[str, int]
    """Answers of each system that ended at max_new_tokens and not by a stop token."""
    remarks: tuple[str, ...] = ()
    """What else a reader of the scores must know."""
    parts: tuple[Part, ...] = ()
    """The headline's value of the subjects that a benchmark is made of."""

    @property
    def headline(self) -> Score:
        """The score of the task's first scorer."""
        return self.scores[0]

    def as_json(self) -> dict[str, Any]:
        """Everything but the samples, as JSON knows it (a value that is not finite becomes null)."""
        return {
            "task": self.task,
            "rows": len(self.samples),
            "systems": list(self.systems),
            "seconds": {name: round(seconds, 3) for name, seconds in self.seconds.items()},
            "cut": dict(self.cut),
            **({"remarks": list(self.remarks)} if self.remarks else {}),
            **({"parts": [_part(one) for one in self.parts]} if self.parts else {}),
            "scores": [
                {
                    "scorer": score.scorer,
                    "higher_is_better": score.higher_is_better,
                    "range": [_finite(end) for end in score.range],
                    "rows": score.rows,
                    "unscored": score.unscored,
                    "prompts": score.prompts,
                    "systems": {name: _estimate(estimate) for name, estimate in score.systems.items()},
                    "difference": {name: _estimate(estimate) for name, estimate in score.difference.items()},
                }
                for score in self.scores
            ],
        }

    def table(self) -> Table:
        """The scores side by side, for the terminal."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        baseline, *others = self.systems
        table = Table(title=escape(f"{self.task}: {len(self.samples)} rows, 95 % intervals"))
        table.add_column("scorer")
        for name in self.systems:
            table.add_column(name, justify="right")
        for name in others:
            table.add_column(f"{name} − {baseline}", justify="right")
        for score in self.scores:
            arrow = "↑" if score.higher_is_better else "↓"
            cells = [_cell(score.systems[name]) for name in self.systems]
            cells += [_verdict(score, score.difference[name]) for name in others]
            table.add_row(Text(f"{score.scorer} {arrow}"), *cells)
        notes = self.notes()
        if notes:
            table.caption = escape("\n".join(notes))
        return table

    def notes(self) -> list[str]:
        """What a reader of the scores must know: what so many rows show, rows without a judgement, answers cut off."""
        notes = [_shows(self.headline)] if self.headline.difference and self.headline.prompts > 1 else []
        notes += [
            f"{score.scorer}: {score.unscored} of {score.rows + score.unscored} rows could not be judged by it"
            for score in self.scores
            if score.unscored
        ]
        notes += [
            f"{name}: {cut} of {len(self.samples)} answers were cut off at max_new_tokens"
            for name, cut in self.cut.items()
            if cut
        ]
        return [*notes, *self.remarks]

    def sample_table(self, count: int = 3) -> Table:
        """The first samples, the systems side by side, for the terminal."""
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        table = Table(title=escape(f"{self.task}: the first {min(count, len(self.samples))} answers"), show_lines=True)
        for heading in ("prompt", "expected", *self.systems):
            table.add_column(heading, overflow="fold", ratio=1)
        for sample in self.samples[:count]:
            prompt = sample.example.prompt[-1].text if sample.example.prompt else ""
            row = [Text(_short(prompt)), Text(_short(sample.expected or ""))]
            for name in self.systems:
                answer = sample.answers[name]
                score = answer.scores.get(self.headline.scorer)
                mark = "" if score is None else f"\n[{number(score)}]"
                row.append(Text(_short(answer.text or "")).append(mark, style="dim"))
            table.add_row(*row)
        return table


def number(value: float | None) -> str:
    """A score as people read it: four significant digits at most."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{1 if abs(value) >= 10 else 3}f}"
    return text.replace("-", "−")


def _cell(estimate: Estimate, colour: str = "") -> Text:
    """The value, and under it the interval."""
    from rich.text import Text

    cell = Text(number(estimate.value), style=f"bold {colour}")
    if estimate.low is not None and estimate.high is not None:
        cell.append(f"\n[{number(estimate.low)}, {number(estimate.high)}]", style="not bold dim")
    return cell


def tested(scores: Iterable[Score]) -> tuple[Score, ...]:
    """The scores, the p-values of each system raised for all scores that test it."""
    found = list(scores)
    for name in found[0].difference if found else ():
        known = {score.scorer: one.p for score in found if (one := score.difference[name]).p is not None}
        raised = holm(known)
        found = [
            replace(
                score,
                difference={
                    **score.difference,
                    name: replace(score.difference[name], raised=raised.get(score.scorer)),
                },
            )
            for score in found
        ]
    return tuple(found)


def _shows(score: Score) -> str:
    """What so many rows can show."""
    rows = f"{score.rows} rows" if score.prompts == score.rows else f"{score.prompts} different prompts"
    points = 100 * detectable(score.prompts)
    return (
        f"{rows} show a difference of {points:.{0 if points >= 10 else 1}f} points four times out of five "
        f"(right by one system alone: {DISCORDANT:.0%} of the rows)"
    )


def improved(higher_is_better: bool, low: float | None, high: float | None, raised: float | None = None) -> bool | None:
    """Did it become better (True) or worse (False)? None where that is not sure: the interval of the difference holds
    0, or chance alone, with all that was tested beside it, does as much more often than one time in twenty."""
    if low is None or high is None or low <= 0 <= high or (raised is not None and raised >= 0.05):
        return None
    return (low > 0) == higher_is_better


def _verdict(score: Score, difference: Estimate) -> Text:
    better = improved(score.higher_is_better, difference.low, difference.high, difference.raised)
    cell = _cell(difference, {True: "green", False: "red", None: ""}[better])
    if difference.p is not None:
        cell.append(f"\n{difference.better} up, {difference.worse} down, {p_value(difference.p)}", style="not bold dim")
    return cell


def p_value(p: float) -> str:
    """As people write it."""
    return "p < 0.001" if p < 0.001 else f"p {p:.{3 if p < 0.1 else 2}f}"


_ENDS = str.maketrans(dict.fromkeys("\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029", "↵"))
"""Line ends that a terminal may break a table at, or not show at all."""


def _short(text: str, limit: int = 160) -> str:
    text = text.translate(_ENDS)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _estimate(estimate: Estimate) -> dict[str, float | None]:
    """Value and interval always; of a difference, what else is known."""
    known = {name: _finite(value) for name, value in asdict(estimate).items()}
    return {name: value for name, value in known.items() if name in ("value", "low", "high") or value is not None}


def _part(part: Part) -> dict[str, Any]:
    values = {name: _finite(value) for name, value in part.values.items()}
    return {"kind": part.kind, "name": part.name, "rows": part.rows, "systems": values}


def _line(task: str, row: int, sample: Sample) -> str:
    content = {
        "task": task,
        "row": row,
        "source": str(sample.example.source) if sample.example.source else None,
        "prompt": [{"role": turn.role, "text": turn.text} for turn in sample.example.prompt],
        "expected": sample.expected,
        **({"subject": subject} if (subject := sample.example.meta.get("subject")) else {}),
        "systems": {
            name: {
                "text": answer.text,
                "finish": answer.finish,
                "scores": {scorer: _finite(score) for scorer, score in answer.scores.items()},
            }
            for name, answer in sample.answers.items()
        },
    }
    return json_line(content)


def record(run: Run, comparison: Comparison) -> None:
    """Put a comparison into the run folder: its rows in samples.jsonl, its scores under `scores` in summary.json.

    What was recorded of the same task before is replaced; other tasks and other keys stay.
    """
    run.still_held()
    lines = [json_line(sample) for sample in run.samples() if sample["task"] != comparison.task]
    lines += [_line(comparison.task, row, sample) for row, sample in enumerate(comparison.samples)]
    write_atomically(run.samples_path, "".join(lines))
    summary = run.read_json(run.summary_path)
    summary["scores"] = {**summary.get("scores", {}), comparison.task: comparison.as_json()}
    run.write_json(run.summary_path, summary)
