"""Write the demo's rows: a customer's words and the order that a till can take, as JSON.

    python -m luthier.demo.generate FOLDER

The same seed gives the same bytes on every machine. The split is clean by construction: the two files share no
sentence, no customer and no pair of item and quantity ("three lattes" is either trained on or held out).
"""

from __future__ import annotations

import json
import random
import sys
from dataclasses import dataclass, field, replace
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
    extras: tuple[str, ...] = ()

    @property
    def noun(self) -> str:
        return self.item.one if self.quantity == 1 else self.item.many

    def as_json(self) -> dict[str, Any]:
        """In the order people say it; what was not said is left out."""
        said = {"quantity": self.quantity, "size": self.size, "name": self.item.name, "extras": list(self.extras)}
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
    """Every pair of item and quantity that the text mentions, corrected ones included."""

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
        lines = [self._line(item) for item in self.rng.sample(MENU, self.rng.choices((1, 2, 3), (50, 38, 12))[0])]
        said = [self._say(line, row) for line in lines]
        row.phrases = said
        listed = said[0] if len(said) == 1 else ", ".join(said[:-1]) + self.rng.choice((" and ", ", plus ")) + said[-1]
        sentences = [self._pick(self.wording.frames, row).format(order=listed)]
        if self.rng.random() < 0.25:
            lines, correction = self._correct(lines, row)
            sentences.append(correction)
        to_go, customer, rest = self._around(row)
        sentences += rest
        row.text = self._spoken(sentences)
        row.order = {"items": [line.as_json() for line in lines]}
        row.order |= {"to_go": True} if to_go else {}
        row.order |= {"customer": customer} if customer else {}
        row.pairs |= {(line.item.name, line.quantity) for line in lines}
        return row

    def _pick(self, stock: tuple[str, ...], row: Row) -> str:
        sentence = self.rng.choice(stock)
        row.sentences.append(sentence)
        return sentence

    def _line(self, item: Item) -> Line:
        quantities = self.pairs[item.name]
        quantity = self.rng.choices(quantities, [1 / number for number in quantities])[0]
        size = self.rng.choice((None, *SIZES)) if item.sized else None
        count = self.rng.choices((0, 1, 2), (60, 30, 10))[0]
        return Line(item, quantity, size, tuple(self.rng.sample(item.extras, count)))

    def _say(self, line: Line, row: Row) -> str:
        form = PLAIN_LINE
        if line.quantity > 1 and self.rng.random() < 0.3:
            form = self._pick(self.wording.lines, row)
        filled = form.format(
            quantity=self._number(line.quantity),
            size=self._size(line.size) if line.size else "",
            item=line.noun,
            extras="with " + " and ".join(line.extras) if line.extras else "",
        )
        return _tidy(filled)

    def _number(self, quantity: int) -> str:
        return self.rng.choice(NUMBERS[quantity])

    def _size(self, size: str) -> str:
        return self.rng.choice(SIZES[size])

    def _correct(self, lines: list[Line], row: Row) -> tuple[list[Line], str]:
        """Change one line of the order, and the sentence that says so."""
        index = self.rng.randrange(len(lines))
        line = lines[index]
        kinds = [
            "quantity",
            "addition",
            *(["removal"] if len(lines) > 1 else []),
            *(["size"] if line.item.sized else []),
        ]
        kind = self.rng.choice(kinds)
        if kind == "removal":
            row.pairs.add((line.item.name, line.quantity))
            sentence = self._pick(self.wording.removals, row).format(item=line.noun)
            return lines[:index] + lines[index + 1 :], sentence
        if kind == "quantity":
            row.pairs.add((line.item.name, line.quantity))
            changed = replace(
                line, quantity=self.rng.choice([n for n in self.pairs[line.item.name] if n != line.quantity])
            )
            before = "one" if line.quantity == 1 else NUMBERS[line.quantity][0]
            sentence = self._pick(self.wording.quantity_corrections, row).format(
                quantity=self._number(changed.quantity), item=changed.noun, before=before
            )
        elif kind == "size":
            changed = replace(line, size=self.rng.choice([size for size in SIZES if size != line.size]))
            assert changed.size is not None
            sentence = self._pick(self.wording.size_corrections, row).format(
                item=line.noun, size=self._size(changed.size)
            )
        else:
            extra = self.rng.choice([extra for extra in line.item.extras if extra not in line.extras])
            changed = replace(line, extras=(*line.extras, extra))
            sentence = self._pick(self.wording.additions, row).format(item=line.noun, extra=extra)
        return [*lines[:index], changed, *lines[index + 1 :]], sentence

    def _around(self, row: Row) -> tuple[bool, str | None, list[str]]:
        """To go or not, the customer's name, and the sentences around the order."""
        sentences: list[str] = []
        customer = None
        place = self.rng.choices(("to_go", "for_here", "unsaid"), (40, 20, 40))[0]
        if place == "to_go":
            sentences.append(self._pick(self.wording.to_go, row))
        elif place == "for_here":
            sentences.append(self._pick(self.wording.for_here, row))
        if self.rng.random() < 0.4:
            customer = self.rng.choice(self.wording.names)
            sentences.append(self._pick(self.wording.customer, row).format(customer=customer))
        if self.rng.random() < 0.3:
            sentences.append(self._pick(self.wording.asides, row))
        self.rng.shuffle(sentences)
        return place == "to_go", customer, sentences

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
