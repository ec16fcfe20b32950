"""pass@k against its definition: the share of all draws of k answers in which one is right."""

from itertools import combinations

import pytest

from luthier.errors import LuthierError
from luthier.scorers.pass_at_k import mean_pass_at_k, pass_at_k


@pytest.mark.parametrize("n", range(1, 8))
def test_it_is_the_share_of_draws_with_a_right_answer(n: int) -> None:
    for c in range(n + 1):
        answers = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            draws = [any(draw) for draw in combinations(answers, k)]
            assert pass_at_k(n, c, k) == pytest.approx(sum(draws) / len(draws), abs=1e-12)


def test_its_ends() -> None:
    assert pass_at_k(10, 0, 5) == 0.0 and pass_at_k(10, 6, 5) == 1.0 and pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert 0.0 < pass_at_k(10_000, 1, 5_000) < 1.0, "large numbers do not overflow"


def test_the_mean_is_over_prompts_and_leaves_out_what_was_not_judged() -> None:
    assert mean_pass_at_k([[1.0, 0.0, 0.0, None], [1.0, 1.0, 1.0, 0.0], [None]], 2) == pytest.approx((2 / 3 + 1.0) / 2)
    assert mean_pass_at_k([[None]], 1) is None


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 5), (4, 2, 0)])
def test_what_cannot_be_told_is_an_error(n: int, c: int, k: int) -> None:
    with pytest.raises(LuthierError):
        pass_at_k(n, c, k)
