"""Rows whose embeddings point the same way: a kept witness for each that is dropped, and nothing alike is left."""

from __future__ import annotations

import numpy as np
import pytest

from luthier.data.duplicates import exact, keeping, semantic
from luthier.errors import LuthierError


def planted(rows: int = 600, size: int = 24, seed: int = 0) -> np.ndarray:
    """Directions about some centres, some of them nearly those of others; of any length."""
    rng = np.random.default_rng(seed)
    first = rng.normal(size=(rows // 2, size))
    second = first[rng.permutation(rows // 2)] + rng.normal(size=(rows // 2, size)) * rng.choice(
        [0.05, 0.2, 0.6], (rows // 2, 1)
    )
    return (np.concatenate([first, second]) * rng.uniform(0.1, 9, (rows, 1))).astype(np.float32)


def row_after_row(vectors: np.ndarray, threshold: float, order: list[int]) -> list[int]:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    kept: list[int] = []
    for row in order:
        if not kept or (unit[kept] @ unit[row]).max() < threshold:
            kept.append(row)
    return sorted(kept)


@pytest.mark.parametrize("block", [1024, 37])
def test_the_outcome_is_that_of_row_after_row(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(semantic, "BLOCK", block)
    monkeypatch.setattr(semantic, "KEPT", 100)
    vectors = planted()
    order = np.random.default_rng(1).permutation(len(vectors))
    decision = semantic.decide(vectors, 0.9, order)
    assert np.flatnonzero(decision.kept).tolist() == row_after_row(vectors, 0.9, order.tolist())
    assert 100 < (~decision.kept).sum() < 400
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row in np.flatnonzero(~decision.kept):
        witness = decision.witness[row]
        assert decision.kept[witness]
        assert unit[row] @ unit[witness] == pytest.approx(float(decision.similarity[row]), abs=1e-5)


def test_centres_miss_few_and_invent_none(tmp_path) -> None:
    vectors = planted(4000)
    np.save(tmp_path / "embeddings.npy", vectors)
    mapped = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    order = keeping.first(4000)
    whole, parted = semantic.decide(vectors, 0.9, order), semantic.decide(mapped, 0.9, order, clusters=16)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    dropped = np.flatnonzero(~parted.kept)
    assert parted.kept[parted.witness[dropped]].all()
    assert ((unit[dropped] * unit[parted.witness[dropped]]).sum(axis=1) > 0.9 - 1e-5).all()
    assert (~parted.kept).sum() >= 0.98 * (~whole.kept).sum()


def test_equal_and_opposite() -> None:
    vectors = np.array([[1, 0], [3, 0], [-1, 0], [0.6, 0.8]], np.float32)
    assert semantic.decide(vectors, 1.0, keeping.first(4)).witness.tolist() == [-1, 0, -1, -1]
    assert semantic.decide(vectors, 0.6, keeping.first(4)).witness.tolist() == [-1, 0, -1, 0]
    assert semantic.decide(vectors[:0], 0.6, keeping.first(0)).kept.tolist() == []


def test_an_embedding_without_a_direction_is_named() -> None:
    vectors = planted(20)
    vectors[6] = 0
    with pytest.raises(LuthierError, match="row 7 is zero"):
        semantic.decide(vectors, 0.9, keeping.first(20))
    vectors[6] = np.nan
    with pytest.raises(LuthierError, match="row 7"):
        semantic.decide(vectors, 0.9, keeping.first(20))


def test_exact_copies_by_hand() -> None:
    hashes = np.array([[1, 2], [1, 3], [1, 2], [4, 2], [1, 3], [1, 2]], np.uint64)
    assert exact.decide(hashes, keeping.first(6)).witness.tolist() == [-1, -1, 0, -1, 1, 0]
    assert exact.decide(hashes, np.arange(6)[::-1]).witness.tolist() == [5, 4, 5, -1, -1, -1]
    assert exact.decide(hashes[:0], keeping.first(0)).kept.tolist() == []
