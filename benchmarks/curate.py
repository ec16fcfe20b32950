"""What curating costs and finds: `python benchmarks/curate.py [clean] [pii] [chain] [--rows N] [--json FILE]`.

`chain` is `luthier curate` itself over `--chain` rows, file to file (curating/chain.py). Rates are rows of Alpaca for
each second of one processor (its time, not the clock's), rows as they lie in memory. What rules find is measured on
texts with planted values (tests/planted_pii.py) and on presidio-research's sample.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SHARED = Path(os.environ.get("LUTHIER_SHARED", ROOT / "../shared"))
sys.path[:0] = [str(ROOT / "tests")]

import planted_pii  # noqa: E402
from curating import chain  # noqa: E402

from luthier.data.cleaning import Cleaning, Repetition, apply, inverse, language  # noqa: E402
from luthier.data.pii import KINDS, find, masked  # noqa: E402


def alpaca(count: int) -> list[tuple[str, str, str]]:
    """Instruction, input and output of so many rows."""
    path = SHARED / "data/alpaca-52k/alpaca_data.json"
    if not path.exists():
        raise SystemExit(f"no rows: {path} is not there (LUTHIER_SHARED names another folder)")
    return [(row["instruction"], row["input"], row["output"]) for row in json.loads(path.read_text())[:count]]


def rate(work: Callable[[tuple[str, str, str]], Any], rows: Sequence[tuple[str, str, str]], times: int = 3) -> float:
    """Rows for each second of the processor: the best of some runs, since others are at work on the machine."""
    best = float("inf")
    for _ in range(times):
        start = time.process_time()
        for row in rows:
            work(row)
        best = min(best, time.process_time() - start)
    return len(rows) / best


def clean(rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Rates of cleaning, and what it does to the rows."""
    rules, repeats = Cleaning(), Repetition()

    def cleaned(row: tuple[str, str, str]) -> list[Any]:
        return [rules.edits(text, row[0]) for text in row if text]

    changed = restored = 0
    for row in rows:
        edits = cleaned(row)
        changed += any(edits)
        restored += all(
            apply(apply(text, found), inverse(found)) == text
            for text, found in zip(filter(None, row), edits, strict=True)
        )
    return {
        "clean, rows/s": rate(cleaned, rows),
        "repetition, rows/s": rate(lambda row: repeats.reason(row[2]), rows),
        "both, rows/s": rate(lambda row: (cleaned(row), repeats.reason(row[2])), rows),
        "language, rows/s": rate(lambda row: language(row[2]), rows[:5000]),
        "rows changed": changed,
        "rows restored from their edits": restored,
        "rows that repeat themselves": sum(repeats.reason(row[2]) is not None for row in rows),
    }


def pii(rows: Sequence[tuple[str, str, str]]) -> dict[str, Any]:
    """Rates of finding, and recall and precision."""

    def found(row: tuple[str, str, str]) -> list[Any]:
        return [masked(text, spans) for text in row if text and (spans := find(text))]

    counts = Counter(one.kind for row in rows for text in row for one in find(text))
    return {
        "pii, rows/s": rate(found, rows),
        "found in Alpaca": dict(counts.most_common()),
        "presidio-research's sample": presidio(),
        "planted": planted(),
    }


def share(hits: int, all_of_them: int) -> str:
    """As it is told: 0.981 (207/211)."""
    return f"{hits / max(all_of_them, 1):.3f} ({hits}/{all_of_them})"


def presidio() -> dict[str, str] | str:
    """E-mail, telephone, card, IBAN, SSN, IP: a place counts as found where the same kind touches it."""
    path = SHARED / "data/pii-presidio/generated_small.json"
    if not path.exists():
        return "not there"
    hits = wanted = right = told = 0
    for row in json.loads(path.read_text()):
        gold = [
            (one["start_position"], one["end_position"], planted_pii.PRESIDIO[one["entity_type"]])
            for one in row["spans"]
            if one["entity_type"] in planted_pii.PRESIDIO
        ]
        spans = [(one.start, one.end, one.rule if one.rule == "us_ssn" else one.kind) for one in find(row["full_text"])]
        spans = [one for one in spans if one[2] in planted_pii.PRESIDIO.values()]
        hits += sum(any(a < end and start < b and kind == of for a, b, kind in spans) for start, end, of in gold)
        right += sum(any(a < end and start < b and kind == of for start, end, of in gold) for a, b, kind in spans)
        wanted, told = wanted + len(gold), told + len(spans)
    return {"recall": share(hits, wanted), "precision": share(right, told)}


def planted(count: int = 20_000, seed: int = 1) -> dict[str, Any]:
    """By kind, to the very place: recall; precision over all."""
    hits, wanted, right, told = Counter[str](), Counter[str](), 0, 0
    for row in planted_pii.rows(count, seed):
        spans = [(one.start, one.end, one.kind) for one in find(row.text)]
        gold = {(start, end, kind) for start, end, kind, _ in row.spans}
        for one in gold:
            wanted[one[2]] += 1
            hits[one[2]] += one in spans
        right, told = right + sum(one in gold for one in spans), told + len(spans)
    return {
        "recall": {kind: share(hits[kind], wanted[kind]) for kind in KINDS if wanted[kind]},
        "precision": share(right, told),
    }


SECTIONS: dict[str, Callable[[Sequence[tuple[str, str, str]]], dict[str, Any]]] = {"clean": clean, "pii": pii}
CHAIN = "chain"


def main() -> None:
    """Run the sections that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, CHAIN, []], help="default: all")
    parser.add_argument("--rows", type=int, default=52_002)
    parser.add_argument("--chain", type=int, default=100_000, help="rows that `chain` makes of them")
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2], help="of `chain`")
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    asked = parser.parse_args()
    rows = alpaca(asked.rows)
    figures = {name: SECTIONS[name](rows) for name in asked.sections or SECTIONS if name != CHAIN}
    if CHAIN in (asked.sections or (CHAIN,)):
        varied = [dict(zip(("instruction", "input", "output"), row, strict=True)) for row in rows]
        figures[CHAIN] = chain.figures(varied, asked.chain, tuple(asked.processes))
    for name, section in figures.items():
        print(f"\n{name} ({len(rows):,} rows of Alpaca)")
        for what, value in section.items():
            print(f"  {what:34} {f'{value:,.0f}' if isinstance(value, float) else value}")
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
