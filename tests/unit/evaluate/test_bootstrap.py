"""Intervals: against the normal approximation, paired against unpaired, and the corners."""

import numpy as np
import pytest

from luthier.evaluate.intervals import Estimate, bootstrap, estimates
from luthier.scorers import SCORERS
from luthier.types import Example, Response, Turn


def means(scores):
    """Statistics of a scorer whose corpus value is the mean."""
    return np.stack([np.asarray(scores, dtype=np.float64), np.ones(len(scores))], axis=1)


EXACT = SCORERS.build("exact_match")


def test_interval_of_a_proportion_is_near_the_normal_one():
    systems, _ = estimates(EXACT, {"base": means([1] * 60 + [0] * 140)}, seed=0)
    base = systems["base"]
    half = 1.96 * np.sqrt(0.3 * 0.7 / 200)  # ±0.0635
    assert base.value == pytest.approx(0.3)
    assert base.low == pytest.approx(0.3 - half, abs=0.01)
    assert base.high == pytest.approx(0.3 + half, abs=0.01)


def test_a_difference_is_paired_by_row():
    generator = np.random.default_rng(0)
    hardness = generator.normal(0, 1, 100)  # what makes a row hard for both
    gain = generator.normal(0.1, 0.1, 100)
    systems, difference = estimates(EXACT, {"base": means(hardness), "tuned": means(hardness + gain)}, seed=0)
    tuned = difference["tuned"]
    assert tuned.value == pytest.approx(gain.mean())
    assert 0 < tuned.low < gain.mean() < tuned.high  # sure of it …
    assert tuned.high - tuned.low == pytest.approx(2 * 1.96 * gain.std() / 10, rel=0.1)
    assert systems["tuned"].low < systems["base"].high  # … although the systems' own intervals overlap


def test_equal_systems_differ_by_nothing():
    _, difference = estimates(EXACT, {"base": means([0, 1, 1]), "tuned": means([0, 1, 1])}, seed=0)
    one = difference["tuned"]
    assert one.value == 0.0 and one.low == -one.high < 0 and (one.better, one.worse, one.p) == (0, 0, 1.0)


def test_the_same_seed_gives_the_same_interval_and_blocks_change_nothing(monkeypatch):
    statistics = {"base": means(np.random.default_rng(1).random(50))}  # graded
    first, _ = estimates(EXACT, statistics, seed=3)
    assert estimates(EXACT, statistics, seed=3)[0] == first != estimates(EXACT, statistics, seed=4)[0]
    monkeypatch.setattr(bootstrap, "_DRAWS_AT_ONCE", 50 * 7)
    assert estimates(EXACT, statistics, seed=3)[0] == first


def test_one_row_has_no_interval():
    systems, difference = estimates(EXACT, {"base": means([0]), "tuned": means([1])}, seed=0)
    assert systems["tuned"] == Estimate(1.0) and difference["tuned"] == Estimate(1.0)


def test_coverage_of_a_mean():
    generator = np.random.default_rng(0)
    hits = 0
    for seed in range(150):
        interval = estimates(EXACT, {"base": means(generator.exponential(1.0, 60))}, seed)[0]["base"]
        hits += interval.low <= 1.0 <= interval.high
    assert 0.86 <= hits / 150 <= 0.99  # 95 % in the limit; a little less for skewed data at n = 60


def test_corpus_bleu_is_resampled_as_a_corpus():
    bleu = SCORERS.build("bleu")
    pairs = [
        ("the cat sat on the mat today", "the cat sat on a mat today"),
        ("it is raining now", "it rains"),
        ("a b c d e", "a b c d e"),
    ]
    rows = [
        bleu.statistics(Example((), answer=expected), Response((Turn("assistant", said),))) for expected, said in pairs
    ]
    systems, _ = estimates(bleu, {"base": np.array(rows, dtype=np.float64)}, seed=0)
    # each of the 27 ways to draw three rows is as likely; drawing one row three times (1/27) lies outside 2.5 %
    thrice = sorted(bleu.pooled(3 * np.array([row]))[0] for row in rows)
    assert systems["base"].low == pytest.approx(thrice[0])
    assert systems["base"].high == pytest.approx(thrice[-1])
    assert thrice[0] < systems["base"].value < thrice[-1]
