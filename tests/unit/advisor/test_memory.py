"""The memory of a run, by numbers worked by hand and by runs that were measured elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest

from luthier.advisor import memory
from luthier.advisor.load import Laid, Load
from luthier.advisor.setup import Setup
from luthier.advisor.trains import trains
from luthier.models.adapters import named
from luthier.models.adapters.kit.shape import DEFAULT
from luthier.recipe import Plugin

SHAPE = replace(DEFAULT, queries=576, heads=9)
MIB = 2**20


def setup(*adapt: Plugin, **keys: object) -> Setup:
    return Setup(SHAPE, trains(SHAPE, named(adapt)), **keys)  # type: ignore[arg-type]


def lora(r: int = 16) -> Plugin:
    return Plugin(name="lora", args={"r": r})


def test_what_a_fused_block_keeps_of_a_token() -> None:
    # bf16: 2 (2·576 + 576 + 2·192 + 576 + 2·1536 + 7·16) + 4 (2 + 9)
    assert memory.kept(setup(lora())) == 11_788
    # fp32 keeps no log-sum-exps: 4 (…) + 4·2
    assert memory.kept(setup(lora(), dtype="fp32")) == 2 * 11_744 + 8


def test_weights_and_what_trains() -> None:
    assert setup(lora()).weights == 2 * 134_515_008
    assert setup(lora()).stepped == (4 + 8) * 4_884_480
    full = setup(Plugin(name="full"))
    assert full.stepped == (4 + 8) * 134_515_008
    assert replace(full, dtype="fp32").stepped == 8 * 134_515_008
    assert replace(full, optimizer="adafactor", masters=False).stepped == pytest.approx(0.1 * 134_515_008)
    # codes of the blocks' matrices, everything else in bf16
    inside = 30 * (2 * 576 * 576 + 2 * 576 * 192 + 3 * 576 * 1536)
    assert setup(lora(), quantize="nf4").weights == pytest.approx(0.52 * inside + 2 * (134_515_008 - inside))


def test_below_what_trains_nothing_is_kept() -> None:
    half = setup(Plugin(name="freeze", args={"bottom": 15}), lora())
    assert half.trains.first == 15 and half.trains.added == 4_884_480 // 2
    load = Load(2048, 1024, 2048 * 100)
    whole = memory.peak(setup(lora()), load)
    assert memory.peak(half, load).activations == pytest.approx(whole.activations / 2)


def test_the_first_step_has_no_state_and_later_micro_batches_find_gradients() -> None:
    full, heavy, light = setup(Plugin(name="full")), Load(800, 400, 80_000), Load(100, 50, 10_000)
    numbers = 134_515_008
    alone = memory.most(full, Laid(light, light, 1.0, 2, first=heavy)).total
    assert alone == max(memory.peak(full, heavy).total - 8 * numbers, memory.peak(full, light).total)
    later = memory.most(full, Laid(heavy, heavy, 2.0, 9, first=light, later=heavy))
    assert later.gradients == 4 * numbers
    assert later.total == memory.peak(full, heavy).total + 4 * numbers
    assert memory.most(full, Laid(heavy, heavy, 1.0, 9, first=light)) == memory.peak(full, heavy)


MEASURED: dict[str, tuple[int, int, tuple[Plugin, ...], bool]] = {
    "LoRA 16, 1,344 tokens": (1344, 1432, (lora(),), False),
    "LoRA 16, 2,048 tokens": (2048, 1689, (lora(),), False),
    "LoRA 16, 4,096 tokens": (4096, 2474, (lora(),), False),
    "full": (1024, 3551, (Plugin(name="full"),), False),
    "freeze 15 and LoRA": (2048, 1305, (Plugin(name="freeze", args={"bottom": 15}), lora()), False),
    "LoRA 128": (2048, 2170, (lora(128),), False),
    "checkpointing": (2048, 1133, (lora(),), True),
}
"""Tokens of the heaviest micro-batch and peak in MiB of runs in bf16 on two cores with AVX512-BF16, November 2026."""


@pytest.mark.parametrize("name", MEASURED)
def test_runs_that_were_measured_on_another_machine_are_told_within_a_tenth(name: str) -> None:
    tokens, came, adapt, checkpointing = MEASURED[name]
    told = memory.peak(setup(*adapt, checkpointing=checkpointing), Load(tokens, 0.55 * tokens, 100 * tokens)).total
    assert told / MIB == pytest.approx(came, rel=0.10)
