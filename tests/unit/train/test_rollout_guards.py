"""Guards over rollouts, each on a planted series: they warn once, in time, with what to do, and not before."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from luthier.errors import LuthierError
from luthier.train.rollouts.guards import RolloutGuards

GOOD = {"reward": 0.5, "right": 0.5, "unsaid": 0.0, "silent": 0.3, "cut": 0.0, "length": 20.0, "entropy": 1.0}


def rollouts(series: Iterable[Mapping[str, float]], guards: RolloutGuards | None = None) -> list[tuple[int, str, str]]:
    """(which rollout, guard, text) of all warnings."""
    guards = guards or RolloutGuards()
    return [
        (number, guard, text) for number, each in enumerate(series) for guard, text in guards.rollout({**GOOD, **each})
    ]


def steps(series: Iterable[Mapping[str, float]]) -> list[tuple[int, str, str]]:
    guards = RolloutGuards()
    return [(number, guard, text) for number, each in enumerate(series) for guard, text in guards.step(each)]


def test_a_healthy_run_hears_nothing() -> None:
    growing = [{"reward": 0.3 + 0.02 * i, "right": 0.3 + 0.02 * i, "entropy": 1 - 0.02 * i} for i in range(30)]
    assert rollouts(growing) == []
    healthy = {"mismatch_k3": 1.5e-3, "drift": 0.004, "kl": 0.05, "explained": 0.2}
    assert steps([healthy] * 30) == [], "bf16 alone gives a mismatch of 1.6e-3"


@pytest.mark.parametrize(
    ("planted", "guard", "when", "words"),
    [
        ([{"silent": 0.8}] * 9, "silent", 4, "rollout.dynamic"),
        ([{}, {"cut": 0.25}], "cut", 1, "max_new_tokens"),
        ([{"cut": 0.6}], "cut_first", 0, "instruct model"),
        ([{}] * 10 + [{"length": 45.0}], "length", 10, "longer (20 → 45 tokens)"),
        ([{}] * 10 + [{"length": 9.0}], "length", 10, "shorter"),
        ([{}, {"entropy": 0.15}], "collapse", 1, "clip_high"),
        ([{}, {"entropy": 3.2}], "scatter", 1, "train.lr"),
        ([{"unsaid": 0.02}], "unsaid", 0, "null"),
        (
            [{"reward": 0.2, "right": 0.0}] * 10 + [{"reward": 0.3, "right": 0.0}] * 10,
            "form",
            19,
            "gate: true",
        ),
    ],
)
def test_what_looks_wrong_in_a_rollout(planted: Any, guard: str, when: int, words: str) -> None:
    found = rollouts([*planted, *planted[-1:] * 3])
    assert [(number, name) for number, name, _ in found] == [(when, guard)], "once, and no other"
    assert words in found[0][2]


@pytest.mark.parametrize(
    ("planted", "guard", "when", "words"),
    [
        ([{"mismatch_k3": 1.6e-3}] * 3 + [{"mismatch_k3": 3.3e-3}], "mismatch", 3, "correction=truncate"),
        ([{"mismatch_k3": 1e-5}, {"mismatch_k3": 0.9e-3}, {"mismatch_k3": 1.1e-3}], "mismatch", 2, "1.0e-05 → 1.1e-03"),
        ([{"mismatch_k3": 0.4}], "mismatch", 0, "is it the same model"),
        ([{"drift": 0.009}, {"drift": 0.011}], "drift", 1, "train.lr"),
        ([{"kl": 0.1}, {"kl": 0.25}], "kl", 1, "objective.kl"),
        ([{"explained": -0.1}] * 5 + [{"explained": 0.1}] + [{"explained": -0.2}] * 10, "critic", 15, "warm-up"),
    ],
)
def test_what_looks_wrong_in_a_step(planted: Any, guard: str, when: int, words: str) -> None:
    found = steps([*planted, *planted[-1:] * 3])
    assert [(number, name) for number, name, _ in found] == [(when, guard)]
    assert words in found[0][2]


def test_a_judge_that_says_nothing_ends_the_run() -> None:
    with pytest.raises(LuthierError, match="could say nothing of 25% of the answers"):
        rollouts([{}, {"unsaid": 0.25}])


def test_ten_rollouts_with_nothing_to_learn_end_the_run_by_what_is_right() -> None:
    with pytest.raises(LuthierError, match=r"nothing is learnt.*\n.*easier prompts"):
        rollouts([{"silent": 1.0, "right": 0.0}] * 10)
    taught = RolloutGuards()
    rollouts([{"silent": 0.5, "right": 0.0}, *[{"silent": 1.0, "right": 0.0}] * 10], taught)
    assert taught.learnt, "what it has learnt is kept, whatever the first scorer calls it"
    guards = RolloutGuards()
    found = rollouts([{"silent": 1.0, "right": 1.0, "reward": 1.0}] * 10, guards)
    assert guards.learnt and [name for _, name, _ in found] == ["silent", "learnt"]
    assert not rollouts([{"silent": 1.0, "right": 1.0}] * 9 + [{"silent": 0.9, "right": 1.0}])[1:]


def test_reward_up_while_the_held_out_score_falls_shows_what_is_paid() -> None:
    guards = RolloutGuards()
    rollouts([{"reward": 0.2}] * 5, guards)
    assert guards.held_out(0.4, []) == []
    rollouts([{"reward": 0.8}] * 10, guards)
    ((name, text),) = guards.held_out(0.3, ["the best answer is 42", "42 42 42"])
    assert name == "parting" and "0.20 → 0.80" in text and "0.40 → 0.30" in text and "'42 42 42'" in text
    assert guards.held_out(0.1, ["again"]) == [], "once"


def test_longer_answers_are_no_fault_where_the_held_out_score_rises() -> None:
    guards = RolloutGuards()
    rollouts([{}] * 10, guards)
    guards.held_out(0.2, [])
    guards.held_out(0.4, [])
    assert rollouts([{"length": 60.0}], guards) == []


def test_guards_go_on_where_a_checkpoint_left_them() -> None:
    series = [{"silent": 0.8, "length": 20.0 + i} for i in range(20)]
    whole = rollouts(series)
    first, second = RolloutGuards(), RolloutGuards()
    before = rollouts(series[:7], first)
    second.load_state(json.loads(json.dumps(first.state())))
    after = [(number + 7, guard, text) for number, guard, text in rollouts(series[7:], second)]
    assert before + after == whole
