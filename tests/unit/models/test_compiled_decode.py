"""The compiled step of decoding: the model's own numbers, and to the bit the same ones however a sequence is read."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import paged
import pytest
import tiny
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models.blocks.kernels import decode
from luthier.models.decode.compiled import BLOCK, CompiledReader
from luthier.models.decode.step import PAGE, Run

pytestmark = pytest.mark.skipif(decode.library() is None, reason="no C compiler")
LENGTH = 37
both = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
families = pytest.mark.parametrize("family", paged.FAMILIES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny models gain nothing from two, and lose much when other processes want them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# the model's own numbers
@families
def test_greedy_equals_transformers_generate(family: str) -> None:
    module = paged.model(family)
    reader = paged.reader(module)
    for seed, length in ((0, 5), (1, 20)):
        ids = paged.tokens(length, seed)
        theirs = module.generate(torch.tensor([ids]), max_new_tokens=25, do_sample=False, eos_token_id=None)[0].tolist()
        ours = list(ids)
        logits = paged.read(reader, ours, 0, (len(ids),))
        while len(ours) < len(theirs):
            ours.append(int(logits[0].argmax()))
            logits = reader.read([Run(ours[-1:], len(ours) - 1, range(len(ours) // PAGE + 1), True)])
        assert ours == theirs


@families
def test_logits_are_the_models_own(family: str) -> None:
    """Measured against the same weights in fp64: as close as the model's own forward pass."""
    module, ids = paged.model(family), paged.tokens(LENGTH)
    exact = copy.deepcopy(module).double()
    mine = paged.read(paged.reader(module), ids, 0)
    with torch.no_grad():
        true, theirs = exact(torch.tensor([ids])).logits[0], module(torch.tensor([ids])).logits[0]
    assert (mine - true).abs().max() < 1e-5
    assert (mine - true).abs().mean() < 1.2 * (theirs - true).abs().mean()


@families
def test_in_bf16_the_logits_are_as_close_as_the_fused_blocks(family: str) -> None:
    """Both round where the training blocks do; measured against the same weights in fp32."""
    module, ids = paged.model(family, torch.bfloat16), paged.tokens(LENGTH)
    exact = copy.deepcopy(module).float()
    mine = paged.read(paged.reader(module), ids, 0)
    with torch.no_grad(), Forward(module).opened() as forward:
        fused = forward.head.logits(forward.hidden(_batch(ids))).float()  # type: ignore[union-attr]
        true = exact(torch.tensor([ids])).logits[0]
    error, theirs = (mine - true).abs().mean(), (fused - true).abs().mean()
    assert error < 1.3 * theirs, "rounds no more than the training blocks"
    assert (mine - fused).abs().mean() < 1.3 * theirs


def _batch(ids: list[int]) -> Any:
    import numpy as np

    from luthier.forward.batches import micro_batches
    from luthier.types import Encoded

    row = Encoded((np.array(ids, np.int32),), (np.ones(len(ids), np.float32),))
    return next(iter(micro_batches([row], 4096)))


# to the bit
@families
@both
def test_a_sequence_gives_the_same_however_it_is_cut(family: str, dtype: torch.dtype) -> None:
    reader, ids = paged.reader(paged.model(family, dtype)), paged.tokens(LENGTH)
    one_by_one = paged.read(reader, ids, 0)
    for page, parts in ((8, (LENGTH,)), (16, (5, 1, 11, 2)), (24, (16, 3))):
        ends = [end - 1 for _, end in paged.cut(LENGTH, parts)]
        assert torch.equal(paged.read(reader, ids, page, parts), one_by_one[ends]), parts


@families
@both
def test_a_sequence_gives_the_same_in_any_company(family: str, dtype: torch.dtype) -> None:
    reader = paged.reader(paged.model(family, dtype))
    rows = [paged.tokens(length, length) for length in (1, 9, 16, 17, 30, 33, 40)]
    alone = [paged.read(reader, ids, 0)[-1] for ids in rows]
    runs = [Run(ids, 0, range(3 * i, 3 * i + 3), True) for i, ids in enumerate(rows)]
    together = reader.read(runs)
    assert torch.equal(together, torch.stack(alone))
    for i, ids in enumerate(rows[3:], 3):  # the last token again, beside others that are read from the beginning
        last = Run(ids[-1:], len(ids) - 1, range(3 * i, 3 * i + 3), True)
        assert torch.equal(reader.read([runs[2], last, runs[0]])[1], alone[i])
        assert torch.equal(reader.read([last]), alone[i][None])


@both
def test_threads_change_nothing(dtype: torch.dtype) -> None:
    reader, ids = paged.reader(paged.model("qwen3", dtype)), paged.tokens(LENGTH)
    found = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append(paged.read(reader, ids, 0, (7, 2)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_more_tokens_than_go_together() -> None:
    reader = paged.reader(paged.model("llama"), 200)
    ids, other = paged.tokens(BLOCK + 90), paged.tokens(BLOCK - 20, 1)
    alone = [paged.read(reader, each, 0, (100,))[-1] for each in (ids, other)]
    runs = [Run(ids, 0, range(50), True), Run(other, 0, range(50, 100), True), Run(ids[:3], 0, [120], False)]
    assert torch.equal(reader.read(runs), torch.stack(alone))


def test_only_what_is_wanted_is_told_in_the_order_of_the_runs() -> None:
    reader, rows = paged.reader(paged.model("llama")), [paged.tokens(6, seed) for seed in range(4)]
    every = reader.read([Run(ids, 0, [i], True) for i, ids in enumerate(rows)])
    some = reader.read([Run(ids, 0, [i], i in (1, 3)) for i, ids in enumerate(rows)])
    assert torch.equal(some, every[[1, 3]]) and some.dtype is torch.float32
    assert reader.read([Run(rows[0], 0, [0], False)]).shape == (0, tiny.VOCABULARY + 1)


# pages
@both
def test_pages_are_shared_and_copied(dtype: torch.dtype) -> None:
    reader, prompt = paged.reader(paged.model("llama", dtype)), paged.tokens(20)
    ways = [paged.tokens(15, seed) for seed in (1, 2)]
    alone = [paged.read(reader, prompt + way, 0, (20, 4))[-1] for way in ways]
    reader.read([Run(prompt, 0, [10, 11], False)])
    reader.copy(11, 20)  # the half-filled page; the full one is shared
    found = reader.read([Run(ways[0], 20, [10, 11, 12], True), Run(ways[1], 20, [10, 20, 22], True)])
    assert torch.equal(found, torch.stack(alone))


def test_a_run_sees_pages_that_one_before_it_fills() -> None:
    reader, prompt = paged.reader(paged.model("llama")), paged.tokens(PAGE)
    way = paged.tokens(3, 1)
    alone = paged.read(reader, prompt + way, 0, (len(prompt) + 3,))
    runs = [Run(prompt, 0, [5], False), Run(way, PAGE, [5, 6], True)]
    assert torch.equal(reader.read(runs), alone)


def test_pages_keep_what_lies_in_them_when_more_come() -> None:
    reader, ids = paged.reader(paged.model("llama"), 3), paged.tokens(34)
    whole = paged.read(reader, ids, 0)[-1]
    slabs = len(reader._pages._slabs)
    reader.grow(len(reader._pages) + 1)
    assert len(reader._pages._slabs) == slabs + 1
    assert torch.equal(reader.read([Run(ids[-1:], 33, [0, 1, 2], True)])[0], whole)


def test_the_memory_of_a_page_is_told() -> None:
    """Keys and values of two layers, two heads of 16 numbers, 16 tokens."""
    assert paged.reader(paged.model("llama")).page_bytes == 2 * 2 * 2 * 16 * 16 * 4
    assert paged.reader(paged.model("llama", torch.bfloat16)).page_bytes == 2 * 2 * 2 * 16 * 16 * 2


# the very weights
def test_weights_that_were_trained_are_read_at_once() -> None:
    module, ids = paged.model("qwen2"), paged.tokens(9)
    reader = paged.reader(module)
    first = paged.read(reader, ids, 0)
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(1.1)
    second = paged.read(reader, ids, 0)
    assert not torch.equal(first, second) and torch.equal(second, paged.read(paged.reader(module), ids, 0))


def test_weights_that_were_replaced_are_found_again() -> None:
    module, ids = paged.model("llama"), paged.tokens(9)
    reader = paged.reader(module)
    for weight in module.parameters():
        weight.data = weight.data.clone() * 0.9
    reader.refresh()
    assert torch.equal(paged.read(reader, ids, 0), paged.read(paged.reader(module), ids, 0))
    module.to(torch.bfloat16)
    with pytest.raises(LuthierError, match="other sizes"):
        reader.refresh()


def test_an_open_forward_changes_nothing() -> None:
    module, ids = paged.adapted(paged.model("llama")), paged.tokens(9)
    plain = paged.read(paged.reader(module), ids, 0)
    with Forward(module).opened():
        reader = paged.reader(module)
        assert torch.equal(paged.read(reader, ids, 0), plain)
    reader.refresh()
    assert torch.equal(paged.read(reader, ids, 0), plain)


# what is not served
def _hooked() -> Any:
    module = paged.model("llama")
    module.model.embed_tokens.register_forward_hook(lambda *_: None)
    return module


UNSERVED = {
    "another family": (lambda: _gpt2(), "GPT2LMHeadModel is not of the Llama family"),
    "small heads": (tiny.model, "heads have 8 numbers"),
    "odd widths": (lambda: paged.model("llama", intermediate_size=40), "down_proj of layer 0 has 40 inputs"),
    "half": (lambda: paged.model("llama").half(), "its weights are float16"),
    "types": (lambda: _mixed(), "up_proj of layer 1 is not bf16 on the CPU"),
    "a hook": (_hooked, "what goes through embed_tokens is changed"),
    "DoRA": (lambda: paged.adapted(paged.model("llama"), use_dora=True), "q_proj has LoRA of another form"),
    "IA3": (lambda: get_peft_model(paged.model("llama"), IA3Config(task_type="CAUSAL_LM")), "is ia3's Linear"),
    "moving angles": (
        lambda: paged.model("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        r"rotary embedding \(dynamic\)",
    ),
}


def _gpt2() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_config(tiny.config("gpt2"))


def _mixed() -> Any:
    module = paged.model("llama", torch.bfloat16)
    module.model.layers[1].mlp.up_proj.float()
    return module


@pytest.mark.parametrize("name", UNSERVED)
def test_a_model_that_is_not_served_is_told_why(name: str) -> None:
    import re

    make, says = UNSERVED[name]
    found = CompiledReader.of(make())
    assert isinstance(found, str) and re.search(says, found), found


def test_a_model_that_has_become_another_is_refused() -> None:
    module = paged.adapted(paged.model("llama"))
    reader = paged.reader(module)
    module.merge_adapter()
    with pytest.raises(LuthierError, match=r"can no longer be read.*merged"):
        reader.refresh()
    module.unmerge_adapter()
    module.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], use_dora=True))
    reader.refresh()


def test_llama_3_angles_are_the_models_own() -> None:
    parameters = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    parameters |= {"original_max_position_embeddings": 32, "rope_theta": 1e4}
    module, ids = paged.model("llama", rope_parameters=parameters), paged.tokens(LENGTH)
    with torch.no_grad():
        theirs = module(torch.tensor([ids])).logits[0, -1]
    assert torch.allclose(paged.read(paged.reader(module), ids, 0)[-1], theirs, rtol=1e-5, atol=1e-5)


# bad calls
@pytest.mark.parametrize(
    ("run", "says"),
    [
        (Run([], 0, [0], True), "run 0 has 0 tokens"),
        (Run([1], -1, [0], True), "run 0 has 1 tokens from -1 on"),
        (Run([1], 16, [0], True), "run 0 has 1 pages for 17 tokens"),
        (Run([1], 0, [10**6], True), "page 1000000 has no memory"),
        (Run([1], 0, [-1], True), "page -1 has no memory"),
        (Run([10**6], 0, [0], True), "a token is"),
        (Run([-1], 0, [0], True), "a token is"),
        (Run([1], 0, [0], True, adapter=3), "names adapter 3, which is not loaded"),
    ],
)
def test_a_bad_call_is_refused(run: Run, says: str) -> None:
    reader = paged.reader(paged.model("llama"))
    with pytest.raises(ValueError, match=says):
        reader.read([run])


def test_a_page_without_memory_is_not_copied() -> None:
    reader = paged.reader(paged.model("llama"))
    with pytest.raises(ValueError, match="has no memory"):
        reader.copy(0, len(reader._pages))
    with pytest.raises(ValueError, match="page -1 has no memory"):
        reader.copy(-1, 0)
