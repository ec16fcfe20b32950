"""Likelihoods computed as in training equal those of each response computed with its own prompt."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch

from luthier.forward.likelihoods import AT_ONCE, Likelihoods
from luthier.types import Encoded


def pair(rng: np.random.Generator, row: int = 0) -> Encoded:
    prompt = rng.integers(3, 60, rng.integers(9, 20))
    ids = [np.concatenate([prompt, rng.integers(3, 60, rng.integers(1, 9))]).astype(np.int32) for _ in range(2)]
    weights = [(np.arange(len(each)) >= len(prompt)).astype(np.float32) for each in ids]
    return Encoded(tuple(ids), tuple(weights))


def by_itself(model, row: Encoded) -> np.ndarray:
    """The model's own logits, one response at a time."""
    found = []
    for ids, weights in zip(row.ids, row.weights, strict=True):
        ids_T = torch.from_numpy(ids.astype(np.int64))
        with torch.no_grad():
            log_TV = model.eval()(input_ids=ids_T[None]).logits[0].log_softmax(-1)
        found += [log_TV[t - 1, ids_T[t]].item() for t in np.flatnonzero(weights)]
    return np.array(found, np.float32)


@pytest.fixture
def model():
    return tiny.model()


def test_equal_those_of_each_response_by_itself(model):
    rng = np.random.default_rng(0)
    rows = [pair(rng) for _ in range(12)]  # all of them say that they are row 0
    ours, theirs = Likelihoods(model).logprobs(rows), [by_itself(model, row) for row in rows]
    assert [len(each) for each in ours] == [int(sum(w.sum() for w in row.weights)) for row in rows]
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-5)


def test_more_rows_than_are_laid_out_at_once_keep_their_order(model):
    rng = np.random.default_rng(1)
    rows = [pair(rng) for _ in range(AT_ONCE + 3)]
    whole, last = Likelihoods(model).logprobs(rows), Likelihoods(model).logprobs(rows[-3:])
    assert len(whole) == AT_ONCE + 3
    for one, other in zip(whole[-3:], last, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_the_model_is_given_back_as_it_was(model):
    before = model.config._attn_implementation, [type(layer) for layer in model.model.layers]
    ids = torch.tensor([[5, 6, 7]])
    model.train()
    expected = model(ids).logits
    Likelihoods(model).logprobs([pair(np.random.default_rng(2))])
    assert (model.config._attn_implementation, [type(layer) for layer in model.model.layers]) == before
    assert model.training and torch.equal(model(ids).logits, expected)
