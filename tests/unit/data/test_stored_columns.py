"""What was measured of rows, as files: whole, of some rows, sorted, and never all of it in memory."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from luthier.data.curation.stored import columns
from luthier.data.curation.stored.columns import Opened


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "PIECE", 7)


def written(folder: Path, shape: tuple[int, ...], *, by_column: bool) -> tuple[np.ndarray, Path]:
    whole = np.random.default_rng(3).integers(0, 2**60, shape, np.uint64)
    paths = [folder / f"{number}.npy" for number in range(3)]
    for path, piece in zip(paths, np.split(whole, (10, 10)), strict=True):
        np.save(path, piece)
    columns.join(paths, folder / "whole.npy", len(whole), by_column=by_column)
    return whole, folder / "whole.npy"


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("shape", [(30,), (30, 4), (30, 1)])
def test_shards_are_joined_and_opened(tmp_path: Path, shape: tuple[int, ...], by_column: bool) -> None:
    whole, path = written(tmp_path, shape, by_column=by_column)
    assert (np.load(path) == whole).all()
    assert columns.is_by_column(np.load(path, mmap_mode="r")) == (by_column and shape == (30, 4))
    for places in (None, np.array([2, 3, 11, 29]), np.empty(0, np.int64)):
        opened = Opened({"c": path}, places)
        assert list(opened) == ["c"] and len(opened) == 1
        assert (opened["c"] == (whole if places is None else whole[places])).all()
        assert (opened["c"] == opened["c"]).all()
    with pytest.raises(KeyError):
        Opened({})["c"]


@pytest.mark.parametrize("by_column", [False, True])
@pytest.mark.parametrize("count", [30, 17, 1, 0])
def test_a_column_is_sorted_piece_by_piece(tmp_path: Path, by_column: bool, count: int) -> None:
    whole, path = written(tmp_path, (30, 4), by_column=by_column)
    order = np.random.default_rng(5).permutation(30)[:count]
    columns.sort(partial(np.load, path, "r"), order, tmp_path / "sorted.npy")
    found = np.load(tmp_path / "sorted.npy")
    assert found.shape == (count, 4) and (found == whole[order]).all() and found.flags.c_contiguous
