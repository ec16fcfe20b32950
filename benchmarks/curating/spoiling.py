"""Rows of which it is known what is wrong with them: Alpaca's, four tenths of them spoilt in ways that data are spoilt.

What is planted was written before any step saw it, and no rule of a step was looked at for it.
"""

from __future__ import annotations

import html
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

SHARES = {"page": 0.05, "garbled": 0.05, "loop": 0.05, "copy": 0.05, "off topic": 0.10, "swapped": 0.10}
"""Of all rows, so many of each kind:

page       broken: the answer as a web page has it, with tags, entities and the page's furniture
garbled    broken: the letters of two words out of three are in another order
loop       repeated: the answer's first words over and over
copy       repeated: the very row of another one, or in other case and spacing
off topic  a piece of a children's story in place of the answer
swapped    the answer of another row
"""
FURNITURE = (
    "Advertisement",
    "Click here to subscribe to our newsletter!",
    "Share this article on Facebook | Twitter | Pinterest",
    "Home > Blog > Questions and answers",
    "Copyright 2019. All rights reserved.",
    "Read more: 10 tips that will change your life",
)


@dataclass(frozen=True)
class Row:
    """A row of the pool."""

    prompt: str
    answer: str
    kind: str = ""
    """What is wrong with it; "" for nothing that was planted."""
    meant: str = ""
    """The answer as it was before."""
    of: int | None = None
    """Of a copy the place of the row that it repeats, the first being 0."""

    @property
    def messages(self) -> dict[str, Any]:
        """As it trains."""
        said = (("user", self.prompt), ("assistant", self.answer))
        return {"messages": [{"role": role, "content": text} for role, text in said]}


def pool(rows: Sequence[dict[str, Any]], stories: Sequence[str], count: int, seed: int = 0) -> list[Row]:
    """`count` rows out of rows of `messages`, which need be no more than those that are no copies; spoilt, in an order
    in which no kind stands together."""
    rng = random.Random(seed)
    amounts = {kind: round(share * count) for kind, share in SHARES.items()}
    own = count - amounts.pop("copy")
    if len(rows) < own:
        raise ValueError(f"{count} rows need {own} to be made of, and there are {len(rows)}")
    plain = [Row(*(turn["content"] for turn in row["messages"])) for row in rows[:own]]
    plain = [replace(row, meant=row.answer) for row in plain]
    made: list[Row] = []
    for kind, amount in amounts.items():
        some, plain = plain[:amount], plain[amount:]
        made += [replace(row, kind=kind) for row in (_swapped(some) if kind == "swapped" else some)]
    spoil: dict[str, Callable[[Row], str]] = {
        "page": lambda row: _page(rng, row.answer),
        "garbled": lambda row: _garbled(rng, row.answer),
        "loop": lambda row: _loop(rng, row.answer),
        "off topic": lambda row: _story(rng, stories, len(row.answer.split())),
        "swapped": lambda row: row.answer,
    }
    mixed = [*plain, *(replace(row, answer=spoil[row.kind](row)) for row in made)]
    rng.shuffle(mixed)
    return _with_copies(rng, mixed, count - own)


def _with_copies(rng: random.Random, rows: list[Row], count: int) -> list[Row]:
    """Copies come after all that they may be copies of, so that no place changes; steps do not look at places."""
    own = [place for place, row in enumerate(rows) if not row.kind]
    for number, place in enumerate(rng.sample(own, count)):
        row = replace(rows[place], kind="copy", of=place)
        rows.append(row if number % 2 else replace(row, prompt=_respelt(row.prompt), answer=_respelt(row.answer)))
    return rows


def _respelt(text: str) -> str:
    return "  ".join(text.split()).lower().rstrip(".") + " ."


def _page(rng: random.Random, text: str) -> str:
    above, below = rng.sample(FURNITURE, 2)
    parts = "".join(f"<p>{html.escape(part)}&nbsp;</p>\n" for part in text.split("\n") if part.strip())
    return f'<span class="ad">{above}</span>\n<div class="post">\n{parts}</div>\n{below}'


def _garbled(rng: random.Random, text: str) -> str:
    said = text.split(" ")
    for at, word in enumerate(said):
        if rng.random() < 2 / 3:
            said[at] = "".join(rng.sample(word, len(word)))
    return " ".join(said)


def _loop(rng: random.Random, text: str) -> str:
    words = text.split()[: rng.randint(3, 8)]
    return " ".join(words * (rng.randint(30, 60) // len(words) + 1))


def _story(rng: random.Random, stories: Sequence[str], words: int) -> str:
    """Whole sentences from somewhere within a story, about so many words of them."""
    sentences = rng.choice(stories).replace("\n", " ").split(". ")
    said: list[str] = []
    for sentence in sentences[rng.randrange(max(1, len(sentences) // 2)) :]:
        said.append(sentence.strip().rstrip("."))
        if len(" ".join(said).split()) >= words:
            break
    return ". ".join(said) + "."


def _swapped(rows: Sequence[Row]) -> list[Row]:
    return [replace(row, answer=rows[at - 1].answer) for at, row in enumerate(rows)]


def bad(rows: Sequence[Row], left: dict[int, str]) -> dict[str, int]:
    """How many of each kind are in a set, `left` being the answers of its rows by their places in the pool. A page
    whose answer was mended is none, nor is a copy whose other half is gone."""
    found = dict.fromkeys(SHARES, 0)
    for place, answer in left.items():
        row = rows[place]
        if row.kind == "page" and answer.split() == row.meant.split():
            continue
        if row.kind and (row.of is None or row.of in left):
            found[row.kind] += 1
    return found
