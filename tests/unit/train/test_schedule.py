import math

import pytest

from luthier.errors import LuthierError
from luthier.train import SCHEDULES
from luthier.train.optim.schedule import due_after, warmup_steps


def factors(name: str, total: int, warmup: int, **keys: float) -> list[float]:
    schedule = SCHEDULES.build(name, keys)
    return [schedule.factor(step, total, warmup) for step in range(total)]


def test_warmup_climbs_to_the_peak_and_no_step_is_lost_to_a_rate_of_zero() -> None:
    for name in ("cosine", "linear", "constant", "wsd"):
        first = factors(name, 10, 3)
        assert first[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
        assert min(first) > 0
        assert max(first) == 1.0


def test_cosine_falls_to_its_least_share_by_hand() -> None:
    assert factors("cosine", 4, 0) == pytest.approx([1, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2])
    assert factors("cosine", 4, 0, min_ratio=0.1)[2] == pytest.approx(0.55)


def test_linear_falls_to_its_least_share_by_hand() -> None:
    assert factors("linear", 4, 0) == pytest.approx([1, 0.75, 0.5, 0.25])
    assert factors("linear", 4, 0, min_ratio=0.5) == pytest.approx([1, 0.875, 0.75, 0.625])


def test_constant_stays_at_the_peak() -> None:
    assert factors("constant", 3, 0) == [1, 1, 1]


def test_wsd_is_stable_until_the_last_share() -> None:
    assert factors("wsd", 10, 0, decay=0.4) == pytest.approx([1] * 7 + [0.75, 0.5, 0.25])
    assert factors("wsd", 4, 0, decay=1.0) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_warmup_is_a_share_or_a_number_of_steps() -> None:
    assert warmup_steps(0.05, 16) == 1
    assert warmup_steps(0.1, 100) == 10
    assert warmup_steps(7, 100) == 7
    assert warmup_steps(0, 100) == 0
    assert warmup_steps(500, 100) == 99


def test_shares_and_counts_of_steps_are_due_and_so_is_the_last() -> None:
    assert sorted(due_after(0.25, 100)) == [25, 50, 75, 100]
    assert sorted(due_after(0.4, 10)) == [4, 8, 10]
    assert sorted(due_after(3, 10)) == [3, 6, 9, 10]
    assert sorted(due_after(0.25, 1)) == [1]
    assert sorted(due_after(50, 10)) == [10]


def test_unknown_keys_and_values_out_of_range_are_refused() -> None:
    with pytest.raises(LuthierError, match="min_ratio"):
        SCHEDULES.build("cosine", {"min_rato": 0.1})
    with pytest.raises(LuthierError, match="decay"):
        SCHEDULES.build("wsd", {"decay": 0})
