"""What is left of a win rate when length is taken out."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.evaluate.ratings import controlled


def longer(rows: int, middle: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(middle, 1, rows) * 300


def judged(longer_N: np.ndarray, quality: float, taste: float, seed: int) -> np.ndarray:
    """Verdicts of a judge who sees the better one with this chance at equal lengths, and likes length."""
    bent = np.tanh(longer_N / np.sqrt((longer_N**2).mean()))
    p = 1 / (1 + np.exp(-(np.log(quality / (1 - quality)) + taste * bent)))
    return (np.random.default_rng(seed + 1).random(len(longer_N)) < p).astype(float)


def test_equal_lengths_leave_the_raw_rate():
    won = np.array([1.0, 1.0, 0.5, 0.0, 1.0])
    found = controlled(won, np.zeros(5))
    assert found.rate.value == 0.7 and found.slope.value == 0 and found.spread == 0


def test_a_judge_of_length_alone_finds_nobody_better():
    length = longer(1000, 1.0, 0)
    won = judged(length, 0.5, 1.6, 0)
    found = controlled(won, length)
    assert won.mean() == pytest.approx(0.66, abs=0.02)
    assert found.rate.value == pytest.approx(0.51, abs=0.03)
    assert found.rate.low is not None and found.rate.high is not None and found.rate.low < 0.5 < found.rate.high
    assert found.slope.low is not None and found.slope.low > 1


def test_a_planted_rate_is_found_behind_the_taste_for_length():
    length = longer(20_000, 0.6, 3)
    won = judged(length, 0.6, 1.4, 3)
    assert won.mean() == pytest.approx(0.69, abs=0.015)
    assert _value(won, length) == pytest.approx(0.6, abs=0.012)


def _value(won: np.ndarray, length: np.ndarray) -> float:
    """Without an interval, which would take long of so many rows."""
    from luthier.evaluate.ratings.length import _line
    from luthier.evaluate.ratings.logistic import sigmoid

    bent = np.tanh(length / np.sqrt((length**2).mean()))
    return float(sigmoid(_line(bent, won, np.ones((1, len(won))))[0, 0]))


def test_both_sides_add_up_to_one():
    length = longer(200, 0.3, 5)
    won = judged(length, 0.55, 1.0, 5)
    won[::7] = 0.5
    one, other = controlled(won, length), controlled(1 - won, -length)
    assert one.rate.value + other.rate.value == pytest.approx(1, abs=1e-9)
    assert one.slope.value == pytest.approx(other.slope.value, abs=1e-6)


def test_what_is_always_longer_cannot_be_told_from_what_is_better():
    won = np.array([1.0, 1, 0, 1, 1, 0, 1, 1, 1, 1])
    assert controlled(won, np.full(10, 3.0)).one_sided and controlled(won, np.array([-1.0] * 9 + [4])).one_sided
    assert not controlled(won, np.array([3.0] * 8 + [-1, 0])).one_sided and not controlled(won, np.zeros(10)).one_sided


def test_all_won_is_all_won_and_no_row_is_a_fault():
    assert controlled(np.ones(9), np.arange(9.0)).rate.value == 1
    with pytest.raises(LuthierError, match="no row was judged"):
        controlled(np.array([]), np.array([]))


def test_a_few_rows_have_an_interval_that_holds_the_value():
    won = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0, 0.5])
    found = controlled(won, np.array([5, 9, -3, 40, 1, -20, 7, -8, 2, 0.0])).rate
    assert found.low is not None and found.high is not None and found.low < found.value < found.high
