"""Questions and answers from documents, each answer found in its passage."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.data.steps.making import reading
from luthier.data.steps.making.maker import NO_DOCUMENT, Fault, Made, Maker, Question, document
from luthier.data.steps.making.overlap import alike, units
from luthier.data.steps.making.prompts import Prompt, fenced, prompt
from luthier.data.steps.tools import Tools
from luthier.types import Example, Turn

ALIKE = 0.7
"""ROUGE-L from which on two questions are one."""


@dataclass(frozen=True)
class Questions(Maker):
    """Makes of each plain text questions with answers that stand in it, word for word; an answer that does not is left
    out. The passage stays with the row, for whoever wants to check it. Long texts go through `chunk` before."""

    called: ClassVar[str] = "questions"

    count: Annotated[int, Field(gt=0)] = 3
    """So many questions a text."""
    passage: bool = False
    """The question comes with its passage: a row for reading. false: without it, a row for knowing."""
    originals: bool = False
    """Keep the plain texts, too."""

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made = [Made() for _ in batch]
        texts: list[tuple[Example, str, Made]] = []
        for row, each in zip(batch, made, strict=True):
            text = document(row)
            if text is None:
                each.notes.append(NO_DOCUMENT)
                each.passes = True
            else:
                texts.append((row, text, each))
        questions: list[Question[list[tuple[str, str]]]] = []
        for row, text, _ in texts:
            made_of = prompt("questions.write", self.tongue(text), count=str(self.count), text=fenced(text))
            questions.append(Question(row, made_of, reading.pairs))
        for (row, text, each), question, said in zip(texts, questions, self.ask(questions, tools), strict=True):
            if isinstance(said, Fault):
                each.fault("questions", said.why)
            else:
                self._checked(row, text, each, question.prompt, said)
        return made

    def _checked(self, row: Example, text: str, made: Made, how: Prompt, said: Sequence[tuple[str, str]]) -> None:
        known: list[list[str]] = []
        for question, answer in said[: self.count]:
            asked = units(question)
            if not stands_in(answer, text):
                made.fault("an answer", "it does not stand in the passage")
            elif stands_in(answer, question):
                made.fault("a question", "it says its own answer")
            elif alike(asked, known, ALIKE) is not None:
                made.fault("a question", "it asks for the same")
            else:
                known.append(asked)
                turn = Turn("user", self._turn(text, question))
                found = self.row(row, (turn,), answer, how, passage=text)
                made.rows.append(replace(found, answer=answer))

    def _turn(self, text: str, question: str) -> str:
        if not self.passage:
            return question
        return prompt("questions.given", self.tongue(text), passage=text.strip(), question=question).text


def stands_in(answer: str, passage: str) -> bool:
    """Do these words stand in the passage as whole words, whatever the case, the spaces and the marks at their ends?"""
    wanted, there = _bare(answer), _bare(passage)
    if not wanted:
        return False
    at = there.find(wanted)
    while at >= 0:
        before, after = there[at - 1 : at] if at else "", there[at + len(wanted) : at + len(wanted) + 1]
        if not (_joined(before, wanted[0]) or _joined(wanted[-1], after)):
            return True
        at = there.find(wanted, at + 1)
    return False


def _bare(text: str) -> str:
    """Lower case, one space where there are several, none beside Chinese signs, no marks at the ends."""
    text = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    kept = [
        char for i, char in enumerate(text)
        if char != " " or not any(side > "\u2e80" for side in (text[i - 1 : i], text[i + 1 : i + 2]))
    ]  # fmt: skip
    return "".join(kept).strip(" .,;:!?\"'“”‘’。，；：！？「」()[]*")


def _joined(a: str, b: str) -> bool:
    """Are these two signs of one word or number? Chinese has no words in writing."""
    return all(side.isalnum() and side < "\u2e80" for side in (a, b) if side) and bool(a and b)
