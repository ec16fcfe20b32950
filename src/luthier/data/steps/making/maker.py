"""What steps that make rows have in common: who is asked, how often, what is counted, and when there is enough."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Generic, Literal, Self, TypeVar

from pydantic import Field

from luthier.data.curation.lines import MADE
from luthier.data.steps.making import prompts
from luthier.data.steps.making.faults import EMPTY, LONG, UNREADABLE, fault_of
from luthier.data.steps.making.prompts import Language, Prompt
from luthier.data.steps.step import Dropped, MakeStep, Noted, Outcome
from luthier.data.steps.tools import Budget, Speaking, Tools
from luthier.types import RAW, Completion, Example, Request, Response, Sampling, Turn

T = TypeVar("T")
TRIES = 3
"""So often an answer is asked for that cannot be read."""
AT_ONCE = 64
"""Rows that are worked on together: enough to keep an engine busy, few enough not to ask for much too much."""
OTHER = "passed as it is: it is no single question with its answer"
ENOUGH = "enough rows were made"
NO_DOCUMENT = "passed as it is: it is no plain text"


@dataclass(frozen=True)
class Question(Generic[T]):
    """What is asked of a model about a row, and how its answer is read."""

    example: Example
    """Whose draw it is."""
    prompt: Prompt
    read: Callable[[str], T | None]
    """What the answer says; None where it is not in the form that was asked for."""
    draw: str = ""
    """Tells it from others about the row that have the same words."""
    before: tuple[Turn, ...] = ()
    """What was said earlier."""


@dataclass(frozen=True)
class Fault:
    """Why there is no answer."""

    why: str


@dataclass
class Made:
    """What comes of a row: rows, and what is counted of it."""

    rows: list[Example] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    passes: bool = False
    """It is of another kind: it passes as it is, whatever `originals` says."""

    def fault(self, what: str, why: str) -> None:
        """Something of it was not to be used. `what`: a question, an answer, a score."""
        self.notes.append(f"{what}: {why}")


@dataclass(frozen=True)
class Maker(MakeStep):
    """The keys of all steps that ask a model to make rows."""

    speaking: ClassVar[Speaking | None] = None
    called: ClassVar[str] = "make"
    """Its name, for draws, the journal and the history of rows."""
    selects: ClassVar[bool] = False
    """It keeps what is good enough: however little that is, it is no mistake."""

    model: str | None = None
    """Who is asked: an alias, a hub id, a folder or a run. Left out where `engine` is an endpoint that names it."""
    engine: str | dict[str, Any] = "local"
    """What answers as it: local, vllm, or an endpoint ({openai: {url: …, model: …}}), whose `concurrency` says how many
    calls are under way at a time."""
    budget: Budget = field(default_factory=Budget)
    """The most it may ask for: calls, tokens (generated), money (by `price`, or the endpoint's). Beyond it the run
    stops; what was answered is kept."""
    until: Annotated[int, Field(gt=0)] | None = None
    """So many made rows are enough: then nothing more is asked, and the rows that follow pass as they are, or go where
    `originals` do."""
    originals: bool = True
    """Keep the rows that others are made of."""
    language: Literal["auto", "en", "zh"] = "auto"
    """The language to ask in. auto: Chinese where the row is, else English."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """How freely is answered. Each answer is drawn by the row and the seed, so that it can be drawn again."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 1024
    """The longest answer; one that is cut off makes no row."""

    def identity(self) -> Any:
        return [prompts.digest(), None if self.speaking is None else self.speaking.identity]

    def ready(self, tools: Tools) -> Self:
        self.budget.priced(self.engine)
        return self.holding(speaking=tools.speaker((self.model or "", {"engine": self.engine})))

    @abstractmethod
    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        """What is made of each of these rows."""

    @property
    def drops_much(self) -> bool:  # type: ignore[override]
        """Where to leave most rows out is what it is for; and with enough made, the originals that are left go."""
        return not self.originals and (self.selects or self.until is not None)

    def make(self, rows: Iterator[Example], tools: Tools) -> Iterator[Outcome]:
        accepted = 0
        while self.until is None or accepted < self.until:
            batch = list(itertools.islice(rows, AT_ONCE if self.until is None else min(AT_ONCE, self.until - accepted)))
            if not batch:
                return
            for row, made in zip(batch, self.of(batch, tools), strict=True):
                kept = made.rows if self.until is None else made.rows[: self.until - accepted]
                accepted += len(kept)
                yield self._outcome(row, replace(made, rows=kept))
        yield from rows if self.originals else (Dropped(ENOUGH) for _ in rows)

    def _outcome(self, row: Example, made: Made) -> Outcome:
        rows = (row, *made.rows) if self.originals or made.passes else tuple(made.rows)
        if not rows:
            counts = Counter(made.notes)
            why = counts.most_common(1)[0][0] if counts else "nothing was made of it"
            return Dropped(why, "; ".join(f"{count}× {note}" for note, count in counts.items()))
        if not made.notes:
            return row if not made.rows else rows
        return Noted(row if not made.rows else rows, tuple(made.notes))

    def ask(self, questions: Sequence[Question[Any]], tools: Tools) -> list[Any]:
        """What is answered to each, read; a Fault where there is nothing to read. What cannot be read, or is empty, is
        asked again twice."""
        assert self.speaking is not None, "a step is made ready before it asks"
        found: dict[int, Any] = {}
        left = list(range(len(questions)))
        for attempt in range(TRIES):
            requests: dict[int, Request] = {}
            for place in left:
                request = self._request(questions[place], attempt, tools)
                if request is None:
                    found[place] = Fault(LONG)
                else:
                    requests[place] = request
            if not requests:
                break
            budget = self.budget.priced(self.engine)
            told = tools.ask(self.speaking, list(requests.values()), self.called, budget)
            for place, (completion,) in zip(requests, told, strict=True):
                found[place] = _read(questions[place], completion)
            left = [i for i in requests if isinstance(found[i], Fault) and found[i].why in (EMPTY, UNREADABLE)]
            if not left:
                break
        return [found[place] for place in range(len(questions))]

    def _request(self, question: Question[Any], attempt: int, tools: Tools) -> Request | None:
        """None where it is longer than the model reads."""
        assert self.speaking is not None
        turns = (*question.before, Turn("user", question.prompt.text))
        draw = f"{self.called} {question.prompt.name} {question.draw} {attempt}"
        # what cannot be read is not to be said again: the second time it is drawn
        temperature = max(self.temperature, 0.5) if attempt else self.temperature
        seed = tools.chance(question.example, draw).getrandbits(31)
        sampling = Sampling(self.max_new_tokens, temperature=temperature, seed=seed)
        prompt = self.speaking.prompt(turns)
        context = self.speaking.engine.context
        if context is not None and len(prompt) + self.max_new_tokens > context:
            return None
        return Request(prompt, sampling, turns=turns)

    def row(self, parent: Example, prompt: tuple[Turn, ...], answer: str, asked: Prompt, **known: Any) -> Example:
        """A made row, which knows what it was made from, by whom and by which prompt."""
        return Example(
            prompt, (Response((Turn("assistant", answer),)),), source=parent.source,
            meta=self.history(parent, asked, **known),
        )  # fmt: skip

    def history(self, parent: Example, asked: Prompt | None, **known: Any) -> dict[str, Any]:
        """What `meta` says of a made row."""
        told = {"from": str(parent.source), "by": self.called}
        if asked is not None:
            told |= {"model": self._who(), "prompt": asked.name}
        return {MADE: {**told, **known}}

    def _who(self) -> str:
        """The model, as it is called."""
        if self.model is not None:
            return self.model
        keys = next(iter(self.engine.values())) if isinstance(self.engine, dict) else {}
        return str(keys.get("model", self.engine))

    def tongue(self, text: str) -> Language:
        """The language to ask in about a text."""
        return prompts.language_of(text, self.language)


def _read(question: Question[Any], completion: Completion) -> Any:
    fault = fault_of(completion)
    if fault is not None:
        return Fault(fault)
    said = question.read(completion.text.strip())
    return Fault(UNREADABLE) if said is None else said


def whole(text: str) -> str | None:
    """An answer that is wanted as it stands; quotes and a fence round all of it are no part of it."""
    for start, end in (("```\n", "\n```"), ('"', '"'), ("“", "”"), ("「", "」")):
        inner = text[len(start) : -len(end)]
        if text.startswith(start) and text.endswith(end) and len(text) > len(start + end) and end not in inner:
            text = inner.strip()
    return text or None


@dataclass(frozen=True)
class Task:
    """A row that is one question, with or without one answer."""

    before: tuple[Turn, ...]
    """The system message, if there is one."""
    question: str
    answer: str | None

    @property
    def said(self) -> str:
        """All of it."""
        return f"{self.question}\n{self.answer or ''}"


def task(example: Example) -> Task | None:
    """The row as a question with its answer; None where it is something else."""
    if not example.prompt or example.tools:
        return None
    *before, last = example.prompt
    if last.role != "user" or not last.text.strip():
        return None
    if any(turn.role != "system" for turn in before) or any(turn.media for turn in example.prompt):
        return None
    if len(example.responses) > 1 or "steps" in example.meta:
        return None
    if not example.responses:
        return Task(tuple(before), last.text, None)
    turns = example.responses[0].turns
    if len(turns) != 1 or turns[0].role != "assistant" or turns[0].calls or turns[0].media or not turns[0].text.strip():
        return None
    return Task(tuple(before), last.text, turns[0].text)


def document(example: Example) -> str | None:
    """The text of a row that is a plain text; None where it is something else."""
    if example.prompt or len(example.responses) != 1:
        return None
    turns = example.responses[0].turns
    text = turns[0].text if len(turns) == 1 and turns[0].role == RAW and not turns[0].media else ""
    return text if text.strip() else None


def asked(turns: tuple[Turn, ...], question: str) -> tuple[Turn, ...]:
    """A prompt that asks this, under the same system message."""
    return (*turns, Turn("user", question))


__all__ = [
    "NO_DOCUMENT",
    "OTHER",
    "Fault",
    "Made",
    "Maker",
    "Question",
    "Task",
    "asked",
    "document",
    "task",
    "whole",
]
