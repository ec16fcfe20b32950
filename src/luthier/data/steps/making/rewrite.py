"""The same in other words, by a model: another style or tone, a question with its story, a way through other
languages."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field

from luthier.data.steps.making.maker import OTHER, Fault, Made, Maker, Question, Task, asked, task, whole
from luthier.data.steps.making.overlap import numbers, rouge_l, units
from luthier.data.steps.making.prompts import Language, Prompt, fenced, phrase, prompt
from luthier.data.steps.tools import Tools
from luthier.types import Example

SAME = 0.98
"""ROUGE-L from which on nothing was rewritten."""
Part = Literal["question", "answer"]


@dataclass
class Piece:
    """A text of a row that is written anew."""

    example: Example
    task: Task
    made: Made
    text: str


@dataclass(frozen=True)
class Anew(Maker):
    """What both have in common: a text of each row that is written anew and held against the old one."""

    longest: ClassVar[float] = 4.0
    """So many times as long, or as short, the new text may be."""

    of_: ClassVar[Part] = "question"

    def part(self) -> Part:
        """Which text."""
        return self.of_

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        made, pieces = [Made() for _ in batch], []
        for row, each in zip(batch, made, strict=True):
            found = task(row)
            text = None if found is None else found.question if self.part() == "question" else found.answer
            if found is None or text is None:
                each.notes.append(OTHER)
                each.passes = True
            else:
                pieces.append(Piece(row, found, each, text))
        for piece, (how, said) in zip(pieces, self.written(pieces, tools), strict=True):
            why = said.why if isinstance(said, Fault) else self.fault(piece.text, said)
            if why:
                piece.made.fault("a text", why)
            else:
                piece.made.rows.append(self._row(piece, how, str(said)))
        return made

    @abstractmethod
    def written(self, pieces: Sequence[Piece], tools: Tools) -> list[tuple[Prompt, str | Fault]]:
        """Each piece anew, with the prompt that it was asked for by."""

    def fault(self, old: str, new: str) -> str | None:
        """What the rules have against a new text."""
        before, after = units(old), units(new)
        if "<text " in new or "</text " in new:
            return "it quotes the marks"
        if not self.same_numbers(numbers(old), numbers(new)):
            return "its figures are others"
        if rouge_l(before, after) >= SAME:
            return "it says the same words"
        if not 1 / self.longest <= (len(after) + 1) / (len(before) + 1) <= self.longest:
            return "it is much longer or shorter"
        return None

    def same_numbers(self, old: Sequence[str], new: Sequence[str]) -> bool:
        """Does the new text keep the figures of the old one?"""
        return list(old) == list(new)

    def _row(self, piece: Piece, how: Prompt, said: str) -> Example:
        """The row with the new text; all else of it stays."""
        one, example = piece.task, piece.example
        history = self.history(example, how, of=self.part())
        if self.part() == "question":
            return replace(example, prompt=asked(one.before, said), meta={**example.meta, **history}, responses=tuple(
                replace(each, ids=None, logp=None) for each in example.responses
            ))  # fmt: skip
        (answer,) = example.responses
        turns = (replace(answer.turns[0], text=said),)
        responses = (replace(answer, turns=turns, ids=None, logp=None, reward=None),)
        return replace(example, responses=responses, meta={**example.meta, **history})


@dataclass(frozen=True)
class Rewrite(Anew):
    """Makes of each row another one that says the same in another style or tone, or whose question comes with a story.
    Figures must stay."""

    called: ClassVar[str] = "rewrite"

    style: str | None = None
    """In words: formal, for children, a letter, …"""
    tone: str | None = None
    """In words: friendly, brisk, …"""
    context: bool = False
    """Let the question begin with who asks and why; only of a question."""
    text: Part | None = None
    """What is written anew. Default: the answer; with `context` the question."""

    def __post_init__(self) -> None:
        if self.style is None and self.tone is None and not self.context:
            raise ValueError("nothing says how to write: give style, tone or context")
        if self.context and self.text == "answer":
            raise ValueError("`context` is added to questions: leave out `text`, or set it to question")

    def part(self) -> Part:
        return self.text or ("question" if self.context else "answer")

    def written(self, pieces: Sequence[Piece], tools: Tools) -> list[tuple[Prompt, str | Fault]]:
        questions: list[Question[str]] = []
        for piece in pieces:
            tongue = self.tongue(piece.text)
            made = prompt(f"rewrite.{self.part()}", tongue, how=self._how(tongue), text=fenced(piece.text))
            questions.append(Question(piece.example, made, whole))
        said = self.ask(questions, tools)
        return [(question.prompt, answer) for question, answer in zip(questions, said, strict=True)]

    def _how(self, tongue: Language) -> str:
        told = [
            str(phrase(f"rewrite.{key}", tongue)).format(value=value)
            for key, value in (("style", self.style), ("tone", self.tone))
            if value is not None
        ]
        if self.context:
            told.append(str(phrase("rewrite.context", tongue)))
        return " ".join(told)

    def same_numbers(self, old: Sequence[str], new: Sequence[str]) -> bool:
        """A story may bring figures of its own."""
        return not Counter(old) - Counter(new) if self.context else list(old) == list(new)


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True)
class RoundTrip(Anew):
    """Makes of each row another one whose question (or answer) was translated into other languages and back. Figures
    must stay."""

    called: ClassVar[str] = "round_trip"
    longest: ClassVar[float] = 2.0

    through: Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] = ("German",)
    """The languages on the way, as the model is told them."""
    text: Part = "question"
    """What is translated."""

    def part(self) -> Part:
        return self.text

    def written(self, pieces: Sequence[Piece], tools: Tools) -> list[tuple[Prompt, str | Fault]]:
        found: list[tuple[Prompt, str | Fault]] = [(Prompt("", ""), piece.text) for piece in pieces]
        for number in range(len(self.through) + 1):
            left, questions = [], list[Question[str]]()
            for place, piece in enumerate(pieces):
                said, tongue = found[place][1], self.tongue(piece.text)
                if isinstance(said, str):
                    home = str(phrase("round_trip.home", tongue))
                    target = self.through[number] if number < len(self.through) else home
                    made = prompt("round_trip.translate", tongue, target=target, text=fenced(said))
                    questions.append(Question(piece.example, made, whole, str(number)))
                    left.append(place)
            for place, question, said in zip(left, questions, self.ask(questions, tools), strict=True):
                found[place] = question.prompt, said
        return found
