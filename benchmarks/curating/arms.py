"""What trains on the spoilt rows: the arms, each a list of steps in a recipe that is otherwise the same.

Decided before any run, by reasoning alone:

- The mechanical steps are the ones that the docs name for this: `clean`, `repetition`, `dedup` with their defaults.
- `select` keeps the half that a model finds likeliest, `best: low` of perplexity and IFD by the mean of their ranks.
  Garbled text is surprising whatever is asked (perplexity); an answer to something else gains nothing from its question
  (IFD near 1 or above), whichever fluent text it is. A mean of ranks, because in a product perplexity's long tail would
  drown IFD. Both lean by length, and against each other: low IFD to short answers, low perplexity to long ones. A half,
  because whoever curates does not know how much is spoilt.
- IFD's own use is the opposite end: the highest tenth below 1 (arXiv:2308.12032). It is taken behind the mechanical
  steps, and so are the longest and the random tenth beside it: loops and pages would otherwise be the longest rows. As
  the paper's numbers are of a model that has seen some such rows, and this one is an instruct model, it stands for the
  pre-experienced one itself.
- All arms train for the same number of steps of the same number of rows, with the default keys of a recipe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Steps = list[Any]
MECHANICAL: Steps = ["clean", "repetition", "dedup"]
LIKELY: dict[str, Any] = {"by": ["perplexity", "ifd"], "best": "low", "keep": 0.5}
MODEL = "smollm2-135m-instruct"
BATCH = 8
"""Rows of a step: of few rows, more steps."""


@dataclass(frozen=True)
class Counts:
    """How many rows the smaller arms have."""

    curated: int
    tenth: int


@dataclass(frozen=True)
class Data:
    """Files of rows: those that train, and those that are scored."""

    pool: str
    unspoilt: str
    held_out: str
    others: str


ALL, SPOILT, CURATED, MECHANICS, UNSPOILT = "all rows", "random rows", "curated", "no select", "unspoilt rows"
IFD, LONGEST, TENTH = "IFD's tenth", "longest tenth", "random tenth"
ARMS = (ALL, SPOILT, CURATED, IFD, LONGEST, TENTH)
PARTS = (MECHANICS, UNSPOILT)
"""Say how much each part does, and what there was to gain."""


def steps(arm: str, counts: Counts) -> Steps:
    """What is done to the rows of an arm."""
    tenth = counts.tenth
    return {
        ALL: [],
        SPOILT: [{"sample": {"n": counts.curated}}],
        CURATED: [*MECHANICAL, {"select": LIKELY}],
        MECHANICS: MECHANICAL,
        IFD: [*MECHANICAL, {"select": {"by": "ifd", "top": tenth}}],
        LONGEST: [*MECHANICAL, {"select": {"by": "words", "top": tenth}}],
        TENTH: [*MECHANICAL, {"sample": {"n": tenth}}],
        UNSPOILT: [],
    }[arm]


def sets(counts: Counts) -> dict[str, Steps]:
    """Whose rows are looked at: those of each step in turn, and those of the arms; IFD's highest of all rows, too."""
    raw = {"select": {"by": "ifd", "top": counts.tenth}}
    return {
        "all rows": [],
        "clean": MECHANICAL[:1],
        "clean, repetition": MECHANICAL[:2],
        "clean, repetition, dedup": MECHANICAL,
        "… the half by perplexity and IFD (curated)": steps(CURATED, counts),
        "… the half by perplexity alone": [*MECHANICAL, {"select": {**LIKELY, "by": "perplexity"}}],
        "… the half by IFD alone": [*MECHANICAL, {"select": {**LIKELY, "by": "ifd"}}],
        "… IFD's highest tenth": steps(IFD, counts),
        "… the longest tenth": steps(LONGEST, counts),
        "IFD's highest tenth of all rows": [raw],
        "the longest tenth of all rows": [{"select": {"by": "words", "top": counts.tenth}}],
    }


def recipe(arm: str, data: Data, counts: Counts, seed: int, length: int, output: Path) -> dict[str, Any]:
    """What `luthier train` is given. The seed draws the order of rows, the adapter's first weights, and a sample. The
    model as it was before is scored once."""
    base = (arm, seed) == (ALL, 0)
    return {
        "model": MODEL,
        "data": data.unspoilt if arm == UNSPOILT else data.pool,
        "steps": steps(arm, counts),
        "train": {"steps": length, "batch": BATCH, "save_every": 10**6},
        "evaluate": tasks(data, base=base),
        "seed": seed,
        "output": str(output),
    }


HELD_OUT, OTHERS, WORDS = "held-out", "others", "words"


def tasks(data: Data, *, base: bool) -> Sequence[dict[str, Any]]:
    """Held-out rows flatter rows drawn like them, so rows of another hand are asked for, too, and answers in words."""
    perplexity: dict[str, Any] = {"scorers": ["perplexity"], "base": base}
    said = {"scorers": ["rouge"], "base": base, "limit": 32, "max_new_tokens": 48}
    return [
        {"name": HELD_OUT, "data": data.held_out, **perplexity},
        {"name": OTHERS, "data": data.others, **perplexity},
        {"name": WORDS, "data": data.held_out, **said},
    ]
