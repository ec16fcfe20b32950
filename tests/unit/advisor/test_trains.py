"""What trains, by sizes and by the model built on no device; and what goes through it, laid out as the loop does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import AutoConfig, AutoModelForCausalLM

from luthier.advisor import load
from luthier.advisor.load import Cut, Load
from luthier.advisor.trains import _built, _by_sizes, trains
from luthier.errors import LuthierError
from luthier.models.adapters import named
from luthier.models.adapters.kit.shape import Shape
from luthier.recipe import Plugin


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny.folder(tmp_path_factory.mktemp("model"), num_hidden_layers=3, tie_word_embeddings=True).name)


def shape(folder: Path) -> Shape:
    return Shape.of(AutoConfig.from_pretrained(folder).to_dict(), "tiny")


def plugins(*given: tuple[str, dict[str, Any]]) -> list[Plugin]:
    return [Plugin(name=name, args=args) for name, args in given]


WAYS = {
    "full": plugins(("full", {})),
    "lora": plugins(("lora", {"r": 2})),
    "oft": plugins(("oft", {"block": 4})),
    "freeze": plugins(("freeze", {"bottom": 2})),
    "last": plugins(("freeze", {"last": 1})),
    "embeddings": plugins(("freeze", {"embeddings": True})),
    "freeze and lora": plugins(("freeze", {"bottom": 1}), ("lora", {"r": 2})),
    "dora": plugins(("dora", {"r": 2})),
}


@pytest.mark.parametrize("name", WAYS)
def test_sizes_tell_what_the_model_would(folder: Path, name: str) -> None:
    adapters = named(WAYS[name])
    assert _by_sizes(shape(folder), adapters) == _built(folder, shape(folder), adapters)


def test_what_sizes_do_not_tell_is_built(folder: Path) -> None:
    found = trains(shape(folder), named(plugins(("freeze", {"only": "norms"}))), folder)
    assert found.own == shape(folder).norms and found.first == 0 and not found.matrices
    some = trains(shape(folder), named(plugins(("lora", {"r": 2, "targets": ["q_proj"]}))), folder)
    assert some.added == 3 * 2 * (32 + 32) and some.ranks == 2
    with pytest.raises(LuthierError, match="not told"):
        trains(shape(folder), named(plugins(("bitfit", {}))))


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_shapes_of_families(family: str) -> None:
    import torch

    config = tiny.config(family)
    with torch.device("meta"):
        whole = sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters())
    found = Shape.of(config.to_dict())
    # biases, norms on heads and learned positions are few beside the rest of a real model
    assert found.total == pytest.approx(whole, rel=0.30 if family == "gpt2" else 0.02)
    assert found.kind == family and found.gated == (family != "gpt2")


def test_a_configuration_that_lacks_a_size_is_named() -> None:
    with pytest.raises(LuthierError, match="num_hidden_layers"):
        Shape.of({"hidden_size": 8}, "x")


def test_experts_count_by_those_that_work() -> None:
    keys = {
        "hidden_size": 8, "num_hidden_layers": 2, "moe_intermediate_size": 4, "num_attention_heads": 2,
        "vocab_size": 10, "num_experts": 8, "num_experts_per_tok": 2,
    }  # fmt: skip
    found = Shape.of(keys)
    assert (found.experts, found.active) == (8, 2)
    assert found.matrices - found.worked == 6 * 3 * 8 * 4


def test_a_load_counts_a_shared_prompt_once() -> None:
    one = tiny.rows(2, 20, seed=0, ids=(3, 60), lengths=(10, 12))
    batches = Cut(1000).batches(one)
    found = load.of(batches[0])
    assert len(batches) == 1
    assert found.tokens == batches[0].shape[1] and found.scored == len(batches[0].target_S)
    alone = Cut(1000, share=False).batches(one)
    assert load.of(alone[0]).tokens == sum(len(row) for row in one)
    # without sharing each row sees itself: pieces are whole rows here
    assert load.of(alone[0]).pairs == sum(len(row) ** 2 for row in one)
    assert found.pairs <= load.of(alone[0]).pairs


def test_the_heaviest_micro_batch_is_found_and_means_are_means() -> None:
    rows = tiny.rows(12, 0, seed=1, ids=(3, 60), lengths=(5, 60))
    steps = [rows[i : i + 4] for i in range(0, 12, 4)]
    laid = load.laid(steps.__getitem__, lambda n: sum(map(len, steps[n])), 3, Cut(64), 3)
    every = [load.of(batch) for step in steps for batch in Cut(64).batches(step)]
    parted = [[load.of(batch).tokens for batch in Cut(64).batches(step)] for step in steps]
    assert laid.heaviest.tokens == max(max(each) for each in parted[1:])
    assert laid.first is not None and laid.first.tokens == max(parted[0])
    assert laid.later is not None and laid.later.tokens == max(max(each[1:]) for each in parted if each[1:])
    assert laid.step.tokens == pytest.approx(sum(one.tokens for one in every) / 3)
    assert laid.micro == pytest.approx(len(every) / 3)


def test_rows_of_which_only_lengths_are_known() -> None:
    found = load.assumed([100] * 32, 0.5, 16, Cut(512), 2)
    assert found.heaviest == Load(512, 256, 51_200) and found.step == Load(1600, 800, 160_000)
