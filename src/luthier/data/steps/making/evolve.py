"""Harder and rarer questions out of those there are: Evol-Instruct (arXiv:2304.12244)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from luthier.data.steps.making import reading
from luthier.data.steps.making.maker import OTHER, Fault, Made, Maker, Question, Task, asked, task, whole
from luthier.data.steps.making.overlap import rouge_l, units
from luthier.data.steps.making.prompts import Language, Prompt, fenced, phrase, prompt
from luthier.data.steps.tools import Tools
from luthier.recipe.keys import listed
from luthier.types import Example

Operation = Literal["deepen", "constrain", "concretise", "reason", "complicate", "broaden"]
OPERATIONS: tuple[Operation, ...] = ("deepen", "constrain", "concretise", "reason", "complicate", "broaden")
TONGUES: tuple[Language, ...] = ("en", "zh")
SAME = 0.95
"""ROUGE-L from which on two questions are one, without asking a model."""
SHORT = 80
"""Words of an answer that says sorry and nothing else (the paper's rule)."""
SORRY = re.compile(r"\bsorry\b|抱歉|对不起", re.IGNORECASE)
STOP = frozenset(
    set("a an the and or of to in on at is are was be it this that i you we they he she yes no not with for as".split())  # noqa: SIM905
    | {*"的了是在我你他她它和与也都就不有这那吧呢吗啊"}
)
"""Words that alone say nothing."""


@dataclass
class Line:
    """A row's question on its way through the rounds."""

    example: Example
    task: Task
    made: Made
    question: str


@dataclass(frozen=True)
class Evolve(Maker):
    """Makes of each question a harder or a rarer one, and has it answered, as often as there are `rounds`. What adds
    nothing, quotes its orders, or cannot be answered is left out; the next round then begins with what there was."""

    called: ClassVar[str] = "evolve"

    rounds: Annotated[int, Field(gt=0)] = 1
    """So often; each accepted question is a row, and the next round begins with it."""
    operations: Annotated[tuple[Operation, ...], BeforeValidator(listed), Field(min_length=1)] = OPERATIONS
    """What may be done with a question; one of them is drawn."""
    compare: bool = True
    """Ask whether the new question asks for the same as the old one. false: tell by their words alone."""
    words: Annotated[int, Field(gt=0)] = 20
    """By how many words a question may grow; in Chinese, signs."""

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made = [Made() for _ in batch]
        lines = []
        for row, each in zip(batch, made, strict=True):
            found = task(row)
            if found is None:
                each.notes.append(OTHER)
                each.passes = True
            else:
                lines.append(Line(row, found, each, found.question))
        for number in range(self.rounds):
            self._round(lines, number, tools)
        return made

    def _round(self, lines: Sequence[Line], number: int, tools: Tools) -> None:
        questions = [self._question(line, number, tools) for line in lines]
        found = self.ask(questions, tools)
        left = []
        for line, question, said in zip(lines, questions, found, strict=True):
            why = said.why if isinstance(said, Fault) else self._fault(line, said)
            if why:
                line.made.fault("a question", why)
            else:
                left.append((line, question.prompt, said))
        left = self._others(left, number, tools)
        answers = self.ask([self._answer(line, said, number) for line, _, said in left], tools)
        for (line, how, said), answer in zip(left, answers, strict=True):
            why = answer.why if isinstance(answer, Fault) else hardly_answers(answer)
            if why:
                line.made.fault("an answer", why)
                continue
            line.question = said
            line.made.rows.append(self.row(line.example, asked(line.task.before, said), answer, how, round=number + 1))

    def _question(self, line: Line, number: int, tools: Tools) -> Question[str]:
        tongue = self.tongue(line.question)
        operation = tools.chance(line.example, f"evolve {number}").choice(self.operations)
        told = prompt(f"evolve.{operation}", tongue)
        made = prompt("evolve.frame", tongue, operation=told.text, words=str(self.words), text=fenced(line.question))
        return Question(line.example, Prompt(made.text, f"{told.name} in {made.name}"), whole, str(number))

    def _fault(self, line: Line, said: str) -> str | None:
        """What the rules have against a new question."""
        leaks = [word for tongue in TONGUES for word in phrase("evolve.leaks", tongue)]
        if any(word in said.lower() and word not in line.question.lower() for word in leaks):
            return "it speaks of its orders"
        if "<text " in said or "</text " in said:
            return "it quotes the marks"
        if rouge_l(units(said), units(line.question)) >= SAME:
            return "it asks for the same"
        return None

    def _others(
        self, found: Sequence[tuple[Line, Prompt, str]], number: int, tools: Tools
    ) -> list[tuple[Line, Prompt, str]]:
        """Those that a model finds to ask for something else than before."""
        if not self.compare:
            return list(found)
        questions = []
        for line, _, said in found:
            tongue = self.tongue(said)
            made = prompt("evolve.compare", tongue, first=fenced(line.question), second=fenced(said))
            questions.append(Question(line.example, made, partial(reading.yes, language=tongue), str(number)))
        kept = []
        for one, same in zip(found, self.ask(questions, tools), strict=True):
            if isinstance(same, Fault):
                one[0].made.fault("a comparison", same.why)
            elif same:
                one[0].made.fault("a question", "it asks for the same")
            else:
                kept.append(one)
        return kept

    def _answer(self, line: Line, said: str, number: int) -> Question[str]:
        made = prompt("evolve.answer", self.tongue(said), text=said)
        return Question(line.example, made, whole_answer, str(number), line.task.before)


def whole_answer(text: str) -> str | None:
    """An answer as it stands."""
    return text or None


def hardly_answers(text: str) -> str | None:
    """What the paper's rules have against an answer."""
    said = units(text)
    if SORRY.search(text) and len(said) < SHORT:
        return "it is sorry, and says little else"
    if not any(unit not in STOP for unit in said if any(map(str.isalnum, unit))):
        return "it has no word that says something"
    return None
