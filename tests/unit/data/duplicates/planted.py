"""Near-duplicates made to measure, and what they share counted in plain Python, independent of the room under test."""

from __future__ import annotations

import json
import os
import random
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from itertools import accumulate
from pathlib import Path

from luthier.data.duplicates.shingles import Text

DATA = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[5] / "shared")) / "data"
UNIT = re.compile(r"[一-鿿]|[^\W_一-鿿]+")


def is_plain(text: Text) -> bool:
    """No symbols: they are units, too, which the count below leaves out."""
    said = text.prompt + text.answers[0]
    return not any(sign in "_%&@/\\" or unicodedata.category(sign)[0] == "S" for sign in said)


@cache
def shingled(text: str) -> frozenset[tuple[str, ...]]:
    """Every three words or Chinese signs of a text in plain letters."""
    units = UNIT.findall(text.lower())
    return frozenset(tuple(units[i : i + 3]) for i in range(max(len(units) - 2, 1)))


def alike(a: Text, b: Text) -> float:
    """Shared over all, of whole rows and of answers: the lesser."""
    prompts, answers = (shingled(a.prompt), shingled(b.prompt)), (shingled(a.answers[0]), shingled(b.answers[0]))
    shared = [len(one & other) for one, other in (prompts, answers)]
    whole = [len(one | other) for one, other in (prompts, answers)]
    return min(sum(shared) / sum(whole), shared[1] / whole[1])


def english(rng: random.Random, count: int) -> list[Text]:
    """Rows of Alpaca's size, of made-up words of which some are frequent."""
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(4000)]
    often = list(accumulate(1 / (rank + 5) for rank in range(len(words))))
    return [
        Text(*_said(rng, lambda n: " ".join(rng.choices(words, cum_weights=often, k=n)), 14, 60)) for _ in range(count)
    ]


def chinese(rng: random.Random, count: int) -> list[Text]:
    """The same of Chinese signs."""
    signs = [chr(0x4E00 + i) for i in range(2500)]
    often = list(accumulate(1 / (rank + 5) for rank in range(len(signs))))
    return [
        Text(*_said(rng, lambda n: "".join(rng.choices(signs, cum_weights=often, k=n)), 14, 90)) for _ in range(count)
    ]


def _said(rng: random.Random, draw: Callable[[int], str], prompt: int, answer: int) -> tuple[str, tuple[str]]:
    return draw(rng.randint(prompt // 2, prompt * 2)), (draw(rng.randint(answer // 2, answer * 2)),)


def varied(rng: random.Random, text: Text, share: float) -> Text:
    """The row with a share of its words or signs exchanged for others; never one with a figure."""

    def other(found: re.Match[str]) -> str:
        unit = found.group()
        if any(sign.isdigit() for sign in unit) or rng.random() >= share:
            return unit
        return chr(rng.randint(0x5000, 0x9000)) if "一" <= unit <= "鿿" else unit[::-1] + rng.choice("qxzj")

    return Text(UNIT.sub(other, text.prompt), (UNIT.sub(other, text.answers[0]),))


def real(language: str, count: int) -> list[Text]:
    """Rows of the Alpaca sets of that language; none where they are absent."""
    file = {"en": DATA / "alpaca-52k/alpaca_data.json", "zh": DATA / "alpaca-zh-carbonz0/zh-data-part-00.json"}[
        language
    ]
    if not file.exists():
        return []
    rows = json.loads(file.read_text(encoding="utf-8"))[:count]
    return [Text(f"{row['instruction']}\n{row['input']}".strip(), (row["output"],)) for row in rows]
