"""Who computes what: an even share for everyone, whatever the rows; found alike by all."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

from luthier.distributed.shares import WIDTH, Load, assign, balance, even
from luthier.forward import filling
from luthier.types import Encoded

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).resolve().parents[4] / "shared"))
ALPACA = SHARED / "data/alpaca-52k"


def row(length: int) -> Encoded:
    weights = np.zeros(length, np.float32)
    weights[-1] = 1
    return Encoded((np.arange(length, dtype=np.int32) % 50,), (weights,))


def loads(rows: list[Encoded]) -> list[Load]:
    return [Load(len(each), len(each) ** 2) for each in rows]


def cut(rows: list[Encoded], tokens: int, parts: int) -> list[list[int]]:
    def fill(budget: int) -> list[list[int]]:
        return filling.packed(rows, budget, share=False)

    return fill(even(fill, loads(rows), tokens, parts))


def test_the_costliest_go_first_each_to_whoever_has_least() -> None:
    # 7 to the first, 6 to the second, 5 to the second? no: he has 6, the third has none
    assert assign([5.0, 7.0, 6.0, 1.0, 2.0], 3) == [[1], [2, 3], [0, 4]]
    assert assign([1.0], 3) == [[0], [], []]
    assert assign([], 2) == [[], []]
    assert balance([5.0, 7.0, 6.0, 1.0, 2.0], 3) == 1.0
    assert balance([4.0, 2.0], 2) == 0.75


def test_each_place_is_given_once_and_equal_costs_by_their_order() -> None:
    draw = random.Random(0)
    costs = [draw.choice([1.0, 2.0, 3.0]) for _ in range(40)]
    found = assign(costs, 7)
    assert sorted(place for places in found for place in places) == list(range(40))
    assert found == assign(list(costs), 7)
    assert all(places == sorted(places) for places in found)


def test_attention_counts_by_the_square_of_each_row() -> None:
    assert Load(40, 30**2 + 10**2).cost == WIDTH * 40 + 1000


@pytest.mark.parametrize(("count", "tokens", "parts"), [(16, 2048, 2), (64, 2048, 8), (64, 300, 4), (5, 2048, 4)])
def test_a_cut_has_as_many_parts_as_asked_for_none_above_the_budget(count: int, tokens: int, parts: int) -> None:
    draw = random.Random(count)
    rows = [row(draw.randint(10, 120)) for _ in range(count)]
    pieces = cut(rows, tokens, parts)
    assert len(pieces) >= parts
    assert all(sum(len(rows[place]) for place in piece) <= tokens for piece in pieces)
    assert sorted(place for piece in pieces for place in piece) == list(range(count))


def test_fewer_rows_than_parts_are_a_part_each() -> None:
    assert len(cut([row(20), row(30), row(25)], 2048, 8)) == 3
    assert len(cut([row(20)], 2048, 8)) == 1


def test_one_part_is_the_budgets_own_cut() -> None:
    rows = [row(40) for _ in range(10)]
    assert cut(rows, 128, 1) == filling.packed(rows, 128, share=False)


@pytest.mark.parametrize("words_per_token", [0.75])
def test_real_rows_give_eight_processes_nearly_the_same_to_do(words_per_token: float) -> None:
    """64 rows of Alpaca a step over 8 processes: the mean load is at least 0.95 of the largest."""
    lengths = _alpaca_lengths(words_per_token)
    found = []
    for begin in range(0, 64 * 20, 64):
        rows = [row(length) for length in lengths[begin : begin + 64]]
        costs = [sum(loads(rows)[place].cost for place in piece) for piece in cut(rows, 2048, 8)]
        found.append(balance(costs, 8))
    assert np.mean(found) >= 0.95, found


def _alpaca_lengths(words_per_token: float) -> list[int]:
    import json

    files = sorted([*ALPACA.rglob("*.json"), *ALPACA.rglob("*.jsonl"), *ALPACA.rglob("*.parquet")])
    if not files:
        pytest.skip(f"{ALPACA} is absent")
    if files[0].suffix == ".parquet":
        from pyarrow import parquet

        rows = parquet.read_table(files[0]).slice(0, 4000).to_pylist()
    elif files[0].suffix == ".json":
        rows = json.loads(files[0].read_text())
    else:
        rows = [json.loads(line) for line in files[0].read_text().splitlines()]
    texts = [" ".join(str(value) for value in each.values()) for each in rows]
    random.Random(0).shuffle(texts)
    return [min(1024, 12 + int(len(text.split()) / words_per_token)) for text in texts]


def test_far_more_parts_than_rows_cost_no_time():
    rows = [Load(30, 900), Load(20, 400)]
    assert even(lambda _: [[0], [1]], rows, 2048, 10**12) == 1
