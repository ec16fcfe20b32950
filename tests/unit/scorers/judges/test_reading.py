"""What judges say, read: marks, scales, letters, boxes, and the probabilities of tokens."""

from __future__ import annotations

import math

import pytest

from luthier.scorers.judges import reading


@pytest.mark.parametrize(
    ("said", "score"),
    [
        ("Good. [[7]]", 7.0),
        ("5 reasons speak for it, 2 against. [[9]]", 9.0),
        ("First I thought [[3]], but [[ 8 ]]", 8.0),
        ("[[7.5]]", 7.5),
        ("[[7/10]]", 7.0),
        ("[[7 out of 10]]", 7.0),
        ("[[70/100]]", None),
        ("[[7/100]]", None),
        ("[[11]]", None),
        ("[[0]]", None),
        ("[[-3]]", None),
        ("[[A]]", None),
        ("结论：【8】", 8.0),
        ("**Score:** 6", 6.0),
        ("Score: 3. No, my rating is 4/10", 4.0),
        ("评分：9", 9.0),
        ("得分为 2", 2.0),
        ("8", 8.0),
        (" 8/10.\n", 8.0),
        ("10", 10.0),
        ("I like it for 3 reasons", None),
        ("", None),
        ("score", None),
        ("[[seven]] score: 7", None),
    ],
)
def test_a_score_is_the_last_mark_and_never_a_number_by_the_way(said: str, score: float | None):
    assert reading.score(said, 1, 10) == score


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("A is shorter. [[A]]", 1.0),
        ("The first says [[A]] itself, but [[B]]", 0.0),
        ("[[C]]", 0.5),
        ("[[tie]]", 0.5),
        ("【b】", 0.0),
        ("B", 0.0),
        (" (A).\n", 1.0),
        ("**B**", 0.0),
        ("A better answer is hard to imagine", None),
        ("[[D]]", None),
        ("Both are good.", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_mark_or_the_letter_alone(said: str, verdict: float | None):
    assert reading.verdict(said) == verdict


@pytest.mark.parametrize(
    ("said", "count", "scores"),
    [
        (r"Scores: \boxed{7, 3}", 2, (7.0, 3.0)),
        (r"\boxed{1} and so \boxed{7，3、10}", 3, (7.0, 3.0, 10.0)),
        (r"\boxed{ 4 }", 1, (4.0,)),
        (r"\boxed{7, 3}", 3, None),
        (r"\boxed{7, 3}", 1, None),
        (r"\boxed{7, 11}", 2, None),
        (r"\boxed{7, x}", 2, None),
        (r"\boxed{7, 3,}", 2, None),
        ("7, 3", 2, None),
        (r"\boxed{7, 3", 2, None),
    ],
)
def test_scores_are_one_each_or_none_at_all(said: str, count: int, scores: tuple[float, ...] | None):
    assert reading.scores(said, count, 1, 10) == scores


def place(**p: float) -> tuple[tuple[str, float], ...]:
    return tuple((token.replace("_", " "), math.log(value)) for token, value in p.items())


def test_labels_share_what_is_theirs_and_blanks_come_before():
    assert reading.likelihoods((place(A=0.6, B=0.2, Sure=0.2),), "AB") == pytest.approx({"A": 0.75, "B": 0.25})
    spaced = (place(_A=0.3, A=0.3, _B=0.2, x=0.2),)
    assert reading.likelihoods(spaced, "AB") == pytest.approx({"A": 0.75, "B": 0.25})
    blank = ((("\n", -0.1), ("A", -3.0)), (("[[", -0.1), ("B", -4.0)), place(B=1.0))
    assert reading.likelihoods(blank, "AB") == {"A": 0.0, "B": 1.0}
    assert reading.likelihoods((place(Sure=0.97, A=0.03),), "AB") is None, "it was about to write something else"
    assert reading.likelihoods((), "AB") is None and reading.likelihoods(((),), "AB") is None
    assert sum((reading.likelihoods((place(A=0.17, B=0.31),), "AB") or {}).values()) == pytest.approx(1.0)


def test_the_expected_score_is_the_mean_over_the_scale():
    places = (tuple((str(n), math.log(p)) for n, p in {1: 0.1, 3: 0.2, 5: 0.5, 7: 0.1}.items()),)
    assert reading.expectation(places, 1, 5) == pytest.approx((0.1 * 1 + 0.2 * 3 + 0.5 * 5) / 0.8)
    assert reading.expectation(places, 8, 9) is None
