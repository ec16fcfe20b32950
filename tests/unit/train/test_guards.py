import pytest
import tiny
import torch

from luthier.train.loop import memory
from luthier.train.loop.guards import Guards, not_finite


def seen(guards: Guards, losses: list[float]) -> list[tuple[int, str]]:
    return [(step, name) for step, loss in enumerate(losses, 1) for name, _ in guards.observe(loss, {})]


def test_a_low_loss_warns_of_memorising_once() -> None:
    guards = Guards(stall_window=1000, per_token=True)
    assert seen(guards, [1.0] * 5 + [0.1] * 30) == [(14, "memorising")]  # the mean of 1.0 and nine 0.1 is 0.19


def test_a_loss_that_is_not_per_token_may_be_low() -> None:
    assert seen(Guards(stall_window=1000, per_token=False), [0.01] * 30) == []


def test_a_loss_that_does_not_fall_warns_once_and_says_what_to_check() -> None:
    guards = Guards(stall_window=20, per_token=True)
    assert seen(guards, [3.0] * 19) == []
    (name, text), *others = guards.observe(3.0, {})
    assert (name, others) == ("stall", [])
    assert "last 20 steps" in text and "train.lr" in text
    assert seen(guards, [3.0] * 50) == []


def test_a_falling_loss_does_not_warn() -> None:
    assert seen(Guards(stall_window=20, per_token=True), [3.0 - 0.01 * step for step in range(200)]) == []


def test_a_resumed_guard_warns_as_the_whole_one() -> None:
    losses = [2.0 - 0.05 * step for step in range(39)] + [0.1] * 40
    whole = seen(Guards(stall_window=20, per_token=True), losses)
    first, second = Guards(20, True), Guards(20, True)
    early = seen(first, losses[:41])
    second.load_state(first.state())
    late = [(step + 41, name) for step, name in seen(second, losses[41:])]
    assert early + late == whole
    assert {name for _, name in whole} == {"memorising", "stall"}


def test_the_error_names_rows_step_and_rate() -> None:
    error = not_finite(
        "the loss is not finite", 12, 3e-4, [one.source for one in tiny.Store(10).encoded], "step 8 is kept"
    )
    assert "rows.jsonl:1, rows.jsonl:2" in str(error.where) and "and 2 more" in str(error.where)
    assert "step 12" in error.what and "0.0003" in error.what and "step 8 is kept" in error.what


def test_out_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as cpu:
        torch.empty(2**60)
    assert memory.ran_out(cpu.value)
    assert memory.ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert memory.ran_out(MemoryError())
    with pytest.raises(RuntimeError) as shapes:
        torch.zeros(2) @ torch.zeros(3)
    assert not memory.ran_out(shapes.value)
