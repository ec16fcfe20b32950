"""The outputs of frozen blocks kept on disk: later epochs begin above them, and nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from core_models import family_model, rows

from luthier.errors import LuthierError
from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.models.adapters import build
from luthier.models.adapters.kit.attached import attach
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin, Validate
from luthier.run import Run
from luthier.train import Beside, fit
from luthier.train.roles.backbone import Backbone, frozen_depth
from luthier.train.roles.backbone_states import INDEX, States
from luthier.types import Encoded


class Interrupted(Exception):
    pass


def train(folder: Path, cache: bool, *more: Plugin, die: int = -1, module: Any = None, **keys: Any) -> Any:
    adapters = build([Plugin(name="freeze", args={"bottom": 1, "cache_backbone": cache}), *more])
    policy = tiny.Policy(attach(module if module is not None else tiny.model(), adapters), adapters=adapters)

    def watch(event: Mapping[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == die:
            raise Interrupted

    settings = {"epochs": 3, "save_every": 1, "log_every": 1, **keys}
    recipe = tiny.recipe(folder, validate=Validate(every=3), **settings)
    prepared = tiny.Prepared(tiny.Store(24), tiny.Store(6, seed=1))
    fit(policy, OBJECTIVES.build("sft"), prepared, recipe, Run(folder), beside=Beside(watch=watch))
    return policy.snapshot()


LORA = Plugin(name="lora", args={"r": 2})


@pytest.mark.parametrize("more", [(), (LORA,)], ids=["full above", "lora above"])
@pytest.mark.parametrize("keys", [{}, {"layout": "padded"}, {"checkpointing": True}, {"fused": False}], ids=str)
def test_the_run_is_the_same_and_its_later_epochs_skip_the_backbone(
    more: tuple[Plugin, ...], keys: dict[str, Any], tmp_path: Path
) -> None:
    expected = train(tmp_path / "plain", False, *more, **keys)
    found = train(tmp_path / "kept", True, *more, **keys)
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-4, atol=1e-6)
    (told,) = Run(tmp_path / "kept").events("backbone")
    tokens = int(tiny.Store(24).lengths.sum() + tiny.Store(6, seed=1).lengths.sum())
    assert told["blocks"] == 1 and told["bytes"] == tokens * 32 * 4
    assert told["computed"] >= tokens and told["served"] >= 2 * tokens
    assert not (tmp_path / "kept" / "backbone").exists()


@pytest.mark.parametrize("die", [2, 5])
def test_resumed_it_equals_an_uninterrupted_run_to_the_bit(die: int, tmp_path: Path) -> None:
    expected = train(tmp_path / "whole", True, module=tiny.model(dtype=torch.bfloat16))
    with pytest.raises(Interrupted):
        train(tmp_path / "cut", True, die=die, module=tiny.model(dtype=torch.bfloat16))
    assert (tmp_path / "cut" / "backbone").is_dir()
    found = train(tmp_path / "cut", True, module=tiny.model(dtype=torch.bfloat16))
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_one_epoch_keeps_nothing_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(tmp_path, True, epochs=1)
    assert "only once" in capsys.readouterr().err
    assert not list(Run(tmp_path).events("backbone"))


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gemma3", "gpt2"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_rows_begin_above_the_trunk_in_any_layout(family: str, layout: Any, tmp_path: Path) -> None:
    model: Any = family_model(family)
    states = States(tmp_path / "backbone", 32, torch.float32, 10_000, family)
    with Forward(model, layout=layout).opened() as forward:
        examples = rows()
        expected = forward.rows(micro_batches(examples, 10_000, layout=layout)[0])
        backbone: Any = Backbone(model, 1, states)
        forward.backbone = backbone
        for batch in micro_batches(examples, 60, layout=layout):  # each row met alone, or with few others
            forward.rows(batch)
        assert backbone.served == 0 and states.tokens == sum(len(example) for example in examples)
        model.get_input_embeddings().weight.data.zero_()  # if the backbone were computed, it would be with this
        found = forward.rows(micro_batches(examples, 10_000, layout=layout)[0])
        assert backbone.served > 0
        backbone.close()
    if not model.config.tie_word_embeddings:
        torch.testing.assert_close(found.logp_S, expected.logp_S, rtol=1e-4, atol=1e-4)
    else:
        assert torch.isfinite(found.logp_S).all()
    states.close()


def test_responses_that_share_a_prompt_are_kept_whole(tmp_path: Path) -> None:
    prompt, ends = np.arange(3, 15), ([20, 21, 22], [30, 31], [40])
    ids = tuple(np.array([*prompt, *end], np.int32) for end in ends)
    weights = tuple(np.array([0.0] * 12 + [1.0] * len(end), np.float32) for end in ends)
    together = Encoded(ids, weights)
    apart = [Encoded((one,), (weight,)) for one, weight in zip(ids, weights, strict=True)]
    model, states = tiny.model(), States(tmp_path / "backbone", 32, torch.float32, 100, "")
    with Forward(model).opened() as forward:
        forward.backbone = backbone = Backbone(model, 1, states)
        (batch,) = micro_batches([together], 100)
        assert len(batch.ids_T) == 12 + 3 + 2 + 1  # the prompt lies there once
        expected = forward.rows(batch).logp_S
        found = [forward.rows(micro_batches([each], 100)[0]).logp_S for each in apart]
        assert states.tokens == 15 + 14 + 13 == backbone.served
        backbone.close()
    torch.testing.assert_close(torch.cat(found), expected)
    states.close()


@pytest.mark.parametrize(
    ("freeze", "keys", "says"),
    [
        ({"bottom": 1, "embeddings": False}, {}, "embeddings train"),
        ({"embeddings": True}, {}, "lowest block trains"),
        ({"bottom": 1}, {"neftune": 5.0}, "NEFTune"),
    ],
)
def test_where_it_would_not_be_exact_it_is_refused(
    freeze: dict[str, Any], keys: dict[str, Any], says: str, tmp_path: Path
) -> None:
    adapters = build([Plugin(name="freeze", args={**freeze, "cache_backbone": True})])
    policy = tiny.Policy(attach(tiny.model(), adapters), adapters=adapters)
    prepared = tiny.Prepared(tiny.Store(16))
    with pytest.raises(LuthierError, match=says):
        fit(policy, OBJECTIVES.build("sft"), prepared, tiny.recipe(tmp_path, epochs=2, **keys), Run(tmp_path))


def test_dropout_below_is_refused_and_above_is_not(tmp_path: Path) -> None:
    noisy = tiny.model()
    noisy.model.layers[0].self_attn.attention_dropout = 0.1
    with pytest.raises(LuthierError, match=r"dropout of 0\.1"):
        train(tmp_path / "below", True, module=noisy)
    noisy = tiny.model()
    noisy.model.layers[1].self_attn.attention_dropout = 0.1
    train(tmp_path / "above", True, module=noisy, epochs=2)
    assert list(Run(tmp_path / "above").events("backbone"))


def test_the_trunk_reaches_up_to_the_lowest_block_that_trains() -> None:
    model = tiny.model()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    assert frozen_depth(model) == 2
    model.model.layers[1].mlp.up_proj.weight.requires_grad_(True)
    assert frozen_depth(model) == 1


# the file
def hidden(seed: int, length: int = 5) -> torch.Tensor:
    return torch.randn(length, 4, generator=torch.Generator().manual_seed(seed)).to(torch.bfloat16)


def test_states_come_back_as_they_were_also_after_a_kill(tmp_path: Path) -> None:
    states = States(tmp_path / "a", 4, torch.bfloat16, 100, "one")
    for seed in range(3):
        states.add(bytes([seed]) * 16, hidden(seed))
    states.close()
    with (tmp_path / "a" / INDEX).open("ab") as file:
        file.write(b"half a record")
    with (tmp_path / "a" / "states.bin").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\0\0\0")  # what a machine that goes down leaves
    again = States(tmp_path / "a", 4, torch.bfloat16, 100, "one")
    assert bytes([2]) * 16 not in again
    again.add(bytes([2]) * 16, hidden(2))
    for seed in range(3):
        assert torch.equal(again.read(bytes([seed]) * 16), hidden(seed))
    again.close()
    other = States(tmp_path / "a", 4, torch.bfloat16, 100, "another model")
    assert bytes(16) not in other and other.nbytes == 0
    other.close()


def test_the_disk_used_is_bounded(tmp_path: Path) -> None:
    states = States(tmp_path / "a", 4, torch.bfloat16, 12, "one")
    for seed in range(4):
        states.add(bytes([seed]) * 16, hidden(seed))
    assert states.tokens == 10 and states.nbytes == 80 <= states.most == 96
    states.limit = 10**15
    with pytest.raises(LuthierError, match="GiB are free"):
        states.require_space()
    states.close()
