"""Write the theorems as rows: what is to be proved in Coq, with or without the known proof.

    python -m luthier.demo.theorems FOLDER

`theorems.jsonl` and `theorems-heldout.jsonl` share no statement. Rows have a `proof` and train as they stand; for
reinforcement learning and evaluation, where the model has to find one, take `problems.jsonl` and
`problems-heldout.jsonl`. The same seed gives the same bytes on every machine.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

from luthier.demo.theorem_forms import HEADER, Theorem, theorems
from luthier.run import write_atomically

SEED = 20
HELDOUT = 0.2
"""The share held out."""
PROMPT = "Prove this in Coq. Answer with the tactics only.\n{statement}"

Row = dict[str, str]


def split(seed: int = SEED) -> tuple[list[Theorem], list[Theorem]]:
    """The theorems to train on and those held out, in an order of chance."""
    every = theorems()
    random.Random(seed).shuffle(every)
    held = round(HELDOUT * len(every))
    return every[held:], every[:held]


def row(theorem: Theorem, *, proof: bool) -> Row:
    """A theorem as a row of the shape `theorem`."""
    statement, known = theorem
    asked = {"prompt": PROMPT.format(statement=statement), "statement": statement, "header": HEADER}
    return {**asked, "proof": known} if proof else asked


def write(folder: Path, seed: int = SEED) -> list[Path]:
    """Write the four files into `folder`."""
    written = []
    for theorems_of, ending in zip(split(seed), ("", "-heldout"), strict=True):
        for name, proof in (("theorems", True), ("problems", False)):
            rows = (row(theorem, proof=proof) for theorem in theorems_of)
            path = folder / f"{name}{ending}.jsonl"
            write_atomically(path, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows))
            written.append(path)
    return written


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m luthier.demo.theorems FOLDER")
    for path in write(Path(sys.argv[1])):
        print(path)
