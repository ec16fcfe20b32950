"""Does `maths` judge the solutions of four models to GSM8K's test questions as people did? Prints where it does not.

    python benchmarks/answers.py [--data FOLDER]

The shared folder's `gsm8k-model-solutions` has 5,276 solutions with labels; the known answers are GSM8K's own whole
solutions, ending in `#### 72`. The bar is 99.5 % agreement. Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from workload import shared

from luthier.scorers import SCORERS
from luthier.scorers.maths.algebra import algebra
from luthier.scorers.maths.finding import final_answer
from luthier.types import Example, Response, Turn

BAR = 0.995


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file."""
    with path.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def pairs(data: Path) -> Iterator[tuple[Example, Response, bool]]:
    """Each model's solution to each question, beside the known one, and whether people called it right."""
    known = {row["question"]: row["answer"] for row in rows(data / "gsm8k" / "test.jsonl")}
    for row in rows(data / "gsm8k-model-solutions" / "unpaired.jsonl"):
        example = Example((Turn("user", row["prompt"]),), answer=known[row["prompt"]])
        yield example, Response((Turn("assistant", row["completion"]),), by=row["model"]), row["label"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=shared() / "data", help="the folder with both data sets")
    data = parser.parse_args().data
    if not (data / "gsm8k-model-solutions" / "unpaired.jsonl").exists():
        sys.exit(f"no gsm8k-model-solutions in {data}; LUTHIER_SHARED names the folder of shared data")
    scorer = SCORERS.build("maths")
    every, start = list(pairs(data)), time.perf_counter()
    scores = scorer.many([(example, response) for example, response, _ in every])
    seconds = time.perf_counter() - start
    told = Counter("unknown" if score is None else "agree" if score == label else "differ" for score, label in
                   zip(scores, (label for *_, label in every), strict=True))  # fmt: skip
    for score, (example, response, label) in zip(scores, every, strict=True):
        if score != label:
            said = response.turns[0].text
            print(f"{response.by}: people {label}, maths {score}: {final_answer(said)!r} for {example.answer!r}")
            print(f"    {said[-200:]!r}")
    agreement = told["agree"] / len(every)
    print(f"agreement {agreement:.4%} of {len(every):,} (bar {BAR:.1%}): {dict(told)}, {seconds:.1f} s")
    print(f"algebra was asked: {dict(algebra(scorer.seconds).counts)}")
    sys.exit(agreement < BAR)


if __name__ == "__main__":
    main()
