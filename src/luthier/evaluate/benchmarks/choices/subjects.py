"""Multiple choice over many subjects, letters for answers: MMLU and its Chinese relatives."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell, drawn
from luthier.evaluate.benchmarks.published import need, place_of, rows, split_files, without_split
from luthier.registry import suggest
from luthier.scorers.choices import Likeliest
from luthier.scorers.metric import Metric
from luthier.types import Source

LETTERS = ("A", "B", "C", "D")


@dataclass(frozen=True)
class Subjects(Benchmark):
    """Questions of many subjects with four answers; the letter is asked for, the likeliest of four counts."""

    splits: ClassVar[tuple[str, ...]] = ("test",)
    """The split that is scored, by its names."""
    shot_splits: ClassVar[tuple[str, ...]] = ("dev",)
    columns: ClassVar[tuple[str, ...]] = ("question", "A", "B", "C", "D", "answer")
    asks: ClassVar[str] = "Answer:"

    shots: Annotated[int, Field(ge=0)] = 5
    """Solved questions of the subject before each, from the development split."""
    draw_shots: bool = False
    """Draw them by seed. false: the first ones, as published."""
    subjects: tuple[str, ...] = ()
    """Only these. Default: all."""
    letters: bool = True
    """Which letter is likeliest. false: which answer's whole text is, behind the question alone."""

    @abstractmethod
    def described(self, subject: str) -> str:
        """What stands before the shots."""

    def field_of(self, subject: str) -> str:
        """The field that a subject belongs to, where scores of fields are told."""
        return ""

    def metrics(self) -> dict[str, Metric]:
        return {"acc": Likeliest()}

    def opening(self, item: Item) -> str:
        return self.described(item.subject)

    def items(self, tell: Tell) -> list[Item]:
        return [item for some in self._of_split(self.splits).values() for item in some]

    def shots_of(self, item: Item) -> Sequence[Item]:
        if not self.shots:
            return ()
        pool = self._shots.get(item.subject, [])
        if self.draw_shots or len(pool) < self.shots:
            return drawn(pool, self.shots, self.seed)
        return pool[: self.shots]

    @cached_property
    def _shots(self) -> dict[str, list[Item]]:
        return self._of_split(self.shot_splits)

    def _of_split(self, splits: Sequence[str]) -> dict[str, list[Item]]:
        found = dict(sorted(self._every(splits)))
        for name in self.subjects:
            if name not in found:
                raise LuthierError(
                    f"{self.title} has no subject {name!r} here", where=self.path, fix=suggest(name, list(found))
                )
        return {name: list(some) for name, some in found.items() if not self.subjects or name in self.subjects}

    def _every(self, splits: Sequence[str]) -> Iterator[tuple[str, list[Item]]]:
        if self.path is None:
            by_subject: dict[str, list[Item]] = {}
            for where, row in self.from_hub(splits):
                name = str(row.get("subject") or "")
                by_subject.setdefault(name, []).append(self._item(where, row, name))
            yield from by_subject.items()
            return
        for file in split_files(self.path, splits, self.title):
            every = (*self.splits, *self.shot_splits, "val", "dev", "test")
            name = without_split(file, every)
            yield name, [self._item(where, row, name) for where, row in self.from_file(file)]

    def from_hub(self, splits: Sequence[str]) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        """The rows of a split of the hub, each with its `subject`."""
        return rows(None, splits, self.title, hub=self.hub)

    def from_file(self, file: Path) -> Iterator[tuple[Source, Mapping[str, Any]]]:
        """The rows of one subject's file."""
        return rows(str(file), self.splits, self.title)

    def _item(self, where: Source, row: Mapping[str, Any], subject: str) -> Item:
        given = need(_flat(row), self.columns, where, self.title)
        question, *answers, right = (str(one) for one in given)
        place = place_of(right, LETTERS, where, self.title)
        lines = "".join(f"{letter}. {answer}\n" for letter, answer in zip(LETTERS, answers, strict=True))
        choices = LETTERS if self.letters else tuple(answers)
        asked = f"{question.strip()}\n{lines if self.letters else ''}{self.asks}"
        meta = {"field": self.field_of(subject)}
        return Item(asked, choices[place], choices, (place,), subject, cluster=subject, source=where, meta=meta)


def _flat(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """A row whose answers are a list, as the hub has it, with a column for each."""
    if not isinstance(row.get("choices"), Sequence) or isinstance(row["choices"], str):
        return row
    return {**row, **dict(zip(LETTERS, row["choices"], strict=False))}
