"""Cohen's κ, place and length, and what so many verdicts can prove."""

from __future__ import annotations

import pytest

from luthier.evaluate.ratings import agreement, bias, kappa, needed, provable
from luthier.evaluate.ratings.agreement import pairwise


def test_kappa_is_the_share_beyond_chance():
    one = ["a"] * 45 + ["b"] * 15 + ["a"] * 25 + ["b"] * 15
    other = ["a"] * 45 + ["b"] * 15 + ["b"] * 25 + ["a"] * 15
    assert kappa(one, other) == pytest.approx((0.6 - 0.54) / 0.46)  # 60 alike; chance .7·.6 + .3·.4 = .54
    assert kappa(["a", "b"] * 5, ["a", "b"] * 5) == 1
    assert kappa(["a", "b"] * 5, ["b", "a"] * 5) == -1
    assert kappa(["a"] * 5, ["a"] * 5) is None and kappa([], []) is None


def test_agreement_is_over_rows_that_both_judged():
    one = {str(row): "ab"[row % 2] for row in range(40)}
    other = {str(row): "ab"[row % 2] if row % 4 else "c" for row in range(10, 60)}
    found = agreement(one, other)
    assert found is not None and found.rows == 30
    assert found.same.value == pytest.approx(23 / 30) and found.same.low is not None
    assert found.kappa is not None and found.kappa.low is not None and found.kappa.high is not None
    assert found.kappa.low < found.kappa.value < found.kappa.high
    assert agreement(one, {"x": "a"}) is None
    raters = pairwise({"zoe": one, "ann": other, "bob": {"x": "a"}})
    assert list(raters) == [("ann", "zoe")]


def test_a_judge_that_always_names_the_first_agrees_with_itself_never():
    always = [(1.0, 0.0)] * 40  # A in both orders: the first answer wins, then loses
    found = bias(always, [1] * 40)
    assert found.consistent is not None and found.consistent.value == 0
    assert found.consistent.high == pytest.approx(0.0876, abs=1e-4)
    assert found.first is not None and found.first.value == 1
    assert found.read is not None and found.read.value == 1
    assert found.unusable is not None and "both orders in only 0%" in found.unusable
    assert found.longer is None  # nothing was won


def test_what_cannot_be_read_counts_against_the_judge():
    orders = [(1.0, 1.0)] * 16 + [(None, 1.0), (None, None), (1.0, None), (0.0, 0.0)]
    found = bias(orders, [3] * 19 + [-2])
    assert found.asked == 40 and found.read is not None and found.read.value == 36 / 40
    assert found.consistent is not None and found.consistent.value == 1
    assert found.longer is not None and found.longer.value == 1
    assert found.unusable is None
    worse = bias([*orders, (None, None)], [3] * 21)
    assert worse.unusable is not None and "86%" in worse.unusable
    assert bias([], []).unusable is None  # nobody was asked


def test_ties_agree_with_ties_and_with_nothing_else():
    found = bias([(0.5, 0.5), (0.5, 1.0), (1.0, 1.0), (0.0, 0.0)], [0, 0, 5, 5])
    assert found.consistent is not None and found.consistent.value == 0.75
    assert found.longer is not None and found.longer.value == 0.5


def test_scores_of_each_answer_alone_have_no_places():
    found = bias([(1.0, 1.0), (0.0, 0.0)], [1, 1], placed=False)
    assert found.first is None and found.consistent is None and found.unusable is None


@pytest.mark.parametrize(("rows", "least"), [(5, None), (6, 6), (50, 33), (80, 50), (100, 61)])
def test_so_many_verdicts_must_name_one_side(rows: int, least: int | None):
    assert provable(rows) == least


def test_so_many_verdicts_show_a_rate():
    assert needed(0.6) == 194 and needed(0.55) == 783
