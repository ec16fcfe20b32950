"""Floating-point operations of a step, by hand; ranges, and how they narrow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from luthier.advisor import forecast, history, speed
from luthier.advisor.forecast import duration, size
from luthier.advisor.hardware import GIB, Hardware, here, named
from luthier.advisor.history import Ended
from luthier.advisor.load import Laid, Load
from luthier.advisor.setup import Setup
from luthier.advisor.trains import Trains
from luthier.errors import LuthierError
from luthier.models.adapters.kit.shape import Shape

SHAPE = Shape("x", blocks=4, width=8, inner=16, keys=4, vocabulary=32, queries=8, heads=2)
LIN = 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 16
LOAD = Load(100, 40, 1000)
LAID = Laid(LOAD, LOAD, 1.0, 10)


def of(first: int = 0, added: int = 50, own: int = 0, head: bool = False, matrices: int = 0) -> Trains:
    return Trains(added, own, first, 0, head, matrices, True)


def test_lora_takes_four_products_a_matrix_and_the_blocks_below_two() -> None:
    both = 2 * 32 * 8 * 40 * 2  # the head: logits, and the gradient that is formed beside them
    attention = 14 * 1000 * 8 * 4
    assert speed.work(Setup(SHAPE, of()), LAID).flops == 4 * (4 * LIN) * 100 + 6 * 50 * 100 + both + attention
    half = speed.work(Setup(SHAPE, of(first=2)), LAID).flops
    below = 2 * 2 * LIN * 100 + 10 * 1000 * 8 * 2
    assert half == 4 * (4 * LIN) * 100 + 6 * 50 * 100 + both + attention - below


def test_full_takes_six_and_the_head_eight() -> None:
    trains = of(added=0, own=SHAPE.total, head=True, matrices=4 * LIN)
    found = speed.work(Setup(SHAPE, trains), LAID)
    assert found.flops == 6 * (4 * LIN) * 100 + 8 * 32 * 8 * 40 + 14 * 1000 * 8 * 4
    assert found.numbers == SHAPE.total


def test_checkpointing_and_a_reference_are_a_forward_pass_more() -> None:
    plain = speed.work(Setup(SHAPE, of()), LAID).flops
    forward = 2 * (4 * LIN) * 100 + 4 * 1000 * 8 * 4
    again = speed.work(Setup(SHAPE, of(), checkpointing=True), LAID).flops
    assert again - plain == forward
    beside = speed.work(Setup(SHAPE, of(), reference="off"), LAID).flops
    assert beside - plain == forward + 2 * 32 * 8 * 40
    assert speed.work(Setup(SHAPE, of(), reference="kept"), LAID).flops == plain


def ended(seconds: float, peak: float = 1.0) -> Ended:
    return Ended("cpu bf16 fused", 1, 1, 1, peak, 1.0, seconds, 1, 1.0, 1.0)


def test_a_range_needs_three_runs_and_spans_them() -> None:
    assert history.spread([ended(1), ended(2)], lambda run: run.seconds) is None
    low, high = history.spread([ended(1), ended(1.2), ended(1.1)], lambda run: run.seconds) or (0, 0)
    assert 0.8 < low < 1.0 and 1.2 < high < 1.45
    # of runs that are all alike the margin stays 5 %
    low, high = history.spread([ended(1)] * 10, lambda run: run.seconds) or (0, 0)
    assert (low, high) == (pytest.approx(0.951, abs=1e-3), pytest.approx(1.051, abs=1e-3))


def test_trials_with_a_tiny_model_tell_nothing_of_others() -> None:
    tiny = replace(ended(9.0), at_rate=0.004)
    assert history.like([tiny, ended(1.0), replace(tiny, steps=100, at_rate=2.1)], "cpu bf16 fused", 1) == [
        ended(1.0),
        replace(tiny, steps=100, at_rate=2.1),
    ]


def test_runs_that_end_narrow_what_is_expected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    setup = Setup(SHAPE, of())
    before = forecast.of(setup, LAID, 1e6, 1)
    assert before.fastest is not None and before.slowest is not None and before.at_rate is not None
    assert before.slowest / before.fastest == pytest.approx(speed.HIGH / speed.LOW, rel=0.3)
    for factor in (1.5, 1.55, 1.6):
        history.add(replace(ended(factor), path=setup.path))
    with history.path().open("a", encoding="utf-8") as file:
        file.write('{"path": "cpu\n[1]\n')  # cut by a full disk, and another program's
    known = list(history.ended())
    assert [run.seconds for run in known] == [1.5, 1.55, 1.6]
    after = forecast.of(setup, LAID, 1e6, 1, known)
    assert after.runs == 3 and after.fastest is not None and after.slowest is not None
    assert after.slowest / after.fastest < before.slowest / before.fastest
    assert after.fastest < 1.55 * before.at_rate < after.slowest
    other = forecast.of(replace(setup, dtype="fp32"), LAID, 1e6, 1, known)
    assert other.runs == 0


def test_without_a_rate_no_time_is_told_and_a_gpu_is_not_calibrated() -> None:
    found = forecast.of(Setup(SHAPE, of(), device="cuda"), LAID, None)
    assert found.fastest is None and "not calibrated here" in found.said_time()
    assert "not calibrated here" in found.said_memory()


def test_what_fits() -> None:
    found = forecast.of(Setup(SHAPE, of()), LAID, None)
    total = found.memory.total
    assert found.fits(Hardware("", "cpu", 2 * total)) is True
    assert found.fits(Hardware("", "cpu", total)) is None
    assert found.fits(Hardware("", "cpu", total / 2)) is False


@pytest.mark.parametrize(
    ("text", "kind", "gib", "count"),
    [
        ("8GB", "cuda", 8, 1), ("8 GB", "cuda", 8, 1), ("4090", "cuda", 24, 1), ("rtx4090", "cuda", 24, 1),
        ("8x80GB", "cuda", 80, 8), ("2x4090", "cuda", 24, 2), ("8xH100", "cuda", 80, 8), ("cpu:16GiB", "cpu", 16, 1),
    ],
)  # fmt: skip
def test_hardware_by_name(text: str, kind: str, gib: float, count: int) -> None:
    found = named(text)
    assert (found.kind, found.count) == (kind, count)
    assert found.memory == pytest.approx(gib * GIB, rel=0.04)


@pytest.mark.parametrize("text", ["8", "4091", "", "0GB", "GB", "0x8GB", "cpu:", "8x", "-8GB"])
def test_hardware_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(LuthierError, match="no hardware"):
        named(text)


def test_this_machine() -> None:
    assert here().memory > 2**28


def test_words_for_people() -> None:
    assert [duration(s) for s in (0.52, 12.3, 240, 7_200, 400_000)] == ["0.5 s", "12 s", "4.0 min", "2.0 h", "4.6 days"]
    assert size(2**20 * 600) == "600 MiB" and size(2**30 * 2.25) == "2.2 GiB"
