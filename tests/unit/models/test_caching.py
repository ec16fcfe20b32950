"""The cache keyword under its old and its new name."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import tiny
import torch
from torch import nn

from luthier.engines import LocalEngine
from luthier.models import caching
from luthier.models.positions import Prompts, _assumed
from luthier.types import Sampling


class Renamed(nn.Module):
    def forward(self, input_ids: Any, cache: Any = None) -> None: ...


class Older(nn.Module):
    def forward(self, input_ids: Any, past_key_values: Any = None, **more: Any) -> None: ...


def test_each_model_is_asked_by_the_name_it_has() -> None:
    assert (caching.keyword(Renamed()), caching.keyword(Older())) == ("cache", "past_key_values")


@pytest.mark.parametrize("name", ["cache", "past_key_values"])
def test_what_follows_a_cache_is_no_prompt_under_either_name(name: str) -> None:
    filled = tiny.model()(input_ids=torch.tensor([[3, 4]]), use_cache=True)
    cache = getattr(filled, caching.keyword(tiny.model()))
    later = _assumed((), {"input_ids": torch.tensor([[5]]), name: cache})
    assert later.before_T.tolist() == [-1]
    first = _assumed((), {"input_ids": torch.tensor([[5, 6]]), name: None})
    assert first.before_T.tolist() == Prompts.spans(2, [(0, 2)], "cpu").before_T.tolist() == [0, 1]


def test_generating_uses_no_name_that_is_going_away() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        (answer,) = LocalEngine(tiny.model().eval(), tiny_words(), ()).generate([[3, 4, 5]], Sampling(max_new_tokens=3))
    assert len(answer.ids) == 3


def tiny_words() -> Any:
    class Words:
        def decode(self, ids: Any, **_: Any) -> str:
            return " ".join(map(str, ids))

    return Words()
