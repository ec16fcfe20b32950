"""Rows that a generative reward model learns from, made out of preference data or other rewarded responses.

    python -m luthier.scorers.judges.rows pairs.jsonl judged.jsonl [en|zh]

Each row asks to judge the responses of one row, in an order of chance; its answer is what they are worth. Train on them
with `reward: grm_reward`.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from luthier.errors import LuthierError
from luthier.run import write_atomically
from luthier.scorers.judges.constitution import SHIPPED, Language
from luthier.scorers.judges.generative import GenerativeRM
from luthier.scorers.judges.grading import judging_row
from luthier.types import Example


def judging_rows(
    examples: Iterable[Example], language: Language = "en", seed: int = 0
) -> Iterator[dict[str, str] | None]:
    """A row for each example, its responses shuffled; None where no response is known to be the best."""
    for number, example in enumerate(examples):
        order = random.Random(f"{seed}/{number}").sample(example.responses, len(example.responses))
        yield judging_row(replace(example, responses=tuple(order)), language, GenerativeRM.scale)


def write(source: str, target: Path, language: Language = "en") -> tuple[int, int]:
    """Write the rows; so many were written, and so many examples had no best response.

    Raises LuthierError where the data cannot be read, or nothing is left of them.
    """
    from luthier.data import read

    rows = list(judging_rows(read(source), language))
    kept = [row for row in rows if row is not None]
    if not kept:
        raise LuthierError(
            "no row has responses of which one is known to be the best", where=source, fix="give it preference data"
        )
    write_atomically(target, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept))
    return len(kept), len(rows) - len(kept)


def main(given: list[str]) -> None:
    """The command."""
    if len(given) not in (2, 3) or not set(given[2:]) <= set(SHIPPED):
        sys.exit("usage: python -m luthier.scorers.judges.rows PAIRS JUDGED [en|zh]")
    try:
        written, left = write(given[0], Path(given[1]), "zh" if given[2:] == ["zh"] else "en")
    except LuthierError as error:
        sys.exit(str(error))
    print(f"{written} rows in {given[1]}; {left} without a best response left out")


if __name__ == "__main__":
    main(sys.argv[1:])
