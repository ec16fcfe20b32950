"""SFT by hand."""

from __future__ import annotations

import pytest
import torch

from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES, Rows


def rows(**more) -> Rows:
    return Rows(torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0, 0, 2]), 3, **more)


def test_each_token_is_weighted() -> None:
    assert OBJECTIVES.build("sft").loss(rows()).tolist() == [1.0, 1.0, 6.0]
    assert OBJECTIVES.build("pretrain").loss(rows()).tolist() == [1.0, 1.0, 6.0]


def test_label_smoothing_mixes_in_the_uniform_distribution() -> None:
    smooth = OBJECTIVES.build("sft", {"label_smoothing": 0.1})
    assert smooth.needs.readouts == ("logp", "mean_logp")
    mean = torch.tensor([-4.0, -4.0, -4.0])
    # 0.9 * 1 + 0.1 * 4 = 1.3;  0.5 * (0.9 * 2 + 0.4) = 1.1;  2 * (2.7 + 0.4) = 6.2
    assert smooth.loss(rows(readouts={"mean_logp": mean})).tolist() == pytest.approx([1.3, 1.1, 6.2])


def test_sums_and_means_are_taken_row_by_row() -> None:
    assert rows().total(torch.tensor([1.0, 2.0, 3.0])).tolist() == [3.0, 0.0, 3.0]
    assert rows().mean(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1.5, 0.0, 3.0]


def test_unknown_keys_and_values_out_of_range_are_refused() -> None:
    with pytest.raises(LuthierError, match="label_smoothing"):
        OBJECTIVES.build("sft", {"label_smothing": 0.1})
    with pytest.raises(LuthierError, match="less than 1"):
        OBJECTIVES.build("sft", {"label_smoothing": 1.0})
