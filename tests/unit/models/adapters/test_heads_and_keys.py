"""LoRA on the output head; keys of PEFT's that must be there, or would do nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from beside_a_tiny_model import on, rows
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from runs import train

from luthier.errors import LuthierError
from luthier.models import load, open_run, saving
from luthier.models.adapters.kit.shape import DEFAULT
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run

IDS = torch.arange(3, 30)[None]
SAMPLE = rows((6, 6), (5, 7))


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("targets", [["lm_head"], ["q_proj", "lm_head"], "lm_head|.*v_proj"])
def test_lora_goes_on_the_head_where_that_is_named(tmp_path: Path, tied: bool, targets: Any) -> None:
    base = tiny.folder(tmp_path / "base", tie_word_embeddings=tied)
    policy = load(base, [Plugin(name="lora", args={"r": 2, "targets": targets})], device="cpu")
    before = {name: weight.detach().clone() for name, weight in policy.trainable()}
    tables = policy.module.get_input_embeddings().weight.detach().clone()
    train(policy, tmp_path / "run")
    assert all(not torch.equal(weight, before[name]) for name, weight in policy.trainable()), "all of it trains"
    assert torch.equal(policy.module.get_input_embeddings().weight, tables)
    expected = logits(policy.module)
    saving.save(policy, Run(tmp_path / "saved"))
    assert torch.equal(logits(open_run(Run(tmp_path / "saved"), device="cpu").module), expected)
    saving.merge(policy, tmp_path / "merged")
    merged = load(Model(name=str(tmp_path / "merged"), dtype="fp32"), train=False, device="cpu")
    assert torch.allclose(logits(merged.module), expected, atol=1e-5)


def test_all_linear_leaves_the_head_out() -> None:
    module, _ = on(tiny.model(), "lora")
    assert not any("lm_head" in name for name, weight in module.named_parameters() if weight.requires_grad)


@pytest.mark.parametrize("name", ["pissa", "corda", "lora_ga", "vera", "oft", "sara"])
def test_who_cannot_go_there_says_so(name: str) -> None:
    with pytest.raises(
        LuthierError, match=rf"'lm_head' is the output head, and {name} goes on the layers of the blocks"
    ):
        on(tiny.model(), name, sample=SAMPLE, targets=["lm_head"])


def test_on_a_base_in_few_bits_too(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    base = tiny.folder(tmp_path / "base", **tiny.WHOLE_BLOCKS)
    plugin = Plugin(name="lora", args={"targets": ["lm_head"]})
    assert len(load(base, [plugin], device="cpu", quantize=Plugin(name="nf4")).trainable()) == 2


def test_numbers_of_the_head_are_counted() -> None:
    from luthier.models.adapters.peft.lora import Lora

    assert Lora(r=2, targets=("lm_head",)).count(DEFAULT) == 2 * (DEFAULT.width + DEFAULT.vocabulary)


# PEFT's own keys
def test_no_tuner_of_pefts_ends_in_an_internal_error_without_keys(tmp_path: Path) -> None:
    """Whatever PEFT's defaults are: it trains, or it is refused in words, before a step is taken."""
    base, trains = tiny.folder(tmp_path / "base", tie_word_embeddings=True), []
    for kind in PEFT_TYPE_TO_CONFIG_MAPPING:
        name = str(getattr(kind, "value", kind))
        try:
            policy = load(base, [Plugin(name="peft", args={"peft_type": name})], device="cpu")
        except LuthierError:
            continue
        policy.module(input_ids=IDS, labels=IDS).loss.backward()
        assert any(weight.grad is not None for _, weight in policy.trainable())
        trains.append(name)
    assert {"LORA", "LOHA", "VERA", "IA3", "OFT"} < set(trains)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"peft_type": "TRAINABLE_TOKENS"}, "wants token_indices, and it is not given"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": []}, "wants token_indices, and it is empty"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 65]}, "from 0 to 64, once each; not 65"),
        ({"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 3]}, "not 3 twice"),
        ({"peft_type": "LORA", "trainable_token_indices": {"lm_head": [-1]}}, "once each; not -1"),
        ({"peft_type": "PREFIX_TUNING"}, "wants num_virtual_tokens"),
        ({"peft_type": "PREFIX_TUNING", "num_virtual_tokens": 3, "num_layers": 1}, "cannot put PREFIX_TUNING on"),
        ({"peft_type": "LORA", "modules_to_save": ["haed"]}, "nothing called 'haed', which modules_to_save names"),
        ({"peft_type": "LORA", "modules_to_save": "lm_head"}, "is a list of names"),
        (
            {"peft_type": "LORA", "target_parameters": ["q.weight"]},
            "nothing called 'q.weight', which target_parameters",
        ),
        ({"peft_type": "VERA", "r": 0}, "cannot put VERA on"),
        ({"peft_type": "LORA", "r": "x"}, "cannot put LORA on"),
    ],
)
def test_keys_that_cannot_be_followed_are_refused_before_training(keys: dict[str, Any], says: str) -> None:
    with pytest.raises(LuthierError, match=says):
        on(tiny.model(), "peft", **keys)


def test_bitfits_targets_without_added_biases_would_do_nothing() -> None:
    with pytest.raises(LuthierError, match="none are: every bias"):
        on(tiny.model(attention_bias=True), "bitfit", targets=["q_proj"])
    on(tiny.model(), "bitfit", targets=["q_proj"], add_biases=True)
