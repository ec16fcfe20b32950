"""A file of answers beside the prompts that they answer: whole groups, in the order of the prompts.

Answers lie in the file as they ended. One pass notes where each lies, and no more of it is held in memory.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from luthier.data import Ledger, Prompt, read
from luthier.errors import LuthierError
from luthier.recipe import Source
from luthier.train.rollouts.drawn import Answer, Group
from luthier.types import RAW, Example, Response, Turn

NOTHING = np.zeros(0, np.float32)


@dataclass(frozen=True)
class Written(Answer):
    """An answer that a file holds."""

    index: int = 0

    def response(self) -> Response:
        """As scorers see it."""
        return Response((Turn("assistant", self.text),), by="policy", ids=self.ids or None)


@dataclass
class Answered:
    """The answers of a file. `sources`: the prompts that were answered."""

    path: Path
    sources: Sequence[Source]
    ledger: Ledger = field(default_factory=Ledger)
    """What became of the rows with the prompts."""
    prompts: int = 0
    unanswered: int = 0
    """Prompts to which the file has no answer."""
    _places: dict[str, array[int]] = field(default_factory=dict)
    """Where the answers to each prompt begin."""

    def groups(self) -> Iterator[Group]:
        """Each prompt that was answered, with all answers. Raises LuthierError where the file holds anything else, an
        answer twice, or answers to other prompts."""
        self._places = self._found()
        with self.path.open("rb") as file:
            for number, example in enumerate(read(self.sources, self.ledger)):
                self.prompts += 1
                where = str(example.source)
                places = self._places.pop(where, None)
                if places is None:
                    self.unanswered += 1
                    continue
                self._must_be_asked(example, where)
                yield self._group(file, number, example, places)
        if self._places:
            first = next(iter(self._places))
            raise LuthierError(
                f"the file answers {len(self._places):,} prompts that are not among the data; the first is {first}",
                where=str(self.path),
                fix="give the very `data:` that was answered",
            )

    @property
    def unread(self) -> int:
        """Rows that are no prompts."""
        return sum(reason.count for reason in self.ledger.reasons.values())

    def _found(self) -> dict[str, array[int]]:
        found: dict[str, array[int]] = {}
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            raise LuthierError(
                "there is no such file of answers", where=str(self.path), fix="`luthier generate` writes one"
            ) from None
        with file:
            at = 0
            for number, line in enumerate(file, 1):
                row = _row(line, f"{self.path}:{number}")
                found.setdefault(row["source"], array("q")).append(at)
                at += len(line)
        if not found:
            raise LuthierError("the file of answers is empty", where=str(self.path), fix="generate some first")
        return found

    def _group(self, file: BinaryIO, number: int, example: Example, places: array[int]) -> Group:
        answers = []
        for place in places:
            file.seek(place)
            row = _row(file.readline(), str(self.path))
            ids = tuple(row.get("ids") or ())
            answers.append(Written(ids, NOTHING, row["text"], str(row["finish"]), row["index"]))
        answers.sort(key=lambda answer: answer.index)
        indices = [answer.index for answer in answers]
        if len(set(indices)) != len(indices):
            raise LuthierError(
                f"the file has two answers of one number to {example.source}",
                where=str(self.path),
                fix="take one of them out",
            )
        return Group(number, number, Prompt(example, ()), list(answers))

    def _must_be_asked(self, example: Example, where: str) -> None:
        if not example.prompt or any(turn.role == RAW for turn in example.prompt):
            raise LuthierError(
                "the row is a text that was gone on with, and no prompt that was answered",
                where=where,
                fix="take rows that ask: prompts, questions, messages",
            )


def with_system(sources: Sequence[Source], system: str | None) -> list[Source]:
    """The sources with the system message that stood before their prompts, where they name none."""
    return [source if source.system else replace(source, system=system) for source in sources]


def _row(line: bytes, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
        good = isinstance(row["text"], str) and isinstance(row["source"], str) and isinstance(row["index"], int)
        row["finish"]
    except (ValueError, RecursionError, KeyError, TypeError):
        good = False
    if not good:
        raise LuthierError(
            "the line is no answer of luthier generate: it was cut off or changed",
            where=where,
            fix="take the line out, or generate the answers again",
        )
    found: dict[str, Any] = row
    return found
