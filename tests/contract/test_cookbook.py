"""The library against the cookbook's single files, which share no line with it: same masks, losses and weights."""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny import Prepared, Store
from tiny_tokenizers import CHATML, letters
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from luthier.data import Template
from luthier.models import Beginning, load
from luthier.objectives import OBJECTIVES
from luthier.recipe import Model, Plugin, Recipe, Source, Train, resolve
from luthier.recipe.schema import Reference
from luthier.run import Run
from luthier.train import fit
from luthier.train.sources.order import Order
from luthier.types import Encoded
from luthier.workflow.registries import REGISTRIES

COOKBOOK = Path(__file__).parents[2] / "cookbook"
STEPS, BATCH, WARMUP = 6, 5, 2
ROWS = [
    [{"role": "user", "content": f"How much is {a} and {b}?"}, {"role": "assistant", "content": f"{a} + {b} = {a + b}"}]
    for a, b in [(1, 2), (30, 4), (5, 66), (7, 8), (9, 10), (11, 120), (13, 14), (150, 160), (17, 1), (2, 2), (3, 3)]
]
ROWS[3] += [{"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes: add them and see.\n"}]
ROWS[5] = [{"role": "system", "content": "Be brief."}, *ROWS[5]]


def cookbook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cookbook_{name}", COOKBOOK / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder: two Llama layers in fp32, a byte tokenizer with ChatML."""
    path = tmp_path_factory.mktemp("model")
    end = "<|im_end|>"
    tokenizer = letters("<|im_start|>", end, eos_token=end, pad_token=end, chat_template=CHATML)
    tokenizer.save_pretrained(path)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    sizes = {"vocab_size": len(tokenizer), "intermediate_size": 64}
    tiny.model(**sizes, **ends, tie_word_embeddings=True).save_pretrained(path)
    return path


@pytest.mark.parametrize("path", sorted(COOKBOOK.glob("*.py")), ids=lambda path: path.stem)
def test_a_cookbook_file_is_short_and_stands_alone(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imported = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    roots = {name.split(".")[0] for name in imported}
    assert {"torch", "transformers"} <= roots - set(sys.stdlib_module_names) <= {"torch", "transformers", "peft"}


def test_masks_are_the_assistants_words_and_its_end_token(folder: Path):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    for messages in ROWS:
        ids, mask = cookbook("sft").encode(tokenizer, messages)
        scored = tokenizer.decode([token for token, on in zip(ids, mask, strict=True) if on])
        assert scored == "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")


def test_the_data_room_tokenises_and_masks_as_the_cookbook_does(folder: Path, tmp_path: Path, monkeypatch):
    from luthier.data import prepare

    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in ROWS))
    recipe = resolve(
        Recipe(model=Model(name=str(folder)), data=(Source(path=str(data)),), output="x"), REGISTRIES
    ).recipe
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    prepared = prepare(recipe, Template(tokenizer))
    assert len(prepared.train) == len(ROWS)
    for index, messages in enumerate(ROWS):
        encoded = prepared.train[index]
        ids, mask = cookbook("sft").encode(tokenizer, messages)
        kept = len(encoded.ids[0])  # what follows the last scored token trains nothing and is left out
        assert encoded.ids[0].tolist() == ids[:kept]
        assert encoded.weights[0].tolist() == mask[:kept]
        assert not any(mask[kept:])


def _store(encoded: list[tuple[list[int], list[int]]]) -> Store:
    store = Store(len(encoded))
    store.encoded = [Encoded((np.array(ids, np.int32),), (np.array(mask, np.float32),)) for ids, mask in encoded]
    store.lengths = np.array([len(ids) for ids, _ in encoded], np.int32)
    store.scored = np.array([sum(mask) for _, mask in encoded], np.int32)
    return store


EPS = 1e-5
"""Adam divides by the gradient: with a smaller eps the rounding of a gradient near zero grows to a whole step."""
WAYS = {
    "full": ([Plugin(name="full")], 1e-3),
    "lora": ([Plugin(name="lora", args={"r": 4, "alpha": 8})], 5e-3),
}
PATHS: list[dict[str, Any]] = [
    {"layout": "packed"},
    {"layout": "packed", "micro_tokens": 100},
    {"layout": "packed", "fused": False, "share_prefix": False},
    {"layout": "padded", "micro_tokens": 200},
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(f"{key}={value}" for key, value in path.items()))
@pytest.mark.parametrize("way", WAYS)
def test_sft_follows_the_cookbook(way: str, path: dict[str, Any], folder: Path, tmp_path: Path):
    """Losses agree to 1e-6 of their size and weights to 1e-6, over six steps, in every layout and micro-batch."""
    adapt, lr = WAYS[way]
    oracle = cookbook("sft")
    rows = [oracle.encode(PreTrainedTokenizerFast.from_pretrained(folder), messages) for messages in ROWS]
    adamw = Plugin(name="adamw", args={"eps": EPS})
    schedule = {"lr": lr, "steps": STEPS, "warmup": WARMUP}
    train = Train(batch=BATCH, weight_decay=0.1, max_tokens=100, optimizer=adamw, **schedule, **path)
    model = Model(name=str(folder), dtype="fp32")
    recipe = Recipe(model=model, data=(Source(path="-"),), adapt=tuple(adapt), train=train, output="x", seed=4)
    policy, run = load(model, recipe.adapt, beginning=Beginning(recipe.seed)), Run(tmp_path)

    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if way == "lora":
        oracle.add_lora(theirs, r=4, alpha=8)
        state = dict(theirs.named_parameters())
        for name, weight in policy.trainable():
            state[_plain(name)].data.copy_(weight.data)
    order = Order(len(rows), BATCH, recipe.seed)
    steps = [order.positions(step).tolist() for step in range(STEPS)]
    expected = oracle.train(theirs, rows, steps, lr=lr, micro=2, warmup=WARMUP, decay=0.1, eps=EPS)

    fit(policy, OBJECTIVES.build("sft", {}), Prepared(_store(rows)), recipe, run)
    assert [event["loss"] for event in run.events("step")] == pytest.approx(expected, rel=1e-6)
    assert expected[-1] < expected[0] - 0.05
    state = dict(theirs.named_parameters())
    for name, weight in policy.trainable():
        torch.testing.assert_close(
            weight.data, state[_plain(name)].data, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def _plain(name: str) -> str:
    """PEFT's name of a weight as the cookbook names it."""
    return name.removeprefix("base_model.model.").replace(".default.weight", "")


def test_one_step_cut_otherwise_is_the_same_step(folder: Path):
    """The cookbook's own promise: micro-batches of 1, 2 and 5 rows give the same loss and weights."""
    oracle = cookbook("sft")
    rows = [oracle.encode(PreTrainedTokenizerFast.from_pretrained(folder), messages) for messages in ROWS]
    outcomes = []
    for micro in (1, 2, 5):
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        losses = oracle.train(model, rows, [[0, 3, 5, 8, 9]], lr=1e-3, micro=micro)
        outcomes.append((losses, [parameter.detach().clone() for parameter in model.parameters()]))
    for losses, weights in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], abs=1e-6)
        for ours, first in zip(weights, outcomes[0][1], strict=True):
            torch.testing.assert_close(ours, first, atol=1e-5, rtol=0)


def test_a_merged_lora_computes_the_same(folder: Path):
    oracle = cookbook("sft")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    plain = set(dict(model.named_parameters()))
    oracle.add_lora(model, r=4, alpha=8)
    for _, _, layer in oracle.places(model, oracle.LoRALinear):
        torch.nn.init.normal_(layer.lora_B)
    ids = torch.arange(10)[None]
    before = model(ids).logits
    oracle.merge_lora(model)
    assert set(dict(model.named_parameters())) == plain
    torch.testing.assert_close(model(ids).logits, before, atol=1e-5, rtol=0)


# preference training
ANSWERS = [
    ("Four.", "No idea, sorry."),
    ("It is 34.", "7"),
    ("71, I think.", "Five and 66."),
    ("15", "I will not say."),
]
PAIRS = [(f"How much is {a} and {b}?", *ANSWERS[(a + b) % 4]) for a, b in [(n, n * n) for n in range(1, 12)]]


def _judged(examples: list[tuple[list[tuple[list[int], list[int]]], tuple[float, ...]]], digest: str) -> Store:
    """Examples of one or more encoded responses with their scores."""
    store = Store(len(examples))
    store.encoded = [
        Encoded(
            tuple(np.array(ids, np.int32) for ids, _ in responses),
            tuple(np.array(mask, np.float32) for _, mask in responses),
            shared=min(mask.index(1) for _, mask in responses) if len(responses) > 1 else 0,
            columns={"reward": scores},
        )
        for responses, scores in examples
    ]
    store.digest = digest
    store.lengths = np.array([len(each) for each in store.encoded], np.int32)
    store.scored = np.array([sum(int(w.sum()) for w in each.weights) for each in store.encoded], np.int32)
    return store


def _policies(way: str, folder: Path, recipe: Recipe) -> tuple[Any, Any]:
    """Ours and the cookbook's model, with the same first weights."""
    from peft import LoraConfig, get_peft_model

    policy = load(recipe.model, recipe.adapt, beginning=Beginning(recipe.seed))
    theirs: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if way == "lora":
        theirs = get_peft_model(theirs, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
        weights = dict(theirs.named_parameters())
        for name, weight in policy.trainable():
            weights[name].data.copy_(weight.data)
    return policy, theirs


def _agree(policy: Any, theirs: Any) -> None:
    weights = dict(theirs.named_parameters())
    for name, weight in policy.trainable():
        torch.testing.assert_close(
            weight.data, weights[name].data, atol=1e-6, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def _recipe(folder: Path, way: str, path: dict[str, Any], batch: int) -> Recipe:
    adapt, lr = WAYS[way]
    adamw = Plugin(name="adamw", args={"eps": EPS})
    schedule = {"lr": lr, "steps": STEPS, "warmup": WARMUP}
    train = Train(batch=batch, weight_decay=0.1, max_tokens=200, optimizer=adamw, **schedule, **path)
    model = Model(name=str(folder), dtype="fp32")
    return Recipe(model=model, data=(Source(path="-"),), adapt=tuple(adapt), train=train, output="x", seed=4)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(f"{key}={value}" for key, value in path.items()))
@pytest.mark.parametrize("way", WAYS)
def test_dpo_follows_the_cookbook(
    way: str, path: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Losses agree to 1e-6 and weights to 1e-6, over six steps: with the prompt computed once and twice, with the
    reference beside the model and kept from before."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    oracle = cookbook("dpo")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pairs = [[oracle.encode(tokenizer, prompt, answer) for answer in answers] for prompt, *answers in PAIRS]
    kept = PATHS.index(path) % 2 == (way == "lora")  # each path once with the reference live and once kept
    recipe = replace(_recipe(folder, way, path, BATCH), reference=Reference(cache=kept))
    policy, theirs = _policies(way, folder, recipe)
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    order = Order(len(pairs), BATCH, recipe.seed)
    steps = [order.positions(step).tolist() for step in range(STEPS)]
    keys = {"lr": recipe.train.lr, "beta": 0.3, "warmup": WARMUP, "decay": 0.1, "eps": EPS}
    losses, accuracies = oracle.train(theirs, before, pairs, steps, **keys)

    run, store = Run(tmp_path / "run"), _judged([(pair, (1.0, 0.0)) for pair in pairs], "pairs")
    run.folder.mkdir()
    fit(policy, OBJECTIVES.build("dpo", {"beta": 0.3}), Prepared(store), recipe, run)
    events = list(run.events("step"))
    assert events[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert [event["loss"] for event in events] == pytest.approx(losses, rel=1e-6, abs=1e-6)
    assert [event["accuracy"] for event in events[1:]] == pytest.approx(accuracies[1:])
    assert losses[-1] < losses[0] - 0.05
    _agree(policy, theirs)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: " ".join(f"{key}={value}" for key, value in path.items()))
@pytest.mark.parametrize("way", WAYS)
def test_kto_follows_the_cookbook(
    way: str, path: dict[str, Any], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Losses agree to 1e-6 and weights to 1e-6, with a baseline that is the whole step's, not the micro-batch's."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    oracle = cookbook("kto")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    rows = [oracle.encode(tokenizer, pair[0], pair[1 + index % 2]) for index, pair in enumerate(PAIRS)]
    good = [index % 4 != 1 for index in range(len(rows))]  # mostly good ones, so that the baseline rises above zero
    recipe = _recipe(folder, way, path, 4)
    policy, theirs = _policies(way, folder, recipe)
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    order = Order(len(rows), 4, recipe.seed)
    steps = [order.positions(step).tolist() for step in range(STEPS)]
    keys = {"lr": recipe.train.lr, "beta": 0.3, "warmup": WARMUP, "decay": 0.1, "eps": EPS}
    losses, baselines = oracle.train(theirs, before, rows, good, steps, weights=(1.2, 0.9), micro=3, **keys)
    assert max(baselines) > 1e-3

    run = Run(tmp_path / "run")
    run.folder.mkdir()
    store = _judged([([row], (float(label),)) for row, label in zip(rows, good, strict=True)], "labels")
    weights = {"lambda_desirable": 1.2, "lambda_undesirable": 0.9}
    fit(policy, OBJECTIVES.build("kto", {"beta": 0.3, **weights}), Prepared(store), recipe, run)
    assert [event["loss"] for event in run.events("step")] == pytest.approx(losses, rel=1e-6, abs=1e-6)
    _agree(policy, theirs)


@pytest.mark.parametrize("name", ["dpo", "kto"])
def test_one_preference_step_cut_otherwise_is_the_same_step(name: str, folder: Path):
    oracle = cookbook(name)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    pairs = [[oracle.encode(tokenizer, prompt, answer) for answer in answers] for prompt, *answers in PAIRS]
    data = (pairs,) if name == "dpo" else ([pair[0] for pair in pairs], [index % 2 == 0 for index in range(len(pairs))])
    outcomes = []
    for micro in (1, 2, 5):
        model, before = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
        losses, _ = oracle.train(
            model, before, *data, [[0, 3, 5, 8, 9], [1, 2, 4, 6, 7]], lr=1e-3, micro=micro, eps=EPS
        )
        outcomes.append((losses, [parameter.detach().clone() for parameter in model.parameters()]))
    for losses, weights in outcomes[1:]:
        assert losses == pytest.approx(outcomes[0][0], abs=1e-6)
        for ours, first in zip(weights, outcomes[0][1], strict=True):
            torch.testing.assert_close(ours, first, atol=1e-5, rtol=0)


def test_ktos_mismatched_pairs_are_the_librarys():
    from luthier.train.roles.mismatched import mismatched

    rows = [([1, 2, 3], [0, 0, 1]), ([4, 5, 6, 7], [0, 1, 1, 1]), ([8, 9], [0, 1])]
    store = _judged([([row], (1.0,)) for row in rows], "mismatched")
    ours = [(each.ids[0].tolist(), each.weights[0].tolist()) for each in mismatched(store.encoded)]
    assert (
        ours
        == cookbook("kto").mismatched(rows)
        == [
            ([1, 2, 9], [0, 0, 1]),
            ([4, 3], [0, 1]),
            ([8, 5, 6, 7], [0, 1, 1, 1]),
        ]
    )
    with pytest.raises(ValueError, match="one row"):
        cookbook("kto").mismatched(rows[:1])
