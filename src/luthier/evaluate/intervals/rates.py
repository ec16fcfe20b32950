"""How sure a rate is, and the difference of two: closed forms that hold up to the edges.

Resampling calls 0 of 80 certain. n rows that are right or wrong; `n` need not be whole: where rows are alike in
clusters, it is how many independent rows they are worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)
POWER = NormalDist().inv_cdf(0.8)
DISCORDANT = 0.2
"""The share of rows on which two systems are taken to differ where a task is planned."""


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; no interval where nothing can be said of it (fewer than two rows, say).

    Of a difference also: the rows that became better and worse, and how likely so much is by chance alone.
    """

    value: float
    low: float | None = None
    high: float | None = None
    better: int | None = None
    worse: int | None = None
    p: float | None = None
    """Two-sided, of no difference: exact McNemar for right and wrong, flipped signs for graded scores."""
    raised: float | None = None
    """p, raised for all that was tested beside it."""


def wilson(right: float, n: float) -> tuple[float, float]:
    """The 95 % score interval of a rate (Wilson 1927): of 0 of 80 it says 0 to 0.046."""
    share, z2 = right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired(better: float, worse: float, n: float) -> tuple[float, float]:
    """The 95 % interval of the difference of two rates over the same n rows, of which so many are right by the second
    alone and by the first alone: the score interval of Tango (1998), all differences that the rows do not speak
    against. (Agresti and Min's covers 86 % where few rows differ, all in one direction.)"""
    middle = (better - worse) / n
    return _end(better, worse, n, -1.0, middle, Z), _end(better, worse, n, middle, 1.0, -Z)


def _end(better: float, worse: float, n: float, low: float, high: float, wanted: float) -> float:
    """Where the score of a difference, which falls as that grows, is what is wanted."""
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if _score(better, worse, n, middle) > wanted else (low, middle)
    return (low + high) / 2


def _score(better: float, worse: float, n: float, difference: float) -> float:
    """How many standard errors the rows are off a difference, with the likeliest share of the rows that are worse."""
    linear = (2 * n - better + worse) * difference - better - worse
    constant = -worse * difference * (1 - difference)
    share = (math.sqrt(max(0.0, linear**2 - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * share + difference * (1 - difference))
    off = better - worse - n * difference
    return off / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, off)


def mcnemar(better: int, worse: int) -> float:
    """How likely a split of the rows that differ is, as uneven as this or more so, where either way is as likely:
    the exact test of McNemar (1947), two-sided."""
    total, few = better + worse, min(better, worse)
    tail = sum(math.comb(total, count) for count in range(few + 1))
    return float(min(1.0, 2 * tail / 2**total))


def detectable(n: float, discordant: float = DISCORDANT) -> float:
    """The smallest difference of two rates that n rows show four times out of five at the level of 5 %, where so large
    a share of them is right by one alone (Connor 1987). Of 80 rows: 14 points."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        share = max(discordant, middle)
        wanted = (Z * math.sqrt(share) + POWER * math.sqrt(share - middle**2)) ** 2 / middle**2
        low, high = (low, middle) if wanted <= n else (middle, high)
    return high


def holm(values: Mapping[str, float]) -> dict[str, float]:
    """p-values of several tests, raised so that one of them being below 0.05 by chance is as rare as with one test
    (Holm 1979)."""
    raised, least = {}, 0.0
    for place, name in enumerate(sorted(values, key=lambda one: values[one])):
        least = max(least, min(1.0, (len(values) - place) * values[name]))
        raised[name] = least
    return {name: raised[name] for name in values}
