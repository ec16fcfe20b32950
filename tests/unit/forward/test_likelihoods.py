"""Likelihoods computed as in training equal the engine's, which computes each response with its own prompt."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from luthier.engines.local import LocalEngine
from luthier.forward.likelihoods import AT_ONCE, Likelihoods
from luthier.types import Encoded


def pair(rng: np.random.Generator, row: int = 0) -> Encoded:
    prompt = rng.integers(3, 60, rng.integers(9, 20))
    ids = [np.concatenate([prompt, rng.integers(3, 60, rng.integers(1, 9))]).astype(np.int32) for _ in range(2)]
    weights = [(np.arange(len(each)) >= len(prompt)).astype(np.float32) for each in ids]
    return Encoded(tuple(ids), tuple(weights))


@pytest.fixture
def model():
    return tiny.model()


def test_equal_the_engines(model):
    rng = np.random.default_rng(0)
    rows = [pair(rng) for _ in range(12)]  # all of them say that they are row 0
    ours, theirs = Likelihoods(model).score(rows), LocalEngine(model, None, ()).score(rows)
    assert [len(each) for each in ours] == [int(sum(w.sum() for w in row.weights)) for row in rows]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_more_rows_than_are_laid_out_at_once_keep_their_order(model):
    rng = np.random.default_rng(1)
    rows = [pair(rng) for _ in range(AT_ONCE + 3)]
    whole, last = Likelihoods(model).score(rows), Likelihoods(model).score(rows[-3:])
    assert len(whole) == AT_ONCE + 3
    for one, other in zip(whole[-3:], last, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_model_is_given_back_as_it_was(model):
    before = model.config._attn_implementation, [type(layer) for layer in model.model.layers]
    ids = torch.tensor([[5, 6, 7]])
    model.train()
    expected = model(ids).logits
    Likelihoods(model).score([pair(np.random.default_rng(2))])
    assert (model.config._attn_implementation, [type(layer) for layer in model.model.layers]) == before
    assert model.training and torch.equal(model(ids).logits, expected)
