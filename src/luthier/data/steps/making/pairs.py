"""Preference pairs: several answers to a question, the best and the worst of them by a judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field

from luthier.data.curation.lines import MADE
from luthier.data.steps.making import reading
from luthier.data.steps.making.evolve import whole_answer
from luthier.data.steps.making.maker import OTHER, Fault, Made, Maker, Question, Task, task
from luthier.data.steps.making.prompts import fenced, prompt
from luthier.data.steps.tools import Tools
from luthier.types import Example, Response, Scorer, Turn

By = str | dict[str, Any]


@dataclass
class Answered:
    """A question with its answers, and what they are worth."""

    example: Example
    task: Task
    made: Made
    answers: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def ends(self) -> tuple[int, int]:
        """The best and the worst; of equal ones the first."""
        places = range(len(self.scores))
        return max(places, key=lambda i: (self.scores[i], -i)), min(places, key=lambda i: (self.scores[i], i))


@dataclass(frozen=True)
class Pairs(Maker):
    """Makes of each question a pair: it is answered `samples` times, each answer gets a score, and the best and the
    worst are a row. A model that judges must also prefer the best in both orders. An answer whose score cannot be read
    takes no part."""

    called: ClassVar[str] = "pairs"
    selects: ClassVar[bool] = True
    wants: ClassVar[frozenset[str]] = frozenset({"engine", "ask", "scorer"})
    judge: ClassVar[Scorer | None] = None

    samples: Annotated[int, Field(ge=2)] = 4
    """So many answers a question."""
    by: By | None = None
    """A scorer that says what answers are worth ({judge: {…}}, {reward_model: runs/judge}). Default: the model that
    answers, from 1 to 10."""
    gap: Annotated[float, Field(ge=0)] | None = None
    """By how much the scores differ at least. Default: 2 points of 10; with a scorer any difference."""
    confirm: bool = True
    """Ask which of the two is better, in both orders; only where no scorer is named."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """How freely is answered."""
    originals: bool = False
    """Keep the questions with the answers that they had, too."""

    def ready(self, tools: Tools) -> Self:
        made = super().ready(tools)
        if self.by is None:
            return made
        name, keys = (self.by, {}) if isinstance(self.by, str) else next(iter(self.by.items()))
        return made.holding(judge=tools.scorer((name, keys if isinstance(keys, dict) else {"": keys})))

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made, found = [Made() for _ in batch], []
        for row, each in zip(batch, made, strict=True):
            one = task(row)
            if one is None:
                each.notes.append(OTHER)
                each.passes = True
            else:
                found.append(Answered(row, one, each))
        self._answer(found, tools)
        left = [one for one in found if self._enough(one)]
        self._score(left, tools)
        self._decide([one for one in left if self._apart(one)], tools)
        return made

    def _answer(self, found: Sequence[Answered], tools: Tools) -> None:
        questions: list[Question[str]] = []
        for one in found:
            made = prompt("pairs.answer", self.tongue(one.task.question), text=one.task.question)
            questions += [
                Question(one.example, made, whole_answer, str(number), one.task.before)
                for number in range(self.samples)
            ]
        said = self.ask(questions, tools)
        for place, one in enumerate(found):
            for answer in said[place * self.samples : (place + 1) * self.samples]:
                if isinstance(answer, Fault):
                    one.made.fault("an answer", answer.why)
                elif answer not in one.answers:
                    one.answers.append(answer)

    def _enough(self, one: Answered) -> bool:
        if len(one.answers) < 2:
            one.made.notes.append("there are no two answers to compare")
        return len(one.answers) >= 2

    def _score(self, found: Sequence[Answered], tools: Tools) -> None:
        """What each answer is worth; those of which it is not known go."""
        if self.judge is not None:
            for one in found:
                values = [self.judge(one.example, _response(answer)) for answer in one.answers]
                self._known(one, [Fault("there is none") if value is None else value for value in values])
            return
        questions: list[Question[float]] = []
        for one in found:
            for answer in one.answers:
                quoted = {"question": fenced(one.task.question), "answer": fenced(answer)}
                made = prompt("pairs.score", self.tongue(one.task.question), **quoted)
                questions.append(Question(one.example, made, partial(reading.score, low=1, high=10), answer))
        said = iter(self.ask(questions, tools))
        for one in found:
            self._known(one, [next(said) for _ in one.answers])

    def _known(self, one: Answered, values: Sequence[float | Fault]) -> None:
        kept = []
        for answer, value in zip(one.answers, values, strict=True):
            if isinstance(value, Fault):
                one.made.fault("a score", value.why)
            else:
                kept.append((answer, float(value)))
        one.answers, one.scores = [answer for answer, _ in kept], [value for _, value in kept]

    def _apart(self, one: Answered) -> bool:
        """Are there a better and a worse one?"""
        if len(one.scores) < 2:
            one.made.notes.append("there are no two answers to compare")
            return False
        gap = self.gap if self.gap is not None else 0.0 if self.by is not None else 2.0
        best, worst = one.ends()
        between = one.scores[best] - one.scores[worst]
        if between < gap or between == 0:
            one.made.notes.append("its answers are about equally good")
            return False
        return True

    def _decide(self, found: Sequence[Answered], tools: Tools) -> None:
        agreed: list[Any] = ["A", "B"] * len(found)
        compared = None
        if self.confirm and self.by is None:
            questions: list[Question[str]] = []
            for one in found:
                best, worst = (one.answers[place] for place in one.ends())
                for first, second in ((best, worst), (worst, best)):
                    quoted = {"question": one.task.question, "first": first, "second": second}
                    text = {name: fenced(said) for name, said in quoted.items()}
                    compared = prompt("pairs.compare", self.tongue(one.task.question), **text)
                    questions.append(Question(one.example, compared, reading.letter, first))
            agreed = self.ask(questions, tools)
        for place, one in enumerate(found):
            said = agreed[2 * place : 2 * place + 2]
            faults = [answer.why for answer in said if isinstance(answer, Fault)]
            if faults:
                one.made.fault("a comparison", faults[0])
            elif said != ["A", "B"]:
                one.made.notes.append("the judge does not prefer the better one in both orders")
            else:
                one.made.rows.append(self._pair(one))

    def _pair(self, one: Answered) -> Example:
        best, worst = one.ends()
        how = prompt("pairs.answer", self.tongue(one.task.question), text="")
        history = self.history(one.example, how)
        history[MADE] |= {"scores": [one.scores[best], one.scores[worst]], "of": len(one.scores)}
        responses = (_response(one.answers[best], 1.0), _response(one.answers[worst], 0.0))
        margin = one.scores[best] - one.scores[worst]
        return Example(one.example.prompt, responses, source=one.example.source, meta={"margin": margin, **history})


def _response(text: str, reward: float | None = None) -> Response:
    return Response((Turn("assistant", text),), reward)
