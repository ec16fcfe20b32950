"""What a benchmark is: rows in a published format, how they are put to a model, and what judges the answers.

It becomes rows (`Example`s with the whole prompt, shots and all), scorers and settings of decoding; asking, comparing,
intervals, samples and the report are those of every task.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.scorers.metric import Metric
from luthier.types import RAW, Engine, Example, Response, Sampling, Source, Turn

if TYPE_CHECKING:
    from luthier.data.encode.template import Template
    from luthier.evaluate.comparison import Comparison
    from luthier.recipe.schema import Task

T = TypeVar("T")
Tell = Callable[[str], None]
"""Is told what a user should know of the rows."""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, before shots and chat template."""

    asked: str
    """The question as it is put, up to where the answer begins."""
    answer: str
    """The right answer as a shot shows it (without what stands between it and the question)."""
    choices: tuple[str, ...] = ()
    """What may stand in its place, where likelihoods decide; `answer` is one of them."""
    gold: tuple[int, ...] = ()
    """Which of the choices are right."""
    subject: str = ""
    """What part of the benchmark it belongs to."""
    cluster: str | None = None
    """Items of one cluster (a passage, a subject) are no independent witnesses; None: it stands alone."""
    contexts: tuple[str, ...] = ()
    """Where each choice stands in a question of its own and one text follows all (Winogrande): those questions."""
    source: Source | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    """What the scorers need besides."""


@dataclass(frozen=True)
class Asked:
    """What a benchmark is asked over."""

    task: Task
    """The recipe's entry."""
    rows: Sequence[Example]
    template: Template
    engines: Mapping[str, Engine]
    """The systems by name, the baseline first."""
    seed: int
    usual: Callable[[], Comparison]
    """What is done for every task: answers or likelihoods, scorers, intervals."""


@dataclass(frozen=True)
class Benchmark(ABC):
    """What every benchmark derives from: its fields are the YAML keys.

    What must be given: `items`, `metrics`, and as class variables what it is. What may be given: `opening`, `shots_of`,
    `sampling`, `draws`, `rows`, and `compare`, for one whose systems are judged in a way of their own.
    """

    usual: ClassVar[bool] = True
    """False: `compare` does everything itself; `items` and `metrics` are empty, `ready` is asked before any work."""
    likelihoods: ClassVar[bool] = False
    """Does `compare` ask engines for likelihoods? (Of a usual one its metrics tell.)"""
    version: ClassVar[int] = 1
    """Grows when its prompts or scores change: numbers of different versions do not compare."""
    title: ClassVar[str]
    paper: ClassVar[str]
    """Where the protocol was published."""
    licence: ClassVar[str] = ""
    """That of its questions, where it is known."""
    hub: ClassVar[str] = ""
    """The hub data set that is read without a `path`."""
    between: ClassVar[str] = " "
    """What stands between a question and its answer in plain text."""
    apart: ClassVar[str] = "\n\n"
    """What stands between two shots in plain text."""

    path: str | None = None
    """Files in the published format: a folder or a file. Default: from the hub."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Only so many items, spread evenly over the subjects and drawn by `seed`. Default: all."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Draws the items of `limit`, the shots, and answers that are sampled."""
    template: bool = False
    """Ask through the chat template, shots as turns. false: plain text, as published."""

    @abstractmethod
    def items(self, tell: Tell) -> list[Item]:
        """All questions. Raises LuthierError for files that are not there or not in the published format."""

    @abstractmethod
    def metrics(self) -> dict[str, Metric]:
        """What judges the answers, by label, the headline first."""

    def opening(self, item: Item) -> str:
        """What stands before all shots."""
        return ""

    def shots_of(self, item: Item) -> Sequence[Item]:
        """The solved questions that stand before this one, in order."""
        return ()

    @property
    def sampling(self) -> Sampling:
        """How answers are drawn."""
        return Sampling(max_new_tokens=256, seed=self.seed)

    @property
    def draws(self) -> int:
        """How many answers to each prompt."""
        return 1

    def ready(self) -> None:
        """Raise LuthierError, before anything is trained, for what would be refused then."""
        return

    def fitted(self, rows: Sequence[Example], template: Template, context: int | None) -> list[Example]:
        """The rows as a model with this template and context is asked them."""
        return list(rows)

    def compare(self, asked: Asked) -> Comparison:
        """The systems side by side; one that judges systems in a way of its own does not go by `asked.usual`."""
        return asked.usual()

    @property
    def protocol(self) -> str:
        """In words, beside each score: what exactly was asked."""
        said = [f"{self.title} (version {self.version})"]
        keys = {one.name: getattr(self, one.name) for one in fields(self)}
        shots = keys.get("shots")
        if shots is not None:
            said.append("1 shot" if shots == 1 else f"{shots} shots")
        said.append("chat template" if self.template else "plain text")
        if self.limit is not None:
            said.append(f"{self.limit} items by seed {self.seed}")
        return ", ".join(said)

    # from items to rows
    def rows(self, tell: Tell) -> list[Example]:
        """The chosen items with all that is asked. Raises LuthierError as `items` does, and where there are none."""
        items = self.items(tell)
        if not items:
            raise LuthierError(f"{self.title} has no items here", where=self.path, fix="look at `path:`")
        return [self._row(item) for item in chosen(items, self.limit, self.seed)]

    def questions(self) -> Iterator[Example]:
        """The chosen questions and their answers alone, for whoever looks whether they train, too."""
        for item in chosen(self.items(lambda _: None), self.limit, self.seed):
            asked = item.contexts[item.gold[0]] if item.contexts else item.asked
            yield Example((Turn("user", asked),), answer=item.answer or None, source=item.source)

    def _row(self, item: Item) -> Example:
        shots = self.shots_of(item)
        meta = {"subject": item.subject, "cluster": item.cluster, "gold": item.gold, **item.meta}
        if item.contexts and self.template:
            what = f"{self.title} scores what follows each choice, which is no turn of a conversation"
            raise LuthierError(what, where="template", fix="leave `template` out")
        if item.choices:
            meta["lengths"] = tuple(len(choice) for choice in item.choices)
        asked = item.asked
        if self.template:
            prompt, between = self._turns(item, shots, asked), ""
        else:
            before = self.opening(item) + "".join(f"{s.asked}{self.between}{s.answer}{self.apart}" for s in shots)
            prompt, between = (Turn(RAW, before + asked),), self.between
            if item.contexts:
                meta["contexts"] = tuple(before + context for context in item.contexts)
        role = "assistant" if self.template else RAW
        choices = tuple(Response((Turn(role, between + choice),)) for choice in item.choices)
        return Example(prompt, choices, item.answer, source=item.source, meta=meta)

    def _turns(self, item: Item, shots: Sequence[Item], asked: str) -> tuple[Turn, ...]:
        opening = self.opening(item).strip()
        turns = [Turn("system", opening)] if opening else []
        for shot in shots:
            turns += [Turn("user", shot.asked), Turn("assistant", shot.answer)]
        return (*turns, Turn("user", asked))


def chosen(items: Sequence[Item], limit: int | None, seed: int) -> list[Item]:
    """So many items in their order: as evenly over the subjects as these allow, within each by seed."""
    return spread(items, lambda item: item.subject, limit, seed)


def spread(items: Sequence[T], of: Callable[[T], str], limit: int | None, seed: int) -> list[T]:
    """So many in their order, as evenly over what each is `of` as there are enough, within each by seed."""
    if limit is None or limit >= len(items):
        return list(items)
    kinds: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        kinds.setdefault(of(item), []).append(index)
    for kind, places in kinds.items():
        random.Random(f"{seed} {kind}").shuffle(places)
    names = sorted(kinds)
    random.Random(f"{seed} kinds").shuffle(names)  # whose turn it is when not all get one more
    rounds = (kinds[name][turn] for turn in range(len(items)) for name in names if turn < len(kinds[name]))
    return [items[index] for index in sorted(islice(rounds, limit))]


def drawn(pool: Sequence[Item], count: int, seed: int, beside: Item | None = None) -> list[Item]:
    """So many shots out of a pool by seed, the same before all questions (so that a model reads them once); a question
    that is among them itself gets one more in its place. Raises LuthierError where there are too few."""
    if len(pool) < count:
        raise LuthierError(
            f"{count} shots are asked for, and there are {len(pool)} solved questions to take them from",
            where=str(pool[0].source) if pool else None,
            fix=f"set shots={len(pool)}",
        )
    found = random.Random(seed).sample(list(pool), min(len(pool), count + 1))
    return [item for item in found if beside is None or item.source != beside.source][:count]


__all__ = ["Asked", "Benchmark", "Item", "Tell", "chosen", "drawn", "spread"]
