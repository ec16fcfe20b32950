import io

import pytest
from rich.console import Console

from luthier.train.loop import allocator, memory
from luthier.train.telemetry.screen import STILL_EVERY, Screen, clock

EVENT = {"kind": "step", "loss": 1.23456, "tokens_per_s": 1234.5, "memory": 3 * 2**29}


def shown(terminal: bool, steps: list[int], total: int = 10) -> str:
    out = io.StringIO()
    with Screen(total, Console(file=out, force_terminal=terminal, width=120)) as screen:
        for step in steps:
            screen.step({**EVENT, "step": step})
        screen.say("a [word] stays")
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal() -> None:
    lines = shown(False, list(range(1, 11))).splitlines()
    assert lines[0].startswith("step 1/10  loss 1.2346  1,234 tokens/s") and lines[0].endswith("1.5 GiB")
    assert lines[1].startswith("step 10/10")  # the ones between came too soon after
    assert lines[2] == "a [word] stays"
    assert "\x1b" not in "".join(lines)


def test_a_live_line_in_a_terminal() -> None:
    text = shown(True, [1, 10])
    assert "\x1b" in text and "10/10" in text and "loss 1.2346" in text and "1.5 GiB" in text


def test_time_left_counts_the_steps_of_this_sitting_only() -> None:
    screen = Screen(100, Console(file=io.StringIO()))
    screen.continue_at(50)
    assert "1:30 left" in screen.numbers({**EVENT, "step": 70}, screen.began + 60)


def test_what_the_model_said_stands_beside_the_steps_that_learn_from_it() -> None:
    screen = Screen(100, Console(file=io.StringIO()))
    said = {"reward": 0.61, "reward_std": 0.2, "right": 0.5, "reward_json_match": 0.5, "reward_form": 1.0}
    shape = {"silent": 0.5, "length": 8.4, "cut": 0.0, "entropy": 0.314}
    spent = {"speaking_seconds": 2.0, "scoring_seconds": 0.04, "made_per_s": 512.0}
    screen.rollout({"kind": "rollout", "step": 1, **said, **shape, **spent})
    line = screen.numbers({**EVENT, "step": 1, "clipped": 0.012, "kl": 0.0031, "mismatch_k3": 1.6e-3}, screen.began + 9)
    for part in (
        "reward 0.610 ± 0.20 (right 0.50, json_match 0.50, form 1.00)", "silent 50%", "length 8 (cut 0%)",
        "entropy 0.31", "said in 2.0 s, judged in 0.0 s, 512 tokens/s", "clipped 1.2%", "KL 0.0031", "mismatch 1.6e-03",
    ):  # fmt: skip
        assert part in line


def test_the_loss_stands_where_it_says_something_and_no_rollout_beside_steps_without_one() -> None:
    screen = Screen(100, Console(file=io.StringIO()))
    spent = {"speaking_seconds": 2.0, "scoring_seconds": 0.0, "made_per_s": 512.0}
    screen.rollout({"kind": "rollout", "step": 1, "length": 8.4, "cut": 0.0, "entropy": 0.3, **spent})
    distilled = screen.numbers({**EVENT, "step": 1}, screen.began + 9)
    assert "length 8" in distilled and "loss 1.2346" in distilled
    assert "loss" not in screen.numbers({**EVENT, "step": 1, "clipped": 0.0}, screen.began + 9), "a policy gradient's"
    screen.rollout(None)
    read = screen.numbers({**EVENT, "step": 2, "loss": -1e-9}, screen.began + 9)
    assert "the data's own answers  loss 0.0000" in read and "length" not in read


def test_a_rollout_of_minutes_says_how_far_it_is() -> None:
    out = io.StringIO()
    screen = Screen(10, Console(file=out))
    screen.answering(3, 128)
    assert out.getvalue() == ""
    screen.began -= STILL_EVERY
    screen.answering(40, 128)
    screen.answering(41, 128)
    assert out.getvalue().split() == ["answering", "40/128"]
    live = io.StringIO()
    with Screen(10, Console(file=live, force_terminal=True, width=120)) as seen:
        seen.answering(1, 8)
    assert "answering 1/8" in live.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61, "1:01"), (3599.6, "1:00:00"), (7325, "2:02:05")])
def test_seconds_read_as_a_clock(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_memory_is_that_of_this_process() -> None:
    import torch

    before = memory.used(torch.device("cpu"))
    # far more than an earlier test may have freed and malloc kept
    held = torch.ones(1 << 30, dtype=torch.uint8)
    assert memory.used(torch.device("cpu")) - before > 512 << 20
    assert memory.peak(torch.device("cpu")) >= held.nbytes


def test_the_allocator_says_what_it_did() -> None:
    line = allocator.keep_freed_memory()
    assert line.startswith("allocator: ")
