"""Credit, worked by hand: what rewards make of responses, of one prompt and of a whole rollout.

Shapes: T = tokens of a response.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.objectives.credit import CREDITS, Judged, Worth

EVERY = [
    *((name, {}) for name in CREDITS.names()),
    ("group", {"scale": "none"}),
    ("whitened", {"baseline": "group"}),
    ("gae", {"whiten": False}),
]
every = pytest.mark.parametrize(("name", "keys"), EVERY, ids=str)


def judged(reward: float, tokens: int = 3, *, values: Sequence[float] | None = None, **known: Any) -> Judged:
    values_T = np.zeros(tokens) if values is None else np.array(values, float)
    return Judged(reward, tokens, values_T=values_T, **known)


def group(*rewards: float) -> list[Judged]:
    """One response a reward, each a token longer than the one before."""
    return [judged(reward, tokens) for tokens, reward in enumerate(rewards, 2)]


def found(name: str, groups: Any, **keys: Any) -> list[list[Worth]]:
    return CREDITS.build(name, keys)(groups)


def advantages(name: str, groups: Any, **keys: Any) -> list[list[list[float]]]:
    return [[worth.advantage_T.tolist() for worth in each] for each in found(name, groups, **keys)]


def firsts(name: str, groups: Any, **keys: Any) -> list[list[float]]:
    """The advantage of each response, the same at each of its tokens."""
    every = advantages(name, groups, **keys)
    assert all(len(set(one)) == 1 for each in every for one in each)
    return [[one[0] for one in each] for each in every]


@every
def test_each_token_of_each_response_has_one(name: str, keys: dict[str, Any]) -> None:
    groups = [group(1.0, 0.0, 0.5), group(0.0), [], group(1.0, 1.0)]
    for worths, given in zip(found(name, groups, **keys), groups, strict=True):
        assert [len(worth.advantage_T) for worth in worths] == [one.tokens for one in given]
        assert all(np.isfinite(worth.advantage_T).all() for worth in worths)
        assert all((worth.return_T is not None) == CREDITS.get(name).critic for worth in worths)


@every
def test_a_response_of_which_nothing_could_be_said_teaches_nothing_and_moves_no_mean(
    name: str, keys: dict[str, Any]
) -> None:
    whole = advantages(name, [group(1.0, 0.0, 0.3), group(0.0, 0.5)], **keys)
    beside = [*group(1.0, 0.0, 0.3), judged(math.nan, 6)]
    with_unknown = advantages(name, [beside, group(0.0, 0.5), [judged(math.nan, 1)]], **keys)
    assert with_unknown[0][3] == [0.0] * 6 and with_unknown[2] == [[0.0]]
    assert [with_unknown[0][:3], with_unknown[1]] == whole


@every
def test_nothing_to_learn_is_nothing(name: str, keys: dict[str, Any]) -> None:
    """No responses; none judged; no tokens."""
    assert found(name, [], **keys) == [] and found(name, [[]], **keys) == [[]]
    assert advantages(name, [[judged(math.nan, 2), judged(math.nan, 0)]], **keys) == [[[0.0, 0.0], []]]
    assert advantages(name, [[judged(1.0, 0), judged(0.0, 0)]], **keys) == [[[], []]]


@pytest.mark.parametrize(("name", "keys"), [case for case in EVERY if case[0] not in ("fixed", "gae")], ids=str)
def test_equal_worth_is_exactly_no_advantage(name: str, keys: dict[str, Any]) -> None:
    """0.1 + 0.1 + 0.1 is not 0.3: a mean of equal numbers is not them, and a spread of 1e-17 is no spread."""
    assert advantages(name, [[judged(0.1)] * 3, [judged(0.1)] * 7], **keys) == [[[0.0] * 3] * 3, [[0.0] * 3] * 7]


def test_group_by_hand() -> None:
    spread = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)
    assert firsts("group", [group(1.0, 0.0, 0.0, 0.0), group(1.0)]) == [
        pytest.approx([0.75 / (spread + 1e-4), *[-0.25 / (spread + 1e-4)] * 3]),
        [0.0],
    ]
    assert firsts("group", [group(1.0, 0.0, 0.0, 0.0)], scale="none") == [pytest.approx([0.75, -0.25, -0.25, -0.25])]


def test_group_does_not_look_at_a_shift_or_much_at_a_scale() -> None:
    plain, *others = (firsts("group", [group(a, b, c)]) for a, b, c in ((1, 0, 0.5), (11, 10, 10.5), (100, 0, 50)))
    assert others[0][0] == pytest.approx(plain[0]) and others[1][0] == pytest.approx(plain[0], rel=3e-4)


def test_leave_one_out_is_the_group_unscaled_by_n_over_n_less_one() -> None:
    rewards = [0.3, 1.0, -2.0, 0.7, 0.1]
    (alone,) = firsts("leave_one_out", [group(*rewards)])
    (unscaled,) = firsts("group", [group(*rewards)], scale="none")
    assert alone == pytest.approx([5 / 4 * one for one in unscaled]) and sum(alone) == pytest.approx(0)
    assert alone[0] == pytest.approx(0.3 - (1.0 - 2.0 + 0.7 + 0.1) / 4)
    assert firsts("leave_one_out", [group(0.9, 0.4)]) == [pytest.approx([0.5, -0.5])]


def test_batch_compares_with_the_rollouts_others() -> None:
    assert firsts("batch", [group(1.0), group(0.0), group(0.5, 0.5)]) == [
        pytest.approx([1.0 - 1 / 3]),
        pytest.approx([0.0 - 2 / 3]),
        pytest.approx([0.0, 0.0]),
    ]


def test_fixed_takes_a_number_off() -> None:
    assert firsts("fixed", [group(0.75), group(0.5)], baseline=0.5) == [[0.25], [0.0]]


@pytest.mark.parametrize("baseline", ["none", "group"])
def test_whitened_has_mean_0_and_variance_1_over_tokens(baseline: str) -> None:
    groups = [group(1.0, 0.0, 3.0), group(0.2, 0.0), group(5.0, 4.0, 4.5)]
    every = np.concatenate(
        [np.array(one) for each in advantages("whitened", groups, baseline=baseline) for one in each]
    )
    assert every.sum() == pytest.approx(0, abs=1e-9) and every.var(ddof=1) == pytest.approx(1, abs=1e-6)


def test_whitened_by_hand() -> None:
    # two responses of 2 and 3 tokens worth 1 and 0: five tokens of mean 2/5
    spread = math.sqrt((2 * 0.6**2 + 3 * 0.4**2) / 4 + 1e-8)
    (found_,) = firsts("whitened", [group(1.0, 0.0)])
    assert found_ == pytest.approx([0.6 / spread, -0.4 / spread])
    # less the group's mean: 1/2 and -1/2, of which the tokens' mean is -1/10
    (found_,) = firsts("whitened", [group(1.0, 0.0)], baseline="group")
    assert found_ == pytest.approx([(0.5 + 0.1) / spread, (-0.5 + 0.1) / spread])


def steps(reward: float, *rewards: float) -> Judged:
    return Judged(reward, len(rewards), np.array(rewards), np.zeros(len(rewards)))


def test_rewards_of_tokens_count_from_the_token_on() -> None:
    """Responses worth 1 + (0, 2) and 0 + (1, 0, 3): what is still to come is (3, 3) and (4, 3, 3)."""
    both = [steps(1.0, 0.0, 2.0), steps(0.0, 1.0, 0.0, 3.0)]
    assert advantages("fixed", [both]) == [[[3.0, 3.0], [4.0, 3.0, 3.0]]]
    # behind its end the first response still counts by its reward as a whole
    assert advantages("group", [both], scale="none") == [[[-0.5, 0.0], [0.5, 0.0, 1.0]]]
    assert advantages("leave_one_out", [both]) == [[[-1.0, 0.0], [1.0, 0.0, 2.0]]] == advantages("batch", [both])
    every = np.array([3.0, 3.0, 4.0, 3.0, 3.0])
    white = (every - every.mean()) / np.sqrt(every.var(ddof=1) + 1e-8)
    (found_,) = advantages("whitened", [both])
    assert np.concatenate(found_) == pytest.approx(white)
    # the spread of whole worths is that of 3 and 4, at the second place of 3 and 3, at the third of 1 and 3
    spread = math.sqrt((0.5 + 0.0 + 2.0) / 3) + 1e-4
    (found_,) = advantages("group", [both])
    assert np.concatenate(found_) == pytest.approx(np.array([-0.5, 0.0, 0.5, 0.0, 1.0]) / spread)


def test_wholes_of_equal_worth_may_differ_in_their_steps() -> None:
    ((first, second),) = advantages("group", [[steps(0.0, 1.0, -1.0), steps(0.0, -1.0, 1.0)]])
    assert first == pytest.approx([0.0, -1 / (1.0 + 1e-4)]) and second == pytest.approx([0.0, 1 / (1.0 + 1e-4)])


def test_what_comes_later_may_count_less() -> None:
    assert steps(2.0, 1.0, 0.0, 4.0).to_come_T(0.5).tolist() == [1 + 0.5 * (0 + 0.5 * 6), 3.0, 6.0]
    assert steps(2.0, 1.0, 0.0, 4.0).to_come_T().tolist() == [7.0, 6.0, 6.0]


# with a critic
VALUES, REWARDS = np.array([0.5, -0.2, 0.8]), np.array([0.1, 0.0, -0.3])


def one(cut: bool = False, reward: float = 1.0) -> list[list[Judged]]:
    return [[Judged(reward, 3, REWARDS, VALUES, cut)]]


def test_gae_at_lambda_1_is_what_came_less_what_was_expected() -> None:
    ((worth,),) = found("gae", one(), lam=1.0, whiten=False)
    assert worth.advantage_T == pytest.approx(np.array([0.8, 0.7, 0.7]) - VALUES)
    assert worth.return_T == pytest.approx(np.array([0.8, 0.7, 0.7]))


def test_gae_at_lambda_0_is_one_step() -> None:
    ((worth,),) = found("gae", one(), lam=0.0, whiten=False, gamma=0.9)
    assert worth.advantage_T == pytest.approx([0.1 + 0.9 * -0.2 - 0.5, 0.9 * 0.8 + 0.2, 0.7 - 0.8])


def test_gae_without_a_critics_opinion_fades_by_lambda() -> None:
    ((worth,),) = found("gae", [[judged(2.0, 4)]], lam=0.9, whiten=False)
    assert worth.advantage_T == pytest.approx([2 * 0.9**3, 2 * 0.9**2, 2 * 0.9, 2.0])


def test_gae_of_a_critic_that_knows_is_0() -> None:
    ((worth,),) = found("gae", [[judged(0.7, 3, values=[0.7] * 3)]], lam=0.8, whiten=False)
    assert worth.advantage_T == pytest.approx([0.0] * 3, abs=1e-12) and worth.return_T == pytest.approx([0.7] * 3)


def test_a_cut_response_ends_or_goes_on_as_the_critic_expected() -> None:
    """At lambda 1, where nothing else of the critic counts."""
    for cut, bootstrap, after in ((False, True, 0.0), (True, False, 0.0), (True, True, 0.8)):
        ((worth,),) = found("gae", one(cut), lam=1.0, whiten=False, bootstrap=bootstrap)
        assert worth.return_T == pytest.approx(np.array([0.8, 0.7, 0.7]) + after), (cut, bootstrap)


@pytest.mark.parametrize(("tokens", "lam"), [(1, 0.0), (19, 0.0), (20, 0.0), (40, 0.5), (100, 0.8), (1000, 0.98)])
def test_vapos_lambda_grows_with_length_and_is_never_below_0(tokens: int, lam: float) -> None:
    assert CREDITS.build("gae", {"adaptive": 0.05}).lam_of(tokens) == pytest.approx(lam)


def test_the_critic_may_learn_by_a_lambda_of_its_own() -> None:
    ((worth,),) = found("gae", one(), lam=0.0, lam_value=1.0, whiten=False)
    assert worth.return_T == pytest.approx(np.array([0.8, 0.7, 0.7])), "what truly came"
    assert worth.advantage_T == pytest.approx([0.1 - 0.2 - 0.5, 0.8 + 0.2, 0.7 - 0.8])
    ((worth,),) = found("gae", one(), lam=1.0, adaptive=0.05, whiten=False)
    assert worth.advantage_T == pytest.approx([0.1 - 0.2 - 0.5, 0.8 + 0.2, 0.7 - 0.8]), "three tokens: lambda 0"
    assert worth.return_T == pytest.approx(np.array([0.8, 0.7, 0.7])), "lam is the critic's"


def test_gae_whitens_advantages_and_not_returns() -> None:
    groups = [[judged(1.0, 5, values=[0.3] * 5), judged(0.0, 2)], [judged(0.4, 7)]]
    plain, white = (found("gae", groups, whiten=flag) for flag in (False, True))
    every = np.concatenate([worth.advantage_T for each in white for worth in each])
    assert every.mean() == pytest.approx(0, abs=1e-12) and every.var(ddof=1) == pytest.approx(1, abs=1e-5)
    for one_, other in zip(plain, white, strict=True):
        assert all((a.return_T == b.return_T).all() for a, b in zip(one_, other, strict=True))


def test_gae_without_values_says_so() -> None:
    with pytest.raises(ValueError, match="what a critic expected"):
        found("gae", [[Judged(1.0, 3)]])


@pytest.mark.parametrize(
    ("name", "keys", "told"),
    [
        ("gruop", {}, "did you mean 'group'"),
        ("group", {"scale": "max"}, "'std' or 'none'"),
        ("gae", {"lam": 1.5}, "less than or equal to 1"),
        ("gae", {"adaptive": 0}, "greater than 0"),
        ("leave_one_out", {"scale": "std"}, "has no key 'scale'"),
    ],
)
def test_what_makes_no_sense_is_refused(name: str, keys: dict[str, Any], told: str) -> None:
    with pytest.raises(LuthierError, match=told):
        CREDITS.build(name, keys)
