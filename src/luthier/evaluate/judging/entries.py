"""Entries of `evaluate:` that a judge decides: win rates against the base, another model or answers in a file."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Asked, Benchmark, Item, Tell
from luthier.evaluate.comparison import Answer as Shown
from luthier.evaluate.comparison import Comparison, Sample, Score, tested
from luthier.evaluate.intervals.rates import Estimate
from luthier.evaluate.judging import answers as answering
from luthier.evaluate.judging.contest import Meeting, held, placed
from luthier.evaluate.judging.contestants import BASE, contestant
from luthier.evaluate.judging.win_rate import WinRate, summed
from luthier.evaluate.verdicts import Statistics, Verdict
from luthier.recipe.schema import Float, Int, Plugin, PluginField, Source
from luthier.scorers.building import built
from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response, Sampling

OWN = "answers"
"""The answers that stand in the rows themselves."""


@dataclass(frozen=True)
class Share(Metric):
    """The share of the wins: the mean over rows of 1, ½ and 0, which a contest has said."""

    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        return None  # it takes two


@dataclass(frozen=True)
class Judged(Benchmark):
    """What all entries have that a judge decides."""

    by: PluginField = field(default=Plugin(name="judge"), hash=False)
    """Who judges: {judge: {model: …}}, {judge: {engine: {openai: {url: …, model: …}}}}, a reward model, any scorer."""
    max_new_tokens: Annotated[Int, Field(gt=0)] = 512
    """The longest answer, in tokens."""
    temperature: Annotated[Float, Field(ge=0)] = 0.0
    """0 is greedy."""
    template: bool = True
    """Always: what is judged are answers to messages."""

    def __post_init__(self) -> None:
        if not self.template:
            what = f"{self.title}: a judge reads answers to messages, which go through the chat template"
            raise LuthierError(what, where="template", fix="leave `template` out")

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.max_new_tokens, temperature=self.temperature, seed=self.seed)

    def metrics(self) -> dict[str, Metric]:
        """Who judges."""
        return {self.by.name: built(self.by)}

    @abstractmethod
    def examples(self, tell: Tell) -> list[Example]:
        """The prompts, with what stands beside them."""

    def items(self, tell: Tell) -> list[Item]:
        return [
            Item(
                row.prompt[-1].text if row.prompt else "",
                row.answer or "",
                subject=str(row.meta.get("subject", "")),
                source=row.source,
                meta={"row": row},
            )
            for row in self.examples(tell)
        ]

    def _row(self, item: Item) -> Example:
        row = item.meta["row"]
        assert isinstance(row, Example)
        return row


@dataclass(frozen=True)
class WinRateOf(Judged):
    """How often the model's answers win against those of its base, of another model or run, or in a file; each two are
    judged in both orders, and a win counts where both agree."""

    title: ClassVar[str] = "Win rate"
    paper: ClassVar[str] = ""
    even: ClassVar[bool] = False
    """Is the headline the rate at equal lengths?"""
    against: str = BASE
    """base, a run folder, a model, a file with prompts and answers (`instruction`, `output`), or `answers`: those of
    the rows themselves."""

    def examples(self, tell: Tell) -> list[Example]:
        from luthier.data import Ledger, read

        if self.path is None:
            raise LuthierError(f"{self.title} needs prompts", where="path", fix="name a file of rows: `path: …`")
        ledger = Ledger()
        rows = list(read((Source(path=self.path),), ledger))
        for reason, lost in ledger.main_reasons():
            tell(f"{lost.count:,} of {ledger.rows_read:,} rows are left out: {reason} ({', '.join(lost.rows[:3])})")
        rows = [row for row in rows if row.prompt]
        if self.against == OWN and (lacking := next((row for row in rows if not row.responses), None)) is not None:
            raise LuthierError("the row has no answer to win against", where=str(lacking.source), fix="give it one")
        return rows

    def compare(self, asked: Asked) -> Comparison:
        """Each system against the opponent; the base among them against itself is one half."""
        rows, started = asked.rows, time.perf_counter()
        said = {name: answering.put(one, asked.template, rows, self.sampling) for name, one in asked.engines.items()}
        seconds = {name: (time.perf_counter() - started) / len(said) for name in said}
        opponent = self._opponent(rows, said)
        by = built(self.by)
        rates: dict[str, WinRate] = {}
        won: dict[str, list[float | None]] = {}
        for name, own in said.items():
            if self.against == BASE and name == BASE:
                won[name] = [0.5] * len(rows)
                continue
            met = [
                Meeting(answering.question(row), _bare(row), (name, mine.text), (self.against, theirs))
                for row, mine, theirs in zip(rows, own, opponent, strict=True)
            ]
            bouts = held(by, met)
            won[name] = [bout.won for bout in bouts]
            rates[name] = summed(bouts, placed=placed(by), seed=asked.seed, note=_own(self.by, self.against))
        return Comparison(
            task=asked.task.name,
            systems=tuple(said),
            scores=self._scores(won, rates, asked.seed),
            samples=tuple(self._sample(place, row, said, won, opponent) for place, row in enumerate(rows)),
            seconds=seconds,
            cut={name: sum(answer.cut for answer in own) for name, own in said.items()},
            remarks=tuple(f"{name}: {line}" for name, rate in rates.items() for line in rate.lines()),
        )

    def _opponent(self, rows: Sequence[Example], said: Mapping[str, Sequence[answering.Answer]]) -> list[str]:
        if self.against == OWN:
            return [text(row.responses[0]).strip() for row in rows]
        if self.against == BASE:
            if BASE not in said:
                raise LuthierError("`against: base`, and the base is not asked", where="base", fix="set base: true")
            return [answer.text for answer in said[BASE]]
        found = contestant(self.against).answers(rows, self.sampling, lambda _: None)
        return [answer.text for answer in found]

    def _scores(
        self, won: Mapping[str, Sequence[float | None]], rates: Mapping[str, WinRate], seed: int
    ) -> tuple[Score, ...]:
        rows = len(next(iter(won.values())))
        statistics: dict[str, list[Statistics]] = {
            name: [None if one is None else (one, 1.0) for one in each] for name, each in won.items()
        }
        raw = Verdict(f"win rate against {self.against}", Share(), statistics).score(seed, list(range(rows)))
        if any(rate.bias.unusable for rate in rates.values()):  # then the difference is none that could be sure
            bare = {name: Estimate(one.value) for name, one in raw.difference.items()}
            raw = Score(**{**vars(raw), "difference": bare})
        even = {name: rates[name].lengths.rate if name in rates else Estimate(0.5) for name in won}
        alike = Score(
            f"win rate against {self.against} at equal lengths", True, (0.0, 1.0), raw.rows, raw.unscored, raw.prompts,
            even, {name: Estimate(even[name].value - next(iter(even.values())).value) for name in raw.difference},
        )  # fmt: skip
        return tested((alike, raw) if self.even else (raw, alike))

    def _sample(
        self,
        place: int,
        row: Example,
        said: Mapping[str, Sequence[answering.Answer]],
        won: Mapping[str, Sequence[float | None]],
        opponent: Sequence[str],
    ) -> Sample:
        label = f"win rate against {self.against}"
        shown = {
            name: Shown(own[place].text, "length" if own[place].cut else "stop", {label: won[name][place]})
            for name, own in said.items()
        }
        return Sample(row, opponent[place] if self.against != BASE else row.answer, shown)


@dataclass(frozen=True)
class AlpacaEval(WinRateOf):
    """Win rate against the answers of a baseline model over its own instructions, at equal lengths: `path` is a file of
    `instruction` and `output`."""

    title: ClassVar[str] = "AlpacaEval"
    paper: ClassVar[str] = ""
    even: ClassVar[bool] = True
    against: str = OWN
    """`answers`: those of the rows themselves; or, as for `win_rate`, base, a run, a model or a file."""


@dataclass(frozen=True)
class ArenaHard(WinRateOf):
    """Win rate against the answers of a fixed baseline model over hard prompts: `path` is a file of `instruction` and
    `output`."""

    title: ClassVar[str] = "Arena-Hard"
    paper: ClassVar[str] = ""
    against: str = OWN
    """`answers`: those of the rows themselves; or, as for `win_rate`, base, a run, a model or a file."""


def _bare(row: Example) -> Example:
    """What the judge is shown of a row: not the answers that stand in it, unless one is known to be right."""
    return Example(row.prompt, answer=row.answer if row.answer and not row.responses else None, source=row.source)


def _own(by: Plugin, against: str) -> str | None:
    """A judge that is itself one of the two."""
    model = by.args.get("model")
    if model is not None and str(model) == against:
        return f"the judge is {against} itself: models tend to prefer their own answers"
    return None
