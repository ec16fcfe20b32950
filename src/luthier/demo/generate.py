"""Write the demo's rows: a customer's words and the order that a till can take, as JSON.

    python -m luthier.demo.generate FOLDER

The same seed gives the same bytes on every machine. The split is clean by construction: the two files share no
sentence and no pair of item and quantity ("three lattes" is either trained on or held out).
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from luthier.demo.wording import HELDOUT, MENU, NUMBERS, PLAIN_LINE, SIZES, TRAIN, Item, Wording
from luthier.run import write_atomically

SEED = 20
TRAIN_ROWS = 960
HELDOUT_ROWS = 80
RESERVED = 2
"""Quantities of each item that only held-out rows use."""

Pairs = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Line:
    """One line of an order."""

    item: Item
    quantity: int
    size: str | None = None
    extra: str | None = None

    @property
    def noun(self) -> str:
        return self.item.one if self.quantity == 1 else self.item.many

    def as_json(self) -> dict[str, Any]:
        """In the order people say it; what was not said is left out."""
        said = {"quantity": self.quantity, "size": self.size, "name": self.item.name, "extra": self.extra}
        return {key: value for key, value in said.items() if value}


@dataclass
class Row:
    """One example, and what it was made of (for the checks of the split)."""

    text: str
    order: dict[str, Any]
    sentences: list[str] = field(default_factory=list)
    """The templates used."""
    phrases: list[str] = field(default_factory=list)
    """The order lines as they stand in the text."""
    pairs: set[tuple[str, int]] = field(default_factory=set)
    """Every pair of item and quantity that the text mentions."""

    @property
    def answer(self) -> str:
        return json.dumps(self.order, separators=(",", ":"))

    def as_json(self) -> dict[str, Any]:
        """The row in OpenAI's messages shape."""
        turns = (("user", self.text), ("assistant", self.answer))
        return {"messages": [{"role": role, "content": content} for role, content in turns]}


def split_pairs(rng: random.Random) -> tuple[Pairs, Pairs]:
    """For each item the quantities to train on, and those held out."""
    train, heldout = {}, {}
    for item in MENU:
        reserved = rng.sample(list(NUMBERS), RESERVED)
        heldout[item.name] = tuple(sorted(reserved))
        train[item.name] = tuple(number for number in NUMBERS if number not in reserved)
    return train, heldout


class Customer:
    """Says one order after another, out of one stock of sentences and one set of (item, quantity) pairs."""

    def __init__(self, rng: random.Random, wording: Wording, pairs: Pairs) -> None:
        self.rng, self.wording, self.pairs = rng, wording, pairs

    def row(self) -> Row:
        """One order in words and as JSON."""
        row = Row("", {})
        lines = [self._line(item) for item in self.rng.sample(MENU, self.rng.choice((1, 2)))]
        row.phrases = [self._say(line, row) for line in lines]
        listed = self.rng.choice((" and ", ", plus ")).join(row.phrases)
        sentences = [self._pick(self.wording.frames, row).format(order=listed)]
        if self.rng.random() < 0.4:
            sentences.insert(self.rng.choice((0, 1)), self._pick(self.wording.asides, row))
        row.text = self._spoken(sentences)
        row.order = {"items": [line.as_json() for line in lines]}
        row.pairs |= {(line.item.name, line.quantity) for line in lines}
        return row

    def _pick(self, stock: tuple[str, ...], row: Row) -> str:
        sentence = self.rng.choice(stock)
        row.sentences.append(sentence)
        return sentence

    def _line(self, item: Item) -> Line:
        quantity = self.rng.choice(self.pairs[item.name])
        size = self.rng.choice((None, *SIZES)) if item.sized else None
        extra = self.rng.choice(item.extras) if self.rng.random() < 0.4 else None
        return Line(item, quantity, size, extra)

    def _say(self, line: Line, row: Row) -> str:
        form = PLAIN_LINE
        if line.quantity > 1 and self.rng.random() < 0.2:
            form = self._pick(self.wording.lines, row)
        filled = form.format(
            quantity=self._number(line.quantity),
            size=self._size(line.size) if line.size else "",
            item=line.noun,
            extras=f"with {line.extra}" if line.extra else "",
        )
        return _tidy(filled)

    def _number(self, quantity: int) -> str:
        return self.rng.choice(NUMBERS[quantity])

    def _size(self, size: str) -> str:
        return self.rng.choice(SIZES[size])

    def _spoken(self, sentences: list[str]) -> str:
        """Capitals and full stops, or the way people type into a telephone."""
        text = " ".join(sentence[0].upper() + sentence[1:] for sentence in map(_tidy, sentences))
        if self.rng.random() < 0.2:
            text = text.lower().rstrip(".")
        return text


def _tidy(text: str) -> str:
    """Close the gaps that empty slots leave, and say "an" before a vowel."""
    words = text.split()
    for index, (word, following) in enumerate(pairwise(words)):
        if word == "a" and following[0] in "aeiou":
            words[index] = "an"
    spoken = " ".join(words).replace("couple of of", "couple of").replace("couple of more", "couple more")
    while ", ," in spoken or ",," in spoken or " ," in spoken:
        spoken = spoken.replace(" ,", ",").replace(",,", ",")
    return spoken.removesuffix(",")


def generate(seed: int = SEED) -> tuple[list[Row], list[Row]]:
    """The rows to train on and the held-out ones, each text once."""
    rng = random.Random(seed)
    pairs = split_pairs(rng)
    files = []
    for wording, allowed, count in zip((TRAIN, HELDOUT), pairs, (TRAIN_ROWS, HELDOUT_ROWS), strict=True):
        customer = Customer(rng, wording, allowed)
        rows: dict[str, Row] = {}
        while len(rows) < count:
            row = customer.row()
            rows.setdefault(row.text, row)
        files.append(list(rows.values()))
    return files[0], files[1]


def write(folder: Path, seed: int = SEED) -> tuple[Path, Path]:
    """Write train.jsonl and heldout.jsonl into `folder`."""
    paths = folder / "train.jsonl", folder / "heldout.jsonl"
    for path, rows in zip(paths, generate(seed), strict=True):
        write_atomically(path, "".join(json.dumps(row.as_json(), ensure_ascii=False) + "\n" for row in rows))
    return paths


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for written in write(target):
        print(written)
