"""One more column, of any level, goes the whole way of a row by its declaration alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from luthier import columns
from luthier.columns import Column, Level
from luthier.data import store as stores
from luthier.data.encode.mask import Tokens
from luthier.data.encode.template import Tokenised
from luthier.data.store import Store, Writer
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.types import Encoded, Example, Response, Source, Turn

LEVELS: tuple[Level, ...] = ("token", "response", "step", "example")
PROMPT = np.arange(10, 22, dtype=np.int32)
ANSWERS = ([30, 31, 32, 33], [30, 40, 41], [50, 51, 52, 53, 54])
ENDS = [[13, 15], [14], [13, 14, 16]]
FILL = -7.0
LENGTHS = [len(PROMPT) + len(answer) for answer in ANSWERS]
GIVEN: dict[str, Any] = {
    "token": tuple(100.0 * n + np.arange(length, dtype=np.float32) for n, length in enumerate(LENGTHS)),
    "response": (0.5, 1.5, 2.5),
    "step": tuple(np.array([n + 0.25 * k for k in range(len(ends))], np.float32) for n, ends in enumerate(ENDS)),
    "example": 4.5,
}


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    """One more column, `new`, of this level."""
    declare(monkeypatch, request.param)
    return request.param


def declare(monkeypatch: pytest.MonkeyPatch, level: Level) -> None:
    new = Column("new", level, "<f4", FILL, "made up", lambda example: example.meta.get("new"))
    monkeypatch.setattr(columns, "COLUMNS", (*columns.COLUMNS, new))
    monkeypatch.setitem(columns._BY_NAME, "new", new)
    monkeypatch.setattr(stores, "STORED", (*stores.STORED, "new"))
    monkeypatch.setitem(stores.FILES, stores.COLUMN + "new", new.dtype)


def example(given: Any) -> Example:
    responses = tuple(Response((Turn("assistant", "a"),)) for _ in ANSWERS)
    return Example((Turn("user", "q"),), responses, meta={} if given is None else {"new": given})


def tokenised(given: Any) -> Tokenised:
    sequences = []
    for answer, ends in zip(ANSWERS, ENDS, strict=True):
        ids = np.array([*PROMPT, *answer], np.int32)
        weights = np.array([0.0] * len(PROMPT) + [1.0] * len(answer), np.float32)
        weights[len(PROMPT) + 1] = 0.0  # an answer's second token is not scored
        sequences.append(Tokens(ids, weights, [len(ids)], list(ends)))
    known = {"step_end": tuple(np.array(ends, np.int32) for ends in ENDS), **columns.read(example(given), len(ANSWERS))}
    return Tokenised(sequences, text=False, turns=False, columns=known)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    else:
        assert found == expected


def filled(level: Level) -> Any:
    """What a row has that says nothing."""
    if level == "token":
        return tuple(np.full(length, FILL, np.float32) for length in LENGTHS)
    if level == "step":
        return tuple(np.full(len(ends), FILL, np.float32) for ends in ENDS)
    return (FILL,) * len(ANSWERS) if level == "response" else FILL


def test_it_is_read_and_what_says_nothing_is_left_out(level: Level) -> None:
    same(columns.read(example(GIVEN[level]), 3)["new"], GIVEN[level])
    assert "new" not in columns.read(example(None), 3)
    if level != "example":
        assert "new" not in columns.read(example(GIVEN[level]), 2), "of other responses than were encoded"


def test_it_is_cut_and_picked_with_the_row(level: Level) -> None:
    known = tokenised(GIVEN[level]).columns
    picked = columns.pick(known, [2, 0])["new"]
    same(picked, GIVEN[level] if level == "example" else (GIVEN[level][2], GIVEN[level][0]))
    shorter = [15, 15, 14]
    expected = {
        "token": tuple(one[:length] for one, length in zip(GIVEN["token"], shorter, strict=True)),
        "step": (GIVEN["step"][0][:1], GIVEN["step"][1], GIVEN["step"][2][:1]),
    }
    same(columns.cut(known, shorter)["new"], expected.get(level, GIVEN[level]))


@pytest.mark.parametrize("beside", [True, False], ids=["beside one that has it", "alone"])
def test_it_is_stored_and_comes_back(level: Level, beside: bool, tmp_path: Path) -> None:
    with Writer(tmp_path / "store") as writer:
        if beside:
            writer.add(tokenised(GIVEN[level]), Source("a", 1), 0)
        writer.add(tokenised(None), Source("a", 2), 0)
        writer.add(tokenised(GIVEN[level]), Source("a", 3), 0)
    store = Store(tmp_path / "store")
    for index in range(len(store)):
        row = store.encoded(index)
        has_it = row.source != Source("a", 2)
        same(row.column("new"), GIVEN[level] if has_it else filled(level))
        same(row.column("step_end"), tuple(np.array(ends) for ends in ENDS))
    same(stores.content_hash(tokenised(GIVEN[level])) == stores.content_hash(tokenised(None)), False)


def rows(level: Level, *given: Any) -> list[Encoded]:
    return [tokenised(one).encoded() for one in given]


def at_scored(values: Any) -> list[float]:
    """Of each response the values at its scored tokens."""
    return [float(one[place]) for one in values for place in range(len(PROMPT), len(one)) if place != len(PROMPT) + 1]


def in_batch(level: Level, values: Any) -> list[float]:
    """The values as they lie in a micro-batch: by scored token, row or step, an example's at each of its rows."""
    if level == "token":
        return at_scored(values)
    if level == "step":
        return [float(v) for one in values for v in one]
    return list(values) if level == "response" else [values] * len(ANSWERS)


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("share", [True, False])
def test_it_is_laid_out_and_seen_by_the_objective(level: Level, layout: Any, share: bool) -> None:
    examples = rows(level, GIVEN[level], None)
    (batch,) = micro_batches(examples, 10_000, share_prefix=share, layout=layout)
    expected = in_batch(level, GIVEN[level]) + in_batch(level, filled(level))
    assert batch.columns is not None
    assert batch.columns["new"].tolist() == pytest.approx(expected)
    moved = batch.to("meta")
    assert moved.columns is not None and moved.columns["new"].device.type == "meta"
    with Forward(tiny.model(), layout=layout, share_prefix=share).opened() as forward:
        seen = forward.rows(batch)
    assert seen.column("new") is batch.columns["new"]
    lengths = {"token": len(seen.logp_S), "response": seen.num_rows, "example": seen.num_rows}
    assert len(seen.column("new")) == lengths.get(level, len(batch.step_K))
    with pytest.raises(ValueError, match="no column 'margin'"):
        seen.column("margin")


def test_micro_batches_take_their_rows_values_along(level: Level) -> None:
    others = GIVEN[level]
    examples = rows(level, others, None, others, None)
    batches = micro_batches(examples, 50)
    assert len(batches) > 1
    for batch in batches:
        assert batch.columns is not None
        expected = [v for n in batch.chosen for v in in_batch(level, others if n % 2 == 0 else filled(level))]
        if "new" in batch.columns:
            assert batch.columns["new"].tolist() == pytest.approx(expected)
        else:
            assert all(value == FILL for value in expected), "what a micro-batch leaves out says nothing"


def test_a_token_column_stays_with_its_scored_tokens_where_prefixes_are_shared() -> None:
    """Each token's column holds its own id, so that the two can be compared wherever they lie."""
    examples = []
    for row in tiny.rows(6, 12, seed=1, ids=(3, 60), lengths=(3, 9)):
        examples.append(Encoded(row.ids, row.weights, columns={"advantage": (row.ids[0].astype(np.float32),)}))
    examples += [Encoded(row.ids, row.weights) for row in tiny.rows(2, 12, seed=1, ids=(3, 60), lengths=(3, 9))]
    (batch,) = micro_batches(examples, 10_000)
    assert any(segment.parent is not None for segment in batch.segments), "nothing is shared"
    assert batch.columns is not None
    own = batch.row_S < 6
    assert torch.equal(batch.columns["advantage"][own], batch.target_S[own].float())
    assert not batch.columns["advantage"][~own].any()
