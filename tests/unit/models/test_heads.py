"""The scalar head: it begins at zero, trains with the rest, lies beside what was trained and comes back with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from bench import save_tiny_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from luthier.errors import LuthierError
from luthier.models import Policy, load, merge, open_run, save
from luthier.models.heads import HeadCard, ScalarHead
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run

STEPS = HeadCard("step", "process_reward", "\n\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def opened(folder: Path, *adapt: str, head: bool | HeadCard = True) -> Policy:
    plugins = [Plugin(name=name, args={"bottom": 1} if name == "freeze" else {}) for name in adapt]
    return load(Model(name=str(folder), dtype="bf16"), plugins, device="cpu", head=head)


def test_it_begins_at_zero_in_fp32_whatever_the_model_is_in(folder: Path):
    policy = opened(folder, "lora")
    assert policy.head is not None and policy.head.weight.dtype == torch.float32
    states_KD = torch.randn(5, 32).bfloat16()
    rewards_K = policy.head.read(states_KD)
    assert rewards_K.dtype == torch.float32 and rewards_K.tolist() == [0.0] * 5
    assert float(-logsigmoid(rewards_K[0] - rewards_K[1]).detach()) == pytest.approx(math.log(2), abs=1e-7)
    with torch.no_grad():
        policy.head.weight[0, 3] = 2.0
    assert policy.head.read(states_KD).tolist() == pytest.approx((2 * states_KD[:, 3].float()).tolist())


def test_it_trains_with_the_rest_and_is_counted(folder: Path):
    for adapt in ("lora", "full"):
        policy, without = opened(folder, adapt), opened(folder, adapt, head=False)
        assert policy.head is not None and without.head is None
        names = [name for name, _ in policy.trainable()]
        assert names == [*(name for name, _ in without.trainable()), "head.weight"]
        counts = zip(policy.parameter_counts(), without.parameter_counts(), strict=True)
        assert [a - b for a, b in counts] == [32, 32]
    frozen = load(Model(name=str(folder)), train=False, device="cpu", head=True)
    assert frozen.trainable() == []


@pytest.mark.parametrize("adapt", [("lora",), ("full",), ("freeze", "lora")])
@pytest.mark.parametrize("card", [True, STEPS], ids=["row", "step"])
def test_it_comes_back_with_what_was_trained(folder: Path, tmp_path: Path, adapt: tuple[str, ...], card):
    policy = opened(folder, *adapt, head=card)
    assert policy.head is not None
    with torch.no_grad():
        policy.head.weight.copy_(torch.randn(1, 32))
    run = Run(tmp_path / "run")
    where = save(policy, run)
    assert {"head.safetensors", "head.json"} < {path.name for path in where.iterdir()}
    again = open_run(run, device="cpu")
    assert again.head is not None and torch.equal(again.head.weight, policy.head.weight)
    assert again.head.card == (STEPS if card is STEPS else HeadCard())
    assert again.trainable() == []
    merged = merge(policy, tmp_path / "merged")
    assert "head.safetensors" in {path.name for path in merged}
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert plain.config.hidden_size == 32, "transformers does not mind the head beside the model"


def test_a_run_without_one_has_none(folder: Path, tmp_path: Path):
    run = Run(tmp_path / "run")
    save(opened(folder, "lora", head=False), run)
    assert open_run(run, device="cpu").head is None
    assert not (run.adapter / "head.json").exists()


def test_a_head_of_another_size_is_refused(folder: Path, tmp_path: Path):
    policy = opened(folder, "lora")
    policy.head = ScalarHead(16)
    run = Run(tmp_path / "run")
    save(policy, run)
    with pytest.raises(LuthierError, match=r"head cannot be read: .*size mismatch"):
        open_run(run, device="cpu")
