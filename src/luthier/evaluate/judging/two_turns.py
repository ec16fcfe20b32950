"""MT-Bench (arXiv:2306.05685): two questions that belong together, each answer given a number from 1 to 10."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Asked, Tell
from luthier.evaluate.benchmarks.parts import parts
from luthier.evaluate.comparison import Answer as Shown
from luthier.evaluate.comparison import Comparison, Sample, tested
from luthier.evaluate.judging import answers as answering
from luthier.evaluate.judging.entries import Judged
from luthier.evaluate.verdicts import Statistics, Verdict
from luthier.recipe.schema import Plugin
from luthier.scorers.building import built
from luthier.scorers.judges.judge import Judge
from luthier.scorers.metric import Metric
from luthier.types import Example, Response, Source, Turn

Scores = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Points(Metric):
    """What a judge gives, from 1 to 10: the mean over rows."""

    needs_reference: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (1.0, 10.0)

    def __call__(self, example: Example, response: Response) -> float | None:
        return None  # who judges has been asked already


@dataclass(frozen=True)
class MTBench(Judged):
    """80 conversations of two questions in eight kinds; the judge gives each answer 1 to 10, and knows the right answer
    where the set has one (mathematics, reasoning, code). The judge's words are ours, not the paper's."""

    title: ClassVar[str] = "MT-Bench"
    paper: ClassVar[str] = "https://arxiv.org/abs/2306.05685"
    licence: ClassVar[str] = "Apache-2.0"

    def metrics(self) -> dict[str, Metric]:
        """The judge, on a scale from 1 to 10 unless `by` says otherwise."""
        return {self.by.name: self._judge()}

    def examples(self, tell: Tell) -> list[Example]:
        """The first questions; the second ones and the right answers stand in `meta`."""
        folder = Path(self.path).expanduser() if self.path else None
        if folder is None:
            raise LuthierError("MT-Bench is read from files", where="path", fix="name the folder of question.jsonl")
        if folder.is_dir():
            file = next((one for one in (folder, folder / "mt_bench") if (one / "question.jsonl").is_file()), folder)
            questions, beside = file / "question.jsonl", file / "reference_answer"
        else:
            questions, beside = folder, folder.parent / "reference_answer"
        known: dict[Any, list[str]] = {}
        for file in sorted(beside.glob("*.jsonl")) if beside.is_dir() else ():
            for _, row in _lines(file):
                known[row.get("question_id")] = row["choices"][0]["turns"]
        return [_example(row, known.get(row.get("question_id")), where) for where, row in _lines(questions)]

    def compare(self, asked: Asked) -> Comparison:
        """Both turns of each system, the second one behind its own first answer."""
        rows, judge = asked.rows, self._judge()
        said: dict[str, list[list[answering.Answer]]] = {}
        seconds: dict[str, float] = {}
        for name, engine in asked.engines.items():
            started = time.perf_counter()
            first = answering.put(engine, asked.template, rows, self.sampling)
            later = [_second(row, answer.text) for row, answer in zip(rows, first, strict=True)]
            said[name] = [first, answering.put(engine, asked.template, later, self.sampling)]
            seconds[name] = time.perf_counter() - started
        turns: list[dict[str, list[float | None]]] = [{}, {}]
        for name, both in said.items():
            for turn, own in enumerate(both):
                shown = [_shown(row, both[0][at].text, turn) for at, row in enumerate(rows)]
                pairs = [
                    (row, Response((Turn("assistant", answer.text),))) for row, answer in zip(shown, own, strict=True)
                ]
                turns[turn][name] = [_points(judge, worth) for worth in judge.many(pairs)]
        whole: dict[str, list[float | None]] = {
            name: [_middle(one, other) for one, other in zip(turns[0][name], turns[1][name], strict=True)]
            for name in said
        }
        found = [_verdict(label, values) for label, values in _labelled(whole, *turns)]
        return Comparison(
            task=asked.task.name,
            systems=tuple(said),
            scores=tested(verdict.score(asked.seed, list(range(len(rows)))) for verdict in found),
            samples=tuple(_sample(at, row, said, found) for at, row in enumerate(rows)),
            seconds=seconds,
            cut={name: sum(answer.cut for both in own for answer in both) for name, own in said.items()},
            remarks=_unread(turns),
            parts=parts(found[0], rows),
        )

    def _judge(self) -> Metric:
        if self.by.name != "judge":
            return built(self.by)
        usual: dict[str, Any] = {} if self.by.args.get("reads") == "tokens" else {"scale": [1, 10]}
        return built(Plugin(name="judge", args={**usual, **self.by.args, "against": "scale"}))


def _lines(file: Path) -> list[tuple[Source, dict[str, Any]]]:
    found = []
    try:
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), 1):
            if line.strip():
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError("it is no object")
                found.append((Source(str(file), number), row))
    except FileNotFoundError:
        raise LuthierError("MT-Bench: this file is not there", where=str(file), fix="mend `path:`") from None
    except ValueError as error:
        what = f"MT-Bench: line {len(found) + 1} is no JSON object: {error}"
        raise LuthierError(what, where=str(file), fix="take the published file") from error
    return found


def _example(row: Mapping[str, Any], known: Sequence[str] | None, where: Source) -> Example:
    turns = row.get("turns")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, str) and turn for turn in turns):
        what = "MT-Bench: a question has two `turns`, and this one has not"
        raise LuthierError(what, where=str(where), fix="take the published file")
    meta = {"second": turns[1], "known": tuple(known or ()), "subject": str(row.get("category", ""))}
    return Example((Turn("user", turns[0]),), source=where, meta=meta)


def _second(row: Example, said: str) -> Example:
    """The conversation so far, and the second question."""
    return replace(row, prompt=(*row.prompt, Turn("assistant", said), Turn("user", row.meta["second"])))


def _shown(row: Example, first: str, turn: int) -> Example:
    """What the judge is shown before the answer, with the right one where it is known."""
    known = row.meta["known"]
    return replace(_second(row, first) if turn else row, answer=known[turn] if len(known) > turn else None)


def _points(judge: Metric, worth: float | None) -> float | None:
    """From between 0 and 1 to between the ends of the scale, as 1 to 10."""
    if worth is None or not isinstance(judge, Judge):
        return worth
    return 1 + 9 * worth


def _middle(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else (one + other) / 2


def _labelled(whole: Scores, first: Scores, second: Scores) -> list[tuple[str, Scores]]:
    return [("points of 10", whole), ("first turn", first), ("second turn", second)]


def _verdict(label: str, values: Scores) -> Verdict:
    statistics: dict[str, list[Statistics]] = {
        name: [None if one is None else (one, 1.0) for one in each] for name, each in values.items()
    }
    return Verdict(label, Points(), statistics)


def _unread(turns: Sequence[Scores]) -> tuple[str, ...]:
    found = []
    for name in turns[0]:
        both = [one for turn in turns for one in turn[name]]
        lost = sum(one is None for one in both)
        if lost:
            found.append(f"{name}: {lost} of {len(both)} judgements could not be read")
    return tuple(found)


def _sample(
    at: int, row: Example, said: Mapping[str, Sequence[Sequence[answering.Answer]]], found: Sequence[Verdict]
) -> Sample:
    shown = {}
    for name, (first, second) in said.items():
        text = f"{first[at].text}\n\n→ {row.meta['second']}\n\n{second[at].text}"
        cut = "length" if first[at].cut or second[at].cut else "stop"
        shown[name] = Shown(text, cut, {verdict.label: verdict.of_row(name, at) for verdict in found})
    return Sample(row, "\n\n".join(row.meta["known"]) or None, shown)
