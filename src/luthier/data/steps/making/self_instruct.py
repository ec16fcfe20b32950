"""New tasks after the pattern of a few: Self-Instruct (arXiv:2212.10560). The seed tasks are the rows themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Annotated, Any, ClassVar

from pydantic import Field

from luthier.data.steps.making import reading
from luthier.data.steps.making.maker import OTHER, Fault, Made, Maker, Question, task
from luthier.data.steps.making.overlap import alike, rouge_l, units
from luthier.data.steps.making.prompts import Language, Prompt, phrase, prompt
from luthier.data.steps.step import Outcome
from luthier.data.steps.tools import Tools
from luthier.types import Example, Turn

AT_ONCE = 16
"""Lists of tasks that are asked for together; each is shown the pool as it was before them."""
IN_VAIN = 5
"""Rounds in sequence that gave no new task: then there are no more to be had."""
LABELS = 3


@dataclass
class Known:
    """A task of the pool."""

    text: str
    units: list[str]
    seed: int | None
    """The place of the row that it is; None for a made one."""


@dataclass
class New:
    """A task that was accepted."""

    text: str
    demos: tuple[int, ...]
    """The rows that it was made after."""
    how: Prompt
    rows: list[Example] = field(default_factory=list)


@dataclass(frozen=True)
class SelfInstruct(Maker):
    """Makes new tasks after the pattern of the rows: some of them are shown, a model goes on with the list, and what is
    too like a known one (ROUGE-L), too short or long, or not to be done in words is left out. Each is then worked out:
    with something to work on where it needs that; of a choice between labels the label first. Made rows stand behind
    the first of the rows that were shown."""

    called: ClassVar[str] = "self_instruct"
    whole: ClassVar[bool] = True

    until: Annotated[int, Field(gt=0)] = 100
    """So many made rows are wanted. There may be fewer: five rounds in sequence without a new task end it."""
    seeds: Annotated[int, Field(gt=0)] = 6
    """So many rows are shown each time."""
    own: Annotated[int, Field(ge=0)] = 2
    """And so many of the tasks that were made before."""
    overlap: Annotated[float, Field(gt=0, le=1)] = 0.7
    """ROUGE-L from which on a task is too like another one."""
    shortest: Annotated[int, Field(gt=0)] = 3
    """Words of a task at least; in Chinese, signs."""
    longest: Annotated[int, Field(gt=0)] = 150
    """And at most."""

    def of(self, batch: Sequence[Example], tools: Tools) -> list[Made]:
        """Of all rows together."""
        made = [Made() for _ in batch]
        pool: list[Known] = []
        for place, row in enumerate(batch):
            found = task(row)
            if found is None:
                made[place].notes.append(OTHER)
                made[place].passes = True
            else:
                pool.append(Known(found.question, units(found.question), place))
        seeds, accepted, vain, number = len(pool), 0, 0, 0
        while seeds and accepted < self.until and vain < IN_VAIN:
            new = self._worked_out(self._new(pool, made, batch, number, tools), made, batch, tools)
            for one in new:
                if accepted == self.until or not one.rows:
                    continue
                kept = one.rows[: self.until - accepted]
                made[one.demos[0]].rows += kept
                accepted += len(kept)
            vain, number = (0 if any(one.rows for one in new) else vain + 1), number + 1
        if seeds and accepted < self.until:
            made[pool[0].seed or 0].notes.append(f"only {accepted:,} of {self.until:,} rows: no new task came any more")
        return made

    def make(self, rows: Iterator[Example], tools: Tools) -> Iterator[Outcome]:
        batch = list(rows)  # the seeds, which are few
        for row, made in zip(batch, self.of(batch, tools), strict=True):
            yield self._outcome(row, made)

    # tasks
    def _new(
        self, pool: list[Known], made: list[Made], rows: Sequence[Example], number: int, tools: Tools
    ) -> list[New]:
        """What a round adds to the pool."""
        shown = [self._shown(pool, tools, f"self_instruct {number} {place}", rows) for place in range(AT_ONCE)]
        questions: list[Question[list[str]]] = []
        for place, demos in enumerate(shown):
            tongue = self.tongue("\n".join(one.text for one in demos))
            told = "\n".join(f"{i}. {' '.join(one.text.split())}" for i, one in enumerate(demos, 1))
            span = {"first": str(len(demos) + 1), "last": str(len(demos) + 8)}
            made_of = prompt("self_instruct.write", tongue, tasks=told, **span)
            first = rows[self._seeds(demos)[0]]
            questions.append(Question(first, made_of, reading.listed, f"{number} {place}"))
        found: list[New] = []
        for demos, question, said in zip(shown, questions, self.ask(questions, tools), strict=True):
            places = self._seeds(demos)
            if isinstance(said, Fault):
                made[places[0]].fault("a list of tasks", said.why)
                continue
            for text in said:
                why = self._fault(text, pool)
                if why:
                    made[places[0]].fault("a task", why)
                else:
                    pool.append(Known(text, units(text), None))
                    found.append(New(text, places, question.prompt))
        return found

    def _shown(self, pool: Sequence[Known], tools: Tools, draw: str, rows: Sequence[Example]) -> list[Known]:
        seeds, own = [one for one in pool if one.seed is not None], [one for one in pool if one.seed is None]
        chance: Random = tools.chance(rows[seeds[0].seed or 0], draw)
        shown = chance.sample(seeds, min(self.seeds, len(seeds))) + chance.sample(own, min(self.own, len(own)))
        chance.shuffle(shown)
        return shown

    def _seeds(self, demos: Sequence[Known]) -> tuple[int, ...]:
        return tuple(one.seed for one in demos if one.seed is not None)

    def _fault(self, text: str, pool: Sequence[Known]) -> str | None:
        """What the paper's rules have against a task."""
        said = units(text)
        if len(said) < self.shortest:
            return "it is too short"
        if len(said) > self.longest:
            return "it is too long"
        if not text[0].isalnum() and text[0] not in "\"'“‘「《¿¡":
            return "it begins with a mark"
        if _banned().search(text):
            return "it cannot be done in words"
        if re.match(r"write (?:a|the) (?:program|function|script)\b", text.lower()):
            return "it asks for a program, of which models write too many"
        return None if alike(said, [one.units for one in pool], self.overlap) is None else "it is like a known one"

    # what they come to
    def _worked_out(self, new: list[New], made: list[Made], rows: Sequence[Example], tools: Tools) -> list[New]:
        kinds: list[Question[bool]] = []
        for one in new:
            tongue = self.tongue(one.text)
            how = prompt("self_instruct.classify", tongue, text=one.text)
            kinds.append(Question(rows[one.demos[0]], how, partial(reading.yes, language=tongue), one.text))
        wanted: list[tuple[New, Question[tuple[str, str]]]] = []
        for one, choice in zip(new, self.ask(kinds, tools), strict=True):
            if isinstance(choice, Fault):
                made[one.demos[0]].fault("a kind of task", choice.why)
            else:
                wanted += [(one, question) for question in self._instances(one, rows, choice)]
        for (one, question), said in zip(wanted, self.ask([question for _, question in wanted], tools), strict=True):
            why = said.why if isinstance(said, Fault) else self._unfit(one, said)
            if why:
                made[one.demos[0]].fault("a worked task", why)
            else:
                one.rows.append(self._row(one, said, question.prompt, rows))
        return new

    def _instances(self, one: New, rows: Sequence[Example], choice: bool) -> Iterator[Question[tuple[str, str]]]:
        """Of a choice between labels an instance for each of some labels, the label first: asked for something to work
        on first, a model nearly always comes to the same one."""
        tongue = self.tongue(one.text)
        asked: list[dict[str, Any]] = [{}]
        if choice:
            asked = [{"place": place} for place in phrase("self_instruct.places", tongue)[:LABELS]]
        for more in asked:
            how = prompt(f"self_instruct.{'labelled' if choice else 'instance'}", tongue, text=one.text, **more)
            read = partial(_instance, language=tongue, needs_input=choice)
            yield Question(rows[one.demos[0]], how, read, one.text)

    def _unfit(self, one: New, said: tuple[str, str]) -> str | None:
        given, output = said
        if given and (given == output or rouge_l(units(given), units(one.text)) >= self.overlap):
            return "what it works on is the task, or its own result"
        earlier = [row.prompt[-1].text for row in one.rows]
        return "it works on the same as another one" if _whole(one.text, given) in earlier else None

    def _row(self, one: New, said: tuple[str, str], how: Prompt, rows: Sequence[Example]) -> Example:
        given, output = said
        parents = [str(rows[place].source) for place in one.demos]
        prompts = [one.how.name, how.name]
        made = self.row(rows[one.demos[0]], (Turn("user", _whole(one.text, given)),), output, how)
        history = next(iter(made.meta.values()))
        history |= {"from": parents, "prompt": prompts}
        return made


def _whole(text: str, given: str) -> str:
    return f"{text}\n\n{given}" if given else text


def _instance(text: str, language: Language, needs_input: bool) -> tuple[str, str] | None:
    found = reading.instance(text, language)
    return None if found is None or (needs_input and not found[0]) else found


def _banned() -> re.Pattern[str]:
    """Words of tasks that cannot be done in words, in both languages."""
    english = "|".join(map(re.escape, phrase("self_instruct.banned", "en")))
    return re.compile(
        rf"\b(?:{english})\b|{'|'.join(map(re.escape, phrase('self_instruct.banned', 'zh')))}", re.IGNORECASE
    )
