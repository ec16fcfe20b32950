"""Long context, made on the spot as RULER makes it (arXiv:2404.06654): facts in a haystack of so many tokens. Texts and
words are ours, drawn by seed, so nothing can have been trained on."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell
from luthier.scorers.match import Recalled
from luthier.scorers.metric import Metric
from luthier.types import RAW, Example, Sampling, Turn

if TYPE_CHECKING:
    from luthier.data.encode.template import Template

HAY = (
    "The tide comes in twice a day. Boats lie on the sand and wait for it.",
    "A baker lights the oven before it is light. The street smells of bread.",
    "Rain runs down the window. Nobody has to be anywhere this afternoon.",
    "The train is late again. People read, or look at the rails.",
)
NAMES = Literal["single", "many_keys", "many_values", "many_queries", "chain", "frequent"]
KINDS: tuple[NAMES, ...] = ("single", "many_keys", "many_values", "many_queries", "chain", "frequent")


@dataclass(frozen=True)
class Question:
    """What is hidden, what is asked, how the answer begins, and what must be in it."""

    facts: tuple[str, ...]
    asked: str
    begins: str
    expected: tuple[str, ...]


def word(draw: random.Random) -> str:
    """A word of our own of three syllables."""
    return "".join(draw.choice("bdfgklmnprstvz") + draw.choice("aeiou") for _ in range(3))


def number(draw: random.Random) -> str:
    """Seven digits."""
    return str(draw.randrange(1_000_000, 10_000_000))


def _fact(key: str, value: str) -> str:
    return f"One of the secret numbers of {key} is {value}."


def _needles(draw: random.Random, keys: int, values: int, asked: int) -> Question:
    names: list[str] = []
    while len(names) < keys:
        names += [name for name in [word(draw)] if name not in names]
    known = {name: [number(draw) for _ in range(values)] for name in names}
    wanted = names[:asked]
    facts = [_fact(name, value) for name in names for value in known[name]]
    draw.shuffle(facts)
    of = ", ".join(wanted)
    many = "secret numbers" if values * asked > 1 else "secret number"
    begins = f"The {many} of {of}, as the text says, {'are' if values * asked > 1 else 'is'}"
    expected = tuple(value for name in wanted for value in known[name])
    return Question(
        tuple(facts), f"What {'are all' if values * asked > 1 else 'is the'} {many} of {of}?", begins, expected
    )


def _chain(draw: random.Random) -> Question:
    """A number handed on from one variable to the next: which variables have it?"""
    names: list[str] = []
    while len(names) < 10:
        names += [name for name in [word(draw).upper()] if name not in names]
    first, other = number(draw), number(draw)
    facts = []
    for start, value in ((0, first), (5, other)):
        facts.append([f"Let {names[start]} be {value}."])
        facts[-1] += [f"Let {names[start + i + 1]} be {names[start + i]}." for i in range(4)]
    merged: list[str] = []
    while facts[0] or facts[1]:  # each chain in its order
        merged.append(draw.choice([chain for chain in facts if chain]).pop(0))
    asked = f"Which variables have the value {first}, directly or through others?"
    return Question(tuple(merged), asked, f"The variables with the value {first} are", tuple(names[:5]))


def _frequent(draw: random.Random) -> Question:
    """A heap of words, three of them far more frequent than all others: which?"""
    names: list[str] = []
    while len(names) < 15:
        names += [name for name in [word(draw)] if name not in names]
    heap = [name for rank, name in enumerate(names) for _ in range(12 if rank < 3 else 3)]
    draw.shuffle(heap)
    facts = tuple(" ".join(heap[i : i + 8]) + "." for i in range(0, len(heap), 8))
    asked = "Beside whole sentences the text has single words of no meaning. Which three of these come most often?"
    return Question(facts, asked, "The three words that come most often are", tuple(names[:3]))


MAKE: dict[str, Callable[[random.Random], Question]] = {
    "single": lambda draw: _needles(draw, 1, 1, 1),
    "many_keys": lambda draw: _needles(draw, 8, 1, 1),
    "many_values": lambda draw: _needles(draw, 1, 4, 1),
    "many_queries": lambda draw: _needles(draw, 4, 1, 4),
    "chain": _chain,
    "frequent": _frequent,
}


@dataclass(frozen=True)
class Recall(Benchmark):
    """Can the model use all of its context? Numbers under names, hidden in so many tokens (one; among eight names; four
    under one name; four names asked for), values handed on through variables, and the most frequent of many words."""

    title: ClassVar[str] = "Recall, made as RULER is"
    paper: ClassVar[str] = "https://arxiv.org/abs/2404.06654"

    lengths: tuple[Annotated[int, Field(ge=256)], ...] = (1024, 4096)
    """Tokens of prompt and answer. Those beyond the model's context are left out; the scores say which are there."""
    kinds: tuple[NAMES, ...] = KINDS
    """What is hidden."""
    each: Annotated[int, Field(gt=0)] = 20
    """Prompts of each kind and length, where `limit` says nothing else."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 64
    """Longest answer, in tokens."""

    def __post_init__(self) -> None:
        if not self.lengths or not self.kinds:
            raise ValueError("there must be a length and a kind")

    def metrics(self) -> dict[str, Metric]:
        return {"recalled": Recalled()}

    @property
    def sampling(self) -> Sampling:
        return Sampling(max_new_tokens=self.max_new_tokens, stop=() if self.template else ("\n",))

    def items(self, tell: Tell) -> list[Item]:
        """What is hidden and asked; `fitted` puts the hay round it."""
        found = []
        for length in self.lengths:
            for kind in self.kinds:
                for turn in range(self.each):
                    made = MAKE[kind](random.Random(f"{self.seed} {kind} {length} {turn}"))
                    meta = {"question": made, "length": length, "turn": turn, "expected": made.expected}
                    found.append(Item("", ", ".join(made.expected), subject=f"{kind}, {length} tokens", meta=meta))
        return found

    def questions(self) -> Iterator[Example]:
        return iter(())  # made by seed, nobody has trained on them

    def fitted(self, rows: Sequence[Example], template: Template, context: int | None) -> list[Example]:
        room = [row for row in rows if context is None or row.meta["length"] <= context]
        if not room:
            what = f"{self.title}: all lengths ({', '.join(map(str, self.lengths))}) are beyond the model's context"
            raise LuthierError(f"{what} of {context:,} tokens", where="evaluate", fix="set shorter `lengths`")
        return [self._filled(row, template) for row in room]

    def _filled(self, row: Example, template: Template) -> Example:
        """As much hay as fits beside what is hidden, drawn by the row's own seed."""
        question: Question = row.meta["question"]
        room = row.meta["length"] - self.max_new_tokens
        hay = HAY[row.meta["turn"] % len(HAY)]
        low, high = 0, room  # a piece of hay has more than one token
        while low < high:
            middle = (low + high + 1) // 2
            made = replace(row, prompt=self._prompt(question, hay, middle, row))
            low, high = (middle, high) if len(template.prompt_ids(made.prompt)) <= room else (low, middle - 1)
        prompt = self._prompt(question, hay, low, row)
        if len(template.prompt_ids(prompt)) > room:
            what = f"{self.title}: what is hidden alone has more than {row.meta['length']:,} tokens"
            raise LuthierError(what, where="evaluate", fix="set longer `lengths`")
        kept = {key: row.meta[key] for key in ("subject", "cluster", "gold", "expected")}
        return replace(row, prompt=prompt, meta=kept)

    def _prompt(self, question: Question, hay: str, pieces: int, row: Example) -> tuple[Turn, ...]:
        draw = random.Random(f"{self.seed} places {row.meta['subject']} {row.meta['turn']}")
        places = sorted(draw.randrange(10**6) for _ in question.facts)
        text: list[str] = [hay] * pieces
        for fact, place in reversed(list(zip(question.facts, places, strict=True))):
            text.insert(place * (pieces + 1) // 10**6, fact)
        asked = "Some facts are hidden in this text. Remember them.\n\n" + "\n".join(text) + f"\n\n{question.asked}"
        if self.template:
            return (Turn("user", asked),)
        return (Turn(RAW, f"{asked}\nAnswer: {question.begins}"),)
