"""Micro-batches: every scored token is predicted at the right place, whatever is shared."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.forward.batches import micro_batches
from luthier.models.blocks.attention import PackedLayout, Segment
from luthier.types import Encoded


def example(row: int, *responses: list[int], scored: int = 2, shared: int = 0) -> Encoded:
    ids = tuple(np.array(r, np.int32) for r in responses)
    weights = tuple(np.array([0.0] * (len(r) - scored) + [1.0] * scored, np.float32) for r in responses)
    return Encoded(ids=ids, weights=weights, shared=shared)


PREFIX = list(range(10, 20))


def test_a_common_prefix_is_laid_out_once() -> None:
    (batch,) = micro_batches([example(0, [*PREFIX, 1, 2]), example(1, [*PREFIX, 3, 4, 5])], 100)
    assert batch.segments == (Segment(0, 10, None), Segment(10, 12, 0), Segment(12, 15, 0))
    assert batch.ids_T.tolist() == [*PREFIX, 1, 2, 3, 4, 5]
    assert batch.position_T.tolist() == [*range(10), 10, 11, 10, 11, 12]
    assert (batch.tokens, batch.whole_tokens) == (15, 25)
    # the first row's token 1 is predicted at the prefix's last token, the second's 4 and 5 inside their own segment
    assert batch.hidden_S.tolist() == [9, 10, 12, 13]
    assert batch.target_S.tolist() == [1, 2, 4, 5]
    assert batch.row_S.tolist() == [0, 0, 1, 1]


def test_short_common_prefixes_are_not_split_off() -> None:
    (batch,) = micro_batches([example(0, [1, 2, 3, 4]), example(1, [1, 2, 5, 6])], 100)
    assert [segment.parent for segment in batch.segments] == [None, None]


def test_prefixes_nest() -> None:
    deeper = [*PREFIX, *range(30, 40)]
    pair = example(0, [*deeper, 1, 2], [*deeper, 3, 4], shared=20)
    (batch,) = micro_batches([pair, example(1, [*PREFIX, 7, 8, 9])], 1000)
    assert [(n.end - n.start, n.parent) for n in batch.segments] == [(10, None), (3, 0), (10, 0), (2, 2), (2, 2)]
    assert batch.num_rows == 3


def test_a_row_that_is_a_prefix_of_another_and_equal_rows() -> None:
    rows = [example(0, PREFIX), example(1, [*PREFIX, 1, 2]), example(2, PREFIX)]
    (batch,) = micro_batches(rows, 1000)
    assert batch.tokens == 12
    assert batch.hidden_S.tolist() == [7, 8, 9, 10, 7, 8]
    assert batch.target_S.tolist() == [18, 19, 1, 2, 18, 19]


def test_scored_tokens_agree_with_and_without_sharing_and_padded() -> None:
    generator = np.random.default_rng(0)
    rows = [example(i, [*PREFIX, *generator.integers(0, 9, 3 + i).tolist()], scored=3) for i in range(7)]
    seen = []
    for layout, share in (("packed", True), ("packed", False), ("padded", False)):
        found = {}
        for batch in micro_batches(rows, 60, share_prefix=share, layout=layout):
            for place, target, row in zip(batch.hidden_S, batch.target_S, batch.row_S, strict=True):
                key = (batch.chosen[row], int(batch.position_T[place]))
                found[key] = (int(target), int(batch.ids_T[place]))
        seen.append(found)
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0]) == 21


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_the_budget_holds_and_no_example_is_lost(layout) -> None:
    rows = [example(i, list(range(3 + i % 5))) for i in range(40)] + [example(40, list(range(90)))]
    batches = micro_batches(rows, 30, share_prefix=False, layout=layout)
    assert sorted(row for batch in batches for row in batch.chosen) == list(range(41))
    for batch in batches:
        assert batch.shape[0] * batch.shape[1] <= 30 or len(batch.examples) == 1
    assert batches[0].chosen == (40,), "the heaviest comes first"


def test_buckets_hold_every_query_once() -> None:
    generator = np.random.default_rng(1)
    rows = [example(i, [*PREFIX, *generator.integers(0, 9, generator.integers(2, 60)).tolist()]) for i in range(20)]
    (batch,) = micro_batches(rows, 100_000)
    layout = PackedLayout(batch.segments, batch.position_T)
    queries = np.concatenate([bucket.query_BL.numpy().ravel() for bucket in layout.buckets])
    assert sorted(queries[queries >= 0].tolist()) == list(range(batch.tokens + batch.filler))
