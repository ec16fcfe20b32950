"""Bradley and Terry's strengths in Elo's numbers, by hand and against another way of finding them."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.evaluate.ratings import Games, elo, parts, rated, strengths
from luthier.evaluate.ratings.strengths import SCALE, expected


def games(*results: tuple[str, str, int, int]) -> Games:
    """So many wins of either side of each two, each over a question of its own."""
    made, question = Games(), 0
    for one, other, won, lost in results:
        for place in range(won + lost):
            made.add(one, other, float(place < won), str(question))
            question += 1
    return made


def minorized(counts: dict[tuple[str, str], tuple[float, float]], rounds: int = 5000) -> dict[str, float]:
    """Hunter's iteration (2004), without a ridge: p ← wins / Σ games / (p + p')."""
    names = sorted({name for pair in counts for name in pair})
    p = dict.fromkeys(names, 1.0)
    for _ in range(rounds):
        new = {}
        for name in names:
            won = sum(w[pair.index(name)] for pair, w in counts.items() if name in pair)
            new[name] = won / sum(sum(w) / (p[pair[0]] + p[pair[1]]) for pair, w in counts.items() if name in pair)
        middle = math.exp(sum(map(math.log, new.values())) / len(new))
        p = {name: value / middle for name, value in new.items()}
    return {name: math.log(value) for name, value in p.items()}


def test_three_wins_of_four_are_191_points():
    found = elo(games(("tuned", "base", 75, 25)), anchor="base")
    assert found["base"] == 0.0
    assert round(found["tuned"], 2) == 190.85
    assert expected(found["tuned"], found["base"]) == pytest.approx(0.75, abs=1e-5)


def test_a_circle_leaves_all_alike():
    found = elo(games(("a", "b", 10, 0), ("b", "c", 10, 0), ("c", "a", 10, 0)))
    assert all(value == pytest.approx(0, abs=1e-9) for value in found.values())


def test_a_tie_is_half_a_win_for_each():
    ties = Games()
    for question in range(10):
        ties.add("a", "b", 0.5, str(question))
    assert elo(ties, "a")["b"] == pytest.approx(0, abs=1e-9)
    mixed = games(("a", "b", 5, 0))
    for question in range(5):
        mixed.add("b", "a", 0.5, f"t{question}")
    assert elo(mixed, "b")["a"] == pytest.approx(400 * math.log10(3), abs=0.02)  # 7.5 of 10


def test_it_is_where_another_iteration_ends():
    made = games(("a", "b", 13, 7), ("b", "c", 9, 4), ("a", "c", 5, 6), ("c", "d", 8, 3))
    ours, theirs = strengths(made), minorized(dict(made.table()))
    assert ours == pytest.approx(theirs, abs=2e-4)  # the ridge is all that differs
    assert SCALE * abs(ours["a"] - theirs["a"]) < 0.05


def test_who_is_told_first_does_not_matter():
    one, other = Games(), Games()
    for question in range(8):
        one.add("a", "b", float(question < 6), str(question))
        other.add("b", "a", 1 - float(question < 6), str(question))
    assert one.table() == other.table()


def test_models_that_never_met_are_not_compared_and_their_parts_are_named():
    made = games(("a", "b", 3, 2), ("c", "d", 3, 2))
    with pytest.raises(LuthierError, match=r"2 parts that never met.*a, b; c, d"):
        elo(made)
    assert parts(["a", "b", "c", "d"], made.played) == [["a", "b"], ["c", "d"]]
    made.add("d", "a", 1.0, "bridge")
    assert set(elo(made)) == {"a", "b", "c", "d"}
    with pytest.raises(LuthierError, match="no games"):
        strengths(Games())
    with pytest.raises(LuthierError, match="meets itself"):
        made.add("a", "a", 1.0, "q")


def test_intervals_are_over_questions_and_the_anchor_has_none():
    found = rated(games(("tuned", "base", 75, 25)), "base")
    tuned = found["tuned"].elo
    assert list(found) == ["tuned", "base"]
    assert tuned.low is not None and tuned.high is not None and 100 < tuned.low < 150 and 240 < tuned.high < 310
    assert found["base"].elo.value == 0 and found["base"].elo.low is None
    assert (found["tuned"].share, found["tuned"].games, found["tuned"].open_end) == (0.75, 100, None)
    repeated = Games()  # the same ten questions ten times over show no more than ten
    for time in range(10):
        for question in range(10):
            repeated.add("tuned", "base", float(question < 7), str(question))
        assert time >= 0
    wide, once = rated(repeated, "base")["tuned"].elo, rated(games(("tuned", "base", 7, 3)), "base")["tuned"].elo
    assert wide.value == pytest.approx(once.value, abs=0.5)
    assert wide.high is not None and wide.low is not None and wide.high - wide.low > 300


def test_all_won_has_no_upper_end_and_no_interval_of_zero_width():
    found = rated(games(("tuned", "base", 20, 0)), "base")
    assert found["tuned"].open_end == "above" and found["base"].open_end == "below"
    assert found["tuned"].elo.low is None and found["tuned"].elo.value > 1000
    with pytest.raises(LuthierError, match="has played no game"):
        rated(games(("a", "b", 1, 0)), "base")


def played(true: dict[str, float], questions: int, seed: int) -> Games:
    draw, made = np.random.default_rng(seed), Games()
    for question in range(questions):
        for one, other in combinations(true, 2):
            made.add(one, other, float(draw.random() < expected(true[one], true[other])), str(question))
    return made


def test_planted_strengths_are_found():
    true = {"a": 0.0, "b": 100.0, "c": 250.0}
    found = elo(played(true, 4000, 0), "a")
    assert found == pytest.approx(true, abs=20)


def test_intervals_hold_what_was_planted_as_often_as_they_say():
    true = {"a": 0.0, "b": 100.0, "c": 250.0}
    held = []
    for seed in range(20):
        ratings = rated(played(true, 60, seed), "a")
        for name in ("b", "c"):
            low, high = ratings[name].elo.low, ratings[name].elo.high
            assert low is not None and high is not None
            held.append(low <= true[name] <= high)
    assert sum(held) >= 34  # of 40; 38 are due
