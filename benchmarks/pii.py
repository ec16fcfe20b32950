"""What the step `pii` finds in sentences whose values are marked, as presidio-research marks them.

    python benchmarks/pii.py generated_small.json [--names FOLDER | --spacy PIPELINE]

A value counts as found where something of its kind is found that touches it, and what is found counts as wrong where it
touches no marked value at all of the kinds that are looked for.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import planted_pii

from luthier.data.pii import Names, find
from luthier.workflow.naming import recogniser

NAMED = {"PERSON": "person", "STREET_ADDRESS": "address", "ADDRESS": "address"}
Span = tuple[int, int, str]


def by_rules(texts: Sequence[str]) -> list[list[Span]]:
    """What the rules find, of the kinds that the sentences mark."""
    wanted = set(planted_pii.PRESIDIO.values())
    named = [[(one.start, one.end, "us_ssn" if one.rule == "us_ssn" else one.kind) for one in find(t)] for t in texts]
    return [[one for one in found if one[2] in wanted] for found in named]


def counted(rows: Sequence[Any], found: Sequence[Sequence[Span]], kinds: dict[str, str]) -> dict[str, list[int]]:
    """Of each kind how many were found, were missed, and how many were found that are none."""
    hit, missed, wrong = Counter[str](), Counter[str](), Counter[str]()
    for row, spans in zip(rows, found, strict=True):
        marked = [(one["start_position"], one["end_position"], kinds.get(one["entity_type"])) for one in row["spans"]]
        marked = [one for one in marked if one[2] is not None]
        for start, end, kind in marked:
            met = any(a < end and start < b and of == kind for a, b, of in spans)
            (hit if met else missed)[str(kind)] += 1
        wrong.update(of for a, b, of in spans if not any(a < end and start < b for start, end, _ in marked))
    return {kind: [hit[kind], missed[kind], wrong[kind]] for kind in sorted({*hit, *missed, *wrong})}


def told(name: str, table: dict[str, list[int]], seconds: float, rows: int) -> None:
    """Print it."""
    print(f"{name}: {rows:,} rows, {rows / seconds:,.0f} a second of one processor")
    total = [sum(column) for column in zip(*table.values(), strict=True)] if table else [0, 0, 0]
    for kind, (hit, missed, wrong) in {**table, "all": total}.items():
        recall, precision = hit / max(hit + missed, 1), hit / max(hit + wrong, 1)
        print(f"  {kind:10} {hit + missed:5} marked   recall {recall:.3f}   precision {precision:.3f}")


def main() -> None:
    """Read the sentences, look, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--names", help="the folder of a model that labels tokens")
    who.add_argument("--spacy", help="a pipeline of spaCy's")
    given = parser.parse_args()
    rows = json.loads(given.rows.read_text(encoding="utf-8"))
    texts = [row["full_text"] for row in rows]
    start = time.process_time()
    found = by_rules(texts)
    told("rules", counted(rows, found, planted_pii.PRESIDIO), time.process_time() - start, len(rows))
    if given.names or given.spacy:
        places = {"GPE": "address", "LOC": "address", "FAC": "address"}
        namer = recogniser(Names(model=given.names, spacy=given.spacy, labels=places))  # type: ignore[arg-type]
        namer(texts[:1])
        start = time.process_time()
        named = [list(spans) for spans in namer(texts)]
        told("names", counted(rows, named, NAMED), time.process_time() - start, len(rows))


if __name__ == "__main__":
    main()
