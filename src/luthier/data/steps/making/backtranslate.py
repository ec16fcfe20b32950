"""Questions to answers that people have written: instruction back-translation (arXiv:2308.06259)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.data.steps.making import reading
from luthier.data.steps.making.maker import NO_DOCUMENT, Fault, Made, Maker, Question, document, whole
from luthier.data.steps.making.overlap import rouge_l, units
from luthier.data.steps.making.prompts import Prompt, fenced, prompt
from luthier.data.steps.tools import Tools
from luthier.types import Example, Turn

COPIED = 0.7
"""ROUGE-L from which on a question is the text itself."""


@dataclass
class Text:
    """A text on its way through the rounds."""

    example: Example
    text: str
    made: Made
    done: bool = False


@dataclass(frozen=True)
class Backtranslate(Maker):
    """Makes of each plain text a row: a model writes the question that it answers, and then gives the two a score from
    1 to 5; those of at least `keep` stay. To iterate as the paper does, train on what was kept and name that run as
    `model`."""

    called: ClassVar[str] = "backtranslate"
    selects: ClassVar[bool] = True

    keep: Annotated[float, Field(ge=1, le=5)] = 4
    """The least score."""
    rounds: Annotated[int, Field(gt=0)] = 1
    """How many questions are tried at most: a text whose question scored too low gets another one."""
    originals: bool = False
    """Keep the plain texts, too."""

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made, texts = [Made() for _ in batch], []
        for row, each in zip(batch, made, strict=True):
            text = document(row)
            if text is None:
                each.notes.append(NO_DOCUMENT)
                each.passes = True
            else:
                texts.append(Text(row, text, each))
        for number in range(self.rounds):
            left = [one for one in texts if not one.done]
            if left:
                self._round(left, number, tools)
        return made

    def _round(self, texts: Sequence[Text], number: int, tools: Tools) -> None:
        questions: list[Question[str]] = []
        for one in texts:
            made = prompt("backtranslate.write", self.tongue(one.text), text=fenced(one.text))
            questions.append(Question(one.example, made, whole, str(number)))
        written: list[tuple[Text, Prompt, str]] = []
        for one, question, said in zip(texts, questions, self.ask(questions, tools), strict=True):
            why = said.why if isinstance(said, Fault) else self._fault(one.text, said)
            if why:
                one.made.fault("a question", why)
            else:
                written.append((one, question.prompt, said))
        self._score(written, number, tools)

    def _fault(self, text: str, said: str) -> str | None:
        if "<text " in said or "</text " in said:
            return "it quotes the marks"
        if said in text or rouge_l(units(said), units(text)) >= COPIED:
            return "it is copied from the text"
        return None

    def _score(self, written: Sequence[tuple[Text, Prompt, str]], number: int, tools: Tools) -> None:
        questions: list[Question[float]] = []
        for one, _, said in written:
            quoted = {"question": fenced(said), "answer": fenced(one.text)}
            made = prompt("backtranslate.score", self.tongue(one.text), **quoted)
            questions.append(Question(one.example, made, partial(reading.score, low=1, high=5), str(number)))
        for (one, how, said), score in zip(written, self.ask(questions, tools), strict=True):
            if isinstance(score, Fault):
                one.made.fault("a score", score.why)
            elif score < self.keep:
                one.made.fault("a question", f"it scores less than {self.keep:g}")
            else:
                one.done = True
                one.made.rows.append(
                    self.row(one.example, (Turn("user", said),), one.text.strip(), how, score=score, round=number + 1)
                )
