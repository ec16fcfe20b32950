"""Likelihoods computed as in training equal those of each response computed with its own prompt."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForCausalLM

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


def made(family: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(tiny.config(family))


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # padded, with a capped head
def test_beside_the_likeliest_tokens(family):
    model = made(family)
    rows = [pair(np.random.default_rng(3)) for _ in range(3)]
    plain, told = Likelihoods(model).logprobs(rows), Likelihoods(model).with_top(rows, 64)
    for own, row in zip(plain, told, strict=True):
        np.testing.assert_allclose(own, row.logp_S, rtol=1e-5, atol=1e-6)
        assert np.all(np.diff(row.top_SC) <= 0) and row.top_SC.shape == row.ids_SC.shape == (len(own), 64)
    ids = np.concatenate([e[w > 0] for row in rows for e, w in zip(row.ids, row.weights, strict=True)])
    for token, logp, top, among in zip(
        ids,
        np.concatenate([row.logp_S for row in told]),
        np.concatenate([row.top_SC for row in told]),
        np.concatenate([row.ids_SC for row in told]),
        strict=True,
    ):
        assert top[among == token].tolist() in ([logp], []), "equality tells whether it is the first: to the bit"


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_means_of_hidden_states_are_those_of_each_row_by_itself(family):
    model = made(family).eval()
    rows = [np.arange(3, 3 + length, dtype=np.int32) for length in (1, 7, 30)]  # each begins like the others
    encoded = [Encoded((ids,), (np.zeros(len(ids), np.float32),)) for ids in rows]
    for mean_D, ids in zip(Likelihoods(model).means(encoded), rows, strict=True):
        with torch.no_grad():
            hidden_TD = model.base_model(torch.from_numpy(ids.astype(np.int64))[None]).last_hidden_state[0]
        np.testing.assert_allclose(mean_D, hidden_TD.mean(0).numpy(), rtol=1e-4, atol=1e-5)
