"""Which examples train, in what shares, in which order, and which are held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.recipe.mixture import Mix

HASHES = 2**64
Places = NDArray[np.int64]
"""Places of rows in a store, one as often as it trains."""
OVER, LONG, REHEARSE = 1, 2, 3
"""What chance is drawn for, beside the rows of a source."""


@dataclass(frozen=True)
class Rows:
    """What is known of the rows of a store, those of sources first and those of a rehearsal behind them."""

    feeds: NDArray[np.int32]
    """The number of the source."""
    tokens: NDArray[np.int32]
    hashes: NDArray[np.uint64]
    """Of their content."""
    languages: NDArray[np.int32]
    """A number for each language."""
    measured: NDArray[np.float32]
    """What `mix.order` goes by."""


@dataclass(frozen=True)
class Shares:
    """What a recipe says of the mix."""

    weights: Sequence[float | None]
    """Of each source."""
    samples: Sequence[int | None]
    keys: Mix
    rehearse: float = 0.0
    """Share of the tokens of all that trains which the sources behind those with weights have."""
    seed: int = 0


def held_out(hashes: NDArray[np.uint64], share: float) -> NDArray[np.bool_]:
    """Which rows to hold out, by the hash of their content: never by their order, and equal rows together.

    At least one row, where there are two different ones.
    """
    if share <= 0:
        return np.zeros(len(hashes), np.bool_)
    chosen = hashes < np.uint64(min(int(share * HASHES), HASHES - 1))
    if not chosen.any() and len(np.unique(hashes)) > 1:
        chosen = hashes == hashes.min()
    return chosen


def shares(total: int, weights: Sequence[float]) -> list[int]:
    """`total` divided in the proportion of the weights, each share exact to one row (largest remainders)."""
    exact = [total * weight / sum(weights) for weight in weights]
    counts = [int(value) for value in exact]
    short = total - sum(counts)
    for i in sorted(range(len(weights)), key=lambda i: (counts[i] - exact[i], i))[:short]:
        counts[i] += 1
    return counts


def drawn(rows: Places, count: int, *chance: int, sizes: NDArray[np.int32] | None = None) -> Places:
    """`count` of the rows: all of them as often as they fit, the rest drawn without repetition. In order.

    With `sizes` (of all rows of the store) the count is of tokens: of the rest so many rows as come nearest to it.
    """
    rng = np.random.default_rng(chance)
    if sizes is None:
        whole, rest = divmod(count, len(rows))
        extra = rng.choice(rows, rest, replace=False) if rest else rows[:0]
        return np.sort(np.concatenate([np.tile(rows, whole), extra]))
    whole, rest = divmod(count, int(sizes[rows].sum()))
    shuffled = rng.permutation(rows)
    ends = np.concatenate([[0], np.cumsum(sizes[shuffled], dtype=np.int64)])
    least = 0 if whole else 1  # never none of a source
    extra = shuffled[: least + int(np.argmin(np.abs(ends[least:] - rest)))]
    return np.sort(np.concatenate([np.tile(rows, whole), extra]))


def mix(rows: Rows, candidates: Places, asked: Shares) -> Places:
    """The training rows in order of source; in the order of `mix.order` where the recipe has it. `candidates`: those
    that are not held out.

    Sources with a weight share out among themselves as much as they have together, in rows or tokens; a small one
    repeats rows, a large one leaves some out. Sources without a weight come once, or with as many rows as `samples`
    says. Temperature, long and short, and the rehearsal come after that, each on what it finds.

    Raises LuthierError for a rehearsal of which nothing is left.
    """
    keys, sizes = asked.keys, rows.tokens if asked.keys.by == "tokens" else None
    of = [candidates[rows.feeds[candidates] == feed] for feed in range(len(asked.weights))]
    parts = _weighed(of, asked, sizes)
    chosen = np.concatenate([np.empty(0, np.int64), *parts])
    if keys.temperature is not None:
        groups = (rows.feeds if keys.over == "sources" else rows.languages)[chosen]
        split = [chosen[groups == one] for one in np.unique(groups).tolist()]
        flat = [_size(part, sizes) ** (1 / keys.temperature) for part in split]
        chosen = _shared_out(split, flat, sizes, asked.seed, OVER)
    if keys.long is not None:
        long = rows.tokens[chosen] >= keys.long.tokens
        split = [chosen[long], chosen[~long]]
        if not len(split[0]) or not len(split[1]):
            raise LuthierError(
                f"{'no' if len(split[1]) else 'every'} row has {keys.long.tokens:,} tokens",
                where="mix.long",
                fix="set another mix.long.tokens, or leave mix.long out: there is nothing to mix",
            )
        chosen = _shared_out(split, [keys.long.share, 1 - keys.long.share], rows.tokens, asked.seed, LONG)
    if asked.rehearse:
        chosen = np.concatenate([chosen, _rehearsed(rows, chosen, candidates, asked)])
    if keys.order is not None:
        measured = rows.measured[chosen]
        chosen = chosen[np.argsort(-measured if keys.order.first == "high" else measured, kind="stable")]
    return chosen


def _size(rows: Places, sizes: NDArray[np.int32] | None) -> int:
    return len(rows) if sizes is None else int(sizes[rows].sum())


def _weighed(of: Sequence[Places], asked: Shares, sizes: NDArray[np.int32] | None) -> Iterator[Places]:
    """The rows of each source."""
    weighted = [feed for feed, weight in enumerate(asked.weights) if weight is not None and len(of[feed])]
    total = sum(_size(of[feed], sizes) for feed in weighted)
    wanted = shares(total, [asked.weights[feed] or 0.0 for feed in weighted]) if weighted else []
    given = dict(zip(weighted, wanted, strict=True))
    for feed, rows in enumerate(of):
        count = asked.samples[feed]
        if feed in given:
            yield drawn(rows, given[feed], asked.seed, feed, sizes=sizes)
        else:
            yield rows if count is None or not len(rows) else drawn(rows, count, asked.seed, feed)


def _shared_out(
    parts: Sequence[Places], weights: Sequence[float], sizes: NDArray[np.int32] | None, seed: int, purpose: int
) -> Places:
    """As much of all parts as there is of them together, by the weights, in order of the store."""
    wanted = shares(sum(_size(part, sizes) for part in parts), weights)
    made = (
        drawn(part, count, seed, number, purpose, sizes=sizes)
        for number, (part, count) in enumerate(zip(parts, wanted, strict=True))
    )
    return np.sort(np.concatenate([np.empty(0, np.int64), *made]))


def _rehearsed(rows: Rows, chosen: Places, candidates: Places, asked: Shares) -> Places:
    """General rows beside those that train: so many that they are their share of all."""
    task = rows.feeds < len(asked.weights)
    general = candidates[~task[candidates]]
    fresh = general[~np.isin(rows.hashes[general], rows.hashes[task])]
    if not len(fresh):
        what = "all its rows train anyway, or are held out" if len(general) else "it has no rows"
        raise LuthierError(
            f"there is nothing to rehearse: {what}", where="rehearse.data", fix="name general rows, other than `data`"
        )
    tokens = round(int(rows.tokens[chosen].sum()) * asked.rehearse / (1 - asked.rehearse))
    return drawn(fresh, tokens, asked.seed, len(asked.weights), REHEARSE, sizes=rows.tokens)


__all__ = ["Rows", "Shares", "held_out", "mix", "shares"]
