"""Closed forms against figures worked by hand or published, and how often the intervals hold the truth."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from luthier.evaluate.intervals.bootstrap import flipped, of_mean
from luthier.evaluate.intervals.estimates import estimates
from luthier.evaluate.intervals.rates import Estimate, detectable, holm, mcnemar, paired, wilson
from luthier.scorers import SCORERS

EXACT = SCORERS.build("exact_match")


def means(scores):
    """Statistics of a scorer whose corpus value is the mean."""
    return np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)


def test_wilson():
    assert wilson(8, 10) == pytest.approx((0.490, 0.943), abs=5e-4)
    assert wilson(0, 80) == pytest.approx((0.0, 0.0458), abs=1e-4)
    low, high = wilson(80, 80)
    assert high == 1.0 and low == pytest.approx(1 - 0.0458, abs=1e-4)


def test_mcnemar():
    assert mcnemar(10, 2) == pytest.approx(0.0386, abs=5e-5)
    assert mcnemar(0, 5) == 0.0625
    assert mcnemar(6, 0) == 0.03125
    assert mcnemar(3, 3) == 1.0 and mcnemar(0, 0) == 1.0


def test_tango():
    """No row that differs: z² / (n + z²) either way. All better: Wilson's for the share of those."""
    assert paired(0, 0, 200) == pytest.approx((-3.8415 / 203.8415, 3.8415 / 203.8415), abs=1e-6)
    low, high = paired(12, 4, 50)
    assert low == pytest.approx(-paired(4, 12, 50)[1]) and low < 8 / 50 < high
    wald = 1.959964 * math.sqrt(16 / 50 - (8 / 50) ** 2) / math.sqrt(50)
    assert (low, high) == pytest.approx((0.16 - wald, 0.16 + wald), abs=0.02)


def test_what_so_many_rows_can_show():
    assert detectable(80) == pytest.approx(0.14, abs=0.005)
    assert detectable(164) == pytest.approx(0.097, abs=0.001)
    assert detectable(626) == pytest.approx(0.05, abs=1e-4)
    assert detectable(14_042) == pytest.approx(0.0106, abs=1e-4)


def test_holm_raises_each_by_those_that_are_left():
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("n", [10, 20, 80, 164])
@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.98])
def test_coverage_of_a_rate(n, share):
    """Exactly: the chance of each count, where its interval holds the truth."""
    counts = range(n + 1)
    chances = [math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in counts]
    held = [low <= share <= high for low, high in (wilson(k, n) for k in counts)]
    assert sum(chance for chance, one in zip(chances, held, strict=True) if one) >= 0.92
    # its mean over rates is 0.95; between neighbouring rates it swings


def test_coverage_of_rates_on_the_whole():
    shares, n = np.linspace(0.005, 0.995, 199), 80
    bounds = [wilson(k, n) for k in range(n + 1)]
    covered = [
        sum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k, (low, high) in enumerate(bounds) if low <= p <= high)
        for p in shares
    ]
    assert np.mean(covered) >= 0.945


@pytest.mark.parametrize("n", [20, 80, 200])
def test_coverage_of_a_paired_difference(n):
    generator = np.random.default_rng(n)
    for better, worse in product((0.0, 0.01, 0.05, 0.3), (0.0, 0.02, 0.2)):
        drawn = generator.multinomial(n, (better, worse, 1 - better - worse), size=3000)
        held = [low <= better - worse <= high for low, high in (paired(b, w, n) for b, w, _ in drawn.tolist())]
        assert np.mean(held) >= 0.93, (better, worse)


GRADED = {
    "spread": (lambda g, n: g.beta(2, 2, n), 0.5),
    "mostly good": (lambda g, n: g.beta(9, 0.5, n), 9 / 9.5),
    "nearly all right": (lambda g, n: np.where(g.random(n) < 0.97, 1.0, g.random(n)), 0.985),
    "nearly all wrong": (lambda g, n: np.where(g.random(n) < 0.95, 0.0, g.random(n)), 0.025),
}


@pytest.mark.parametrize("n", [20, 80])
@pytest.mark.parametrize("name", GRADED)
def test_coverage_of_a_graded_score(n, name, monkeypatch):
    monkeypatch.setattr("luthier.evaluate.intervals.bootstrap.RESAMPLES", 1000)
    draw, mean = GRADED[name]
    generator, held = np.random.default_rng(n), 0
    for seed in range(300):
        found = of_mean(draw(generator, n), np.ones(n), (0.0, 1.0), seed)
        held += found.low <= mean <= found.high
    assert held / 300 >= (0.92 if n == 80 else 0.88)  # ± 0.025 at 0.95; of 20 rows a skewed score shows too little


@pytest.mark.parametrize("scores", [[0.0] * 30, [1.0] * 30, [0.4] * 30, [0.0] * 29 + [1.0]])
def test_no_interval_is_without_width(scores):
    base, tuned = estimates(EXACT, {"base": means(scores), "tuned": means(scores)}, seed=0)
    for one in (*base.values(), *tuned.values()):
        assert one.low < one.high
        assert one.low <= one.value <= one.high


def test_a_corpus_score_of_equal_rows_has_no_interval():
    perplexity = SCORERS.build("perplexity")
    rows = np.tile([[3.0, 4.0]], (10, 1))
    found, _ = estimates(perplexity, {"base": rows}, seed=0)
    assert found["base"].low is None and found["base"].value > 1


@pytest.mark.parametrize("graded", [False, True])
def test_rows_that_are_there_twice_are_one_witness(graded):
    """As wide as without the copies, and not narrower by the root of two."""
    generator = np.random.default_rng(0)
    base, tuned = generator.random(60).round(0 if not graded else 3), generator.random(60).round(0 if not graded else 3)
    once = estimates(EXACT, {"base": means(base), "tuned": means(tuned)}, seed=0)
    twice = {"base": means(np.repeat(base, 2)), "tuned": means(np.repeat(tuned, 2))}
    told = estimates(EXACT, twice, seed=0, clusters=[row // 2 for row in range(120)])
    untold = estimates(EXACT, twice, seed=0)

    def width(found: tuple[dict[str, Estimate], dict[str, Estimate]]) -> list[float]:
        return [one.high - one.low for one in (found[0]["base"], found[1]["tuned"])]

    assert width(told) == pytest.approx(width(once), rel=0.06)
    assert all(wide > 1.25 * narrow for wide, narrow in zip(width(told), width(untold), strict=True))


def test_all_right_in_two_clusters_is_two_witnesses():
    found, _ = estimates(EXACT, {"base": means([1.0] * 40)}, seed=0, clusters=[0] * 20 + [1] * 20)
    assert found["base"].low == pytest.approx(wilson(2, 2)[0])


def test_a_difference_tells_its_rows_and_its_chance():
    base, tuned = [0] * 10 + [1] * 2 + [1] * 8, [1] * 10 + [0] * 2 + [1] * 8
    _, difference = estimates(EXACT, {"base": means(base), "tuned": means(tuned)}, seed=0)
    one = difference["tuned"]
    assert (one.better, one.worse) == (10, 2) and one.p == pytest.approx(0.0386, abs=5e-5)


def test_flipped_signs_agree_with_the_signs_counted():
    """Six equal differences of one sign: two of the 64 ways are as uneven."""
    assert flipped(np.full(6, 0.3), 0) == pytest.approx(1 / 32, abs=0.012)
    assert flipped(np.zeros(5), 0) == 1.0
