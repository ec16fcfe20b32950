"""Metrics of likelihoods, worked by hand."""

import math

import numpy as np
import pytest

from luthier.scorers.choices import (
    ChoiceMetric,
    Likeliest,
    LikeliestByLength,
    Matthews,
    Pearson,
    PickedF1,
    Spearman,
    TrueMass,
    ranks,
)
from luthier.types import Example, Response, Turn


def row(*texts: str, gold: tuple[int, ...] = (0,), **meta: object) -> Example:
    return Example((), tuple(Response((Turn("text", text),)) for text in texts), meta={"gold": gold, **meta})


def value(metric: ChoiceMetric, rows: list[tuple[Example, list[float]]]) -> float:
    found = [one for one in metric.of_choices(rows) if one is not None]
    return float(metric.pooled(np.array(found).sum(axis=0)[None])[0])


def test_the_likeliest_and_the_likeliest_by_length():
    one = row(" ab", " abcdefgh", gold=(1,), lengths=(2, 8))
    assert Likeliest().of_choices([(one, [-3.0, -4.0])]) == [(0.0, 1.0)], "−3 beats −4"
    assert LikeliestByLength().of_choices([(one, [-3.0, -4.0])]) == [(1.0, 1.0)], "−0.5 a character beats −1.5"
    assert Likeliest().pick(one, [-2.0, -2.0]) == 0, "the earliest of equals"
    assert Likeliest().of_choices([(row("a", "b", gold=()), [-1.0, -2.0])]) == [None]
    assert Likeliest().lacks(row("a", "b", gold=())) and not Likeliest().lacks(row("a", "b"))


def test_the_mass_of_what_is_true():
    one = row("a", "b", "c", gold=(0, 2))
    logps = [math.log(0.2), math.log(0.1), math.log(0.1)]
    assert value(TrueMass(), [(one, logps)]) == pytest.approx(0.75)
    assert value(TrueMass(), [(one, [logp - 900 for logp in logps])]) == pytest.approx(0.75), "as small as they may be"


def two(right: int, said: int) -> tuple[Example, list[float]]:
    return row("no", "yes", gold=(right,)), [-1.0, -2.0] if said == 0 else [-2.0, -1.0]


def test_matthews_and_f1_of_a_table():
    # 3 true and 1 false positives, 2 false and 4 true negatives
    rows = [two(1, 1)] * 3 + [two(0, 1)] + [two(1, 0)] * 2 + [two(0, 0)] * 4
    assert value(Matthews(), rows) == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    assert value(PickedF1(), rows) == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))
    assert value(Matthews(), [two(1, 1), two(0, 1)]) == 0.0, "one answer to all says nothing"


def graded(grade: float, said: int) -> tuple[Example, list[float]]:
    return row(*"012345", grade=grade), [0.0 if place == said else -200.0 for place in range(6)]


def test_correlations_of_grades():
    line = [graded(2.0 * said + 1, said) for said in range(5)]
    assert value(Pearson(), line) == pytest.approx(1.0) and value(Spearman(), line) == pytest.approx(1.0)
    bent = [graded(float(said**3), said) for said in range(5)]
    # x 0 … 4 about 2, y 0 1 8 27 64 about 20: Σxy 154, Σx² 10, Σy² 2890
    assert value(Pearson(), bent) == pytest.approx(154 / math.sqrt(10 * 2890))
    assert value(Spearman(), bent) == pytest.approx(1.0)
    assert value(Pearson(), [graded(3.0, 1), graded(4.0, 1)]) == 0.0
    assert Pearson().of_choices([(row("0", "1"), [-1.0, -1.0])]) == [None]
    assert ranks([5.0, 1.0, 5.0, 3.0]) == [3.5, 1.0, 3.5, 2.0]
