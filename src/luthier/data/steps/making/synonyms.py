"""Other words for words, by a table of the user's."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field

from luthier.data.cleaning.regions import protected
from luthier.data.curation.lines import MADE
from luthier.data.steps.making.maker import OTHER, asked, task
from luthier.data.steps.step import Noted, Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Example

Table = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Synonyms(RowStep):
    """Makes of each row copies in which words of the question stand as others of the same meaning, by a table. Code,
    formulas and addresses stay."""

    idempotent: ClassVar[bool] = False
    known: ClassVar[Table | None] = None
    pattern: ClassVar[re.Pattern[str] | None] = None

    table: str | dict[str, list[str]]
    """Words and what may stand for them: a file with a word, a tab, and others with commas between them on each line;
    or the words themselves."""
    copies: Annotated[int, Field(gt=0)] = 1
    """So many rows are made of each."""
    share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """So many of the words that are in the table are exchanged."""
    text: Literal["question", "answer"] = "question"
    """Where."""

    def identity(self) -> Any:
        told = json.dumps(sorted((word, list(others)) for word, others in self._table().items()))
        return hashlib.blake2b(told.encode(), digest_size=16).hexdigest()

    def ready(self, tools: Tools) -> Self:
        table = self._table()
        # the longest first; letters of an alphabet on either side would make it a piece of another word
        words = sorted(table, key=lambda word: (-len(word), word))
        edge = r"[^\W\u2e80-\u9fff\uf900-\ufaff]"
        made = "|".join(
            (rf"(?<!{edge})" if re.match(edge, word) else "")
            + re.escape(word)
            + (rf"(?!{edge})" if re.match(edge, word[-1]) else "")
            for word in words
        )
        return self.holding(known=table, pattern=re.compile(made, re.IGNORECASE))

    def apply(self, example: Example, tools: Tools) -> Outcome:
        found = task(example)
        text = None if found is None else found.question if self.text == "question" else found.answer
        if found is None or text is None:
            return Noted(example, (OTHER,))
        made: list[Example] = []
        said = {text}
        for number in range(self.copies):
            other = self._exchanged(text, tools.chance(example, f"synonyms {number}"))
            if other not in said:
                said.add(other)
                made.append(self._row(example, other, asked(found.before, other)))
        return (example, *made) if made else Noted(example, ("no word of it is in the table",))

    def _row(self, example: Example, said: str, prompt: Any) -> Example:
        meta = {**example.meta, MADE: {"from": str(example.source), "by": "synonyms", "of": self.text}}
        bare = tuple(replace(one, ids=None, logp=None) for one in example.responses)
        if self.text == "question":
            return replace(example, prompt=prompt, responses=bare, meta=meta)
        turns = (replace(bare[0].turns[0], text=said),)
        return replace(example, responses=(replace(bare[0], turns=turns, reward=None),), meta=meta)

    def _exchanged(self, text: str, chance: Random) -> str:
        """The text with some words exchanged, at least one where there is one."""
        assert self.pattern is not None and self.known is not None, "a step is made ready before it works"
        spans = protected(text)
        places = [
            found for found in self.pattern.finditer(text)
            if not any(start < found.end() and found.start() < end for start, end in spans)
        ]  # fmt: skip
        if not places:
            return text
        count = max(1, round(self.share * len(places)))
        for found in sorted(chance.sample(places, count), key=lambda one: -one.start()):
            other = chance.choice(self.known[found[0].lower()])
            if found[0][0].isupper():
                other = other[0].upper() + other[1:]
            text = text[: found.start()] + other + text[found.end() :]
        return text

    def _table(self) -> dict[str, tuple[str, ...]]:
        """Raises LuthierError for a file that is not there, and for lines that are not of this form."""
        if isinstance(self.table, dict):
            rows = [(word, others, "table") for word, others in self.table.items()]
        else:
            rows = [*_lines(Path(self.table).expanduser())]
        table: dict[str, tuple[str, ...]] = {}
        for word, others, where in rows:
            kept = tuple(other.strip() for other in others if other.strip() and other.strip().lower() != word.lower())
            if not word.strip() or not kept:
                raise LuthierError(
                    "a word of the table has no other to stand for it", where=where,
                    fix="write the word, a tab, and others with commas between them",
                )  # fmt: skip
            table[word.strip().lower()] = (*table.get(word.strip().lower(), ()), *kept)
        if not table:
            raise LuthierError("the table of synonyms is empty", where=str(self.table), fix="write words into it")
        return table


def _lines(path: Path) -> list[tuple[str, list[str], str]]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LuthierError(
            f"the table of synonyms cannot be read: {error}", where=str(path), fix="name a file of UTF-8 text"
        ) from error
    found = []
    for number, line in enumerate(content.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            word, _, others = line.partition("\t")
            found.append((word, re.split(r"[,，、\t]", others), f"{path}:{number}"))
    return found
