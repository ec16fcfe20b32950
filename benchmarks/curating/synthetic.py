"""A large set of rows made of Alpaca's by varied copies, in which it is known what repeats what.

A row of its own is an Alpaca row with a third of its words exchanged, so that copies of one row are no duplicates. Some
are followed by a near-duplicate, a copy, or a look-alike that differs in a number alone.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VARIED, NEAR = 0.35, 0.04
"""Shares of the words that are exchanged, in a row of its own and (at most) in a near-duplicate."""
NUMBERED = " It has {} parts."


@dataclass(frozen=True)
class Planted:
    """(a row, the row of its own that it was made of), by numbers."""

    near: list[tuple[int, int]] = field(default_factory=list)
    exact: list[tuple[int, int]] = field(default_factory=list)
    numbers: list[tuple[int, int]] = field(default_factory=list)


def write(rows: list[dict[str, Any]], count: int, path: Path, seed: int = 0) -> Planted:
    """JSONL with `prompt` and `answer`."""
    rng = random.Random(seed)
    words = sorted({word for row in rows[:5000] for word in row["output"].split() if word.isalpha()})
    planted = Planted()
    prompt, answer, numbered, own = "", "", False, -1
    with path.open("w", encoding="utf-8") as out:
        for number in range(count):
            kind = rng.random() if number else 1.0
            now = prompt, answer
            if numbered:
                now = prompt, answer.replace(NUMBERED.format(own), NUMBERED.format(number))
                planted.numbers.append((number, own))
                numbered = False
            elif kind < 0.01:
                share = rng.random() * NEAR
                now = _varied(rng, prompt, share, words), _varied(rng, answer, share, words)
                planted.near.append((number, own))
            elif kind < 0.015:
                planted.exact.append((number, own))
            else:
                row = rows[rng.randrange(len(rows))]
                prompt = _varied(rng, f"{row['instruction']}\n{row['input']}".strip(), VARIED, words)
                answer = _varied(rng, row["output"], VARIED, words)
                numbered, own = rng.random() < 0.01, number
                answer += NUMBERED.format(number) if numbered else ""
                now = prompt, answer
            out.write(json.dumps({"prompt": now[0], "answer": now[1]}, ensure_ascii=False) + "\n")
    return planted


def _varied(rng: random.Random, text: str, share: float, words: list[str]) -> str:
    said = text.split(" ")
    for _ in range(round(len(said) * share)):
        at = rng.randrange(len(said))
        if any(map(str.isalpha, said[at])) and not any(map(str.isdigit, said[at])):
            said[at] = words[rng.randrange(len(words))]
    return " ".join(said)
