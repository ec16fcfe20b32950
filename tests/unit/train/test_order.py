import numpy as np
import pytest

from luthier.errors import LuthierError
from luthier.train.sources.order import Order


def test_every_example_comes_once_an_epoch_and_the_last_step_takes_what_is_left() -> None:
    order = Order(examples=10, batch=4, seed=3)
    assert order.steps_per_epoch == 3
    for epoch in range(3):
        steps = [order.positions(epoch * 3 + i) for i in range(3)]
        assert [len(step) for step in steps] == [4, 4, 2]
        assert sorted(np.concatenate(steps)) == list(range(10))


def test_epochs_and_seeds_differ_and_equal_ones_agree() -> None:
    order = Order(64, 64, seed=0)
    assert order.positions(0).tolist() != order.positions(1).tolist()
    assert order.positions(0).tolist() != Order(64, 64, seed=1).positions(0).tolist()
    assert order.positions(5).tolist() == Order(64, 64, seed=0).positions(5).tolist()


def test_the_order_is_the_same_on_every_machine() -> None:
    assert Order(8, 8, seed=0).positions(0).tolist() == [3, 2, 1, 6, 0, 7, 4, 5]


def test_a_batch_larger_than_the_data_is_one_step() -> None:
    order = Order(3, 16)
    assert order.steps_per_epoch == 1
    assert sorted(order.positions(0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("epochs", "steps", "total"), [(1, None, 3), (2, None, 6), (0.5, None, 2), (0.01, None, 1), (9, 7, 7)]
)
def test_total_steps_of_epochs_parts_of_one_and_a_bound(epochs: float, steps: int | None, total: int) -> None:
    assert Order(10, 4).total(epochs, steps) == total


def test_an_epoch_has_passed_after_all_its_steps() -> None:
    assert Order(10, 4).epoch(2) == 1.0
    assert Order(10, 4).epoch(3) == pytest.approx(4 / 3)


def test_no_example_is_an_error() -> None:
    with pytest.raises(LuthierError, match="nothing to train on"):
        Order(0, 4)
