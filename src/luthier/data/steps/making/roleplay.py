"""Conversations between two roles, both played by the model: after CAMEL (arXiv:2303.17760)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.data.steps.making.evolve import whole_answer
from luthier.data.steps.making.maker import OTHER, Fault, Made, Maker, Question, Task, asked, task
from luthier.data.steps.making.overlap import rouge_l, units
from luthier.data.steps.making.prompts import Language, Prompt, phrase, prompt
from luthier.data.steps.tools import Tools
from luthier.types import Example, Turn

END = re.compile(r"[<\[(＜【]?\s*DONE\s*[>\])＞】]?[.。!！]*", re.IGNORECASE)
REPEATED = 0.9
"""ROUGE-L from which on a role says again what was said."""
THANKS = re.compile(r"thank|goodbye|bye\b|you(?:'|’)?re welcome|my pleasure|谢谢|感谢|再见|不客气", re.IGNORECASE)
FEW = 12
"""Words of a turn that only says thanks."""


@dataclass
class Talk:
    """A conversation under way: what the one role said, and what the other answered."""

    example: Example
    task: Task
    made: Made
    said: list[tuple[str, str]] = field(default_factory=list)
    step: str = ""
    ended: bool = False


@dataclass(frozen=True)
class Roleplay(Maker):
    """Makes of each question a conversation: one role brings the task and tells the next step, the other one does it,
    until the first says that it is done, both only thank each other, somebody repeats himself, or `turns` are used
    up."""

    called: ClassVar[str] = "roleplay"

    user: str | None = None
    """Who asks: a baker, 一位病人. Default: a person who wants help."""
    assistant: str | None = None
    """Who answers. Default: an assistant who knows the field."""
    turns: Annotated[int, Field(gt=0)] = 6
    """The most questions of a conversation."""
    least: Annotated[int, Field(gt=0)] = 2
    """Shorter ones make no row."""

    def __post_init__(self) -> None:
        if self.least > self.turns:
            raise ValueError(f"no conversation has {self.least} turns (least) of at most {self.turns} (turns)")

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made, talks = [Made() for _ in batch], []
        for row, each in zip(batch, made, strict=True):
            found = task(row)
            if found is None:
                each.notes.append(OTHER)
                each.passes = True
            else:
                talks.append(Talk(row, found, each))
        for number in range(self.turns + 1):
            self._spoken([talk for talk in talks if not talk.ended], number, tools)
            self._answered([talk for talk in talks if not talk.ended], number, tools)
        for talk in talks:
            self._end(talk)
        return made

    def _spoken(self, talks: Sequence[Talk], number: int, tools: Tools) -> None:
        """The one role's next step."""
        if number == self.turns:
            for talk in talks:
                self._stop(talk, "its turns were used up")
            return
        questions = [self._step(talk, number) for talk in talks]
        for talk, said in zip(talks, self.ask(questions, tools), strict=True):
            if isinstance(said, Fault):
                self._stop(talk, f"a step: {said.why}")
            elif END.search(said) and len(units(END.sub("", said))) < FEW:
                self._stop(talk, "it was done")
            elif _again(said, [step for step, _ in talk.said]):
                self._stop(talk, "a step was said again")
            else:
                talk.step = END.sub("", said).strip() if "<DONE>" in said else said

    def _answered(self, talks: Sequence[Talk], number: int, tools: Tools) -> None:
        """The other role's answer."""
        questions = [self._answer(talk, number) for talk in talks]
        for talk, said in zip(talks, self.ask(questions, tools), strict=True):
            if isinstance(said, Fault):
                self._stop(talk, f"an answer: {said.why}")
            elif _thanks(said) and _thanks(talk.step):
                self._stop(talk, "both said thanks")
            elif _again(said, [talk.step, *(answer for _, answer in talk.said)]):
                self._stop(talk, "an answer was said again")
            else:
                talk.said.append((talk.step, said))

    def _stop(self, talk: Talk, why: str) -> None:
        talk.ended = True
        talk.made.notes.append(f"a conversation ended: {why}")

    def _roles(self, tongue: Language) -> dict[str, str]:
        return {
            "user": self.user or str(phrase("roleplay.as_user", tongue)),
            "assistant": self.assistant or str(phrase("roleplay.as_assistant", tongue)),
        }

    def _step(self, talk: Talk, number: int) -> Question[str]:
        """The first role's turns are the model's own here, the answers are what it is told."""
        tongue = self.tongue(talk.task.question)
        made = prompt("roleplay.user", tongue, task=talk.task.question, **self._roles(tongue))
        told = [made.text, *(answer for _, answer in talk.said)]
        before = [
            turn for text, (step, _) in zip(told, talk.said, strict=False)
            for turn in (Turn("user", text), Turn("assistant", step))
        ]  # fmt: skip
        return Question(talk.example, Prompt(told[-1], made.name), whole_answer, str(number), tuple(before))

    def _answer(self, talk: Talk, number: int) -> Question[str]:
        tongue = self.tongue(talk.task.question)
        first = talk.said[0][0] if talk.said else talk.step
        made = prompt("roleplay.assistant", tongue, task=talk.task.question, text=first, **self._roles(tongue))
        told = [made.text, *(step for step, _ in talk.said[1:]), *([talk.step] if talk.said else [])]
        before = [
            turn for text, (_, answer) in zip(told, talk.said, strict=False)
            for turn in (Turn("user", text), Turn("assistant", answer))
        ]  # fmt: skip
        return Question(talk.example, Prompt(told[-1], made.name), whole_answer, str(number), tuple(before))

    def _end(self, talk: Talk) -> None:
        if len(talk.said) < self.least:
            talk.made.notes.append(f"a conversation has fewer than {self.least} turns")
            return
        tongue = self.tongue(talk.task.question)
        *earlier, (step, answer) = talk.said
        turns = [turn for a, b in earlier for turn in (Turn("user", a), Turn("assistant", b))]
        how = prompt("roleplay.user", tongue, task="", **self._roles(tongue))
        roles = self._roles(tongue)
        talk.made.rows.append(
            self.row(talk.example, asked((*talk.task.before, *turns), step), answer, how, roles=roles)
        )


def _thanks(text: str) -> bool:
    return len(units(text)) < FEW and THANKS.search(text) is not None


def _again(text: str, earlier: Sequence[str]) -> bool:
    said = units(text)
    return any(rouge_l(said, units(other)) >= REPEATED for other in earlier)
