"""The scalar head: it begins at zero, trains with the rest, lies beside what was trained and comes back with it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from bench import save_tiny_model
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForSequenceClassification

from luthier.errors import LuthierError
from luthier.models import Beginning, Policy, load, merge, open_run, save
from luthier.models.heads import HeadCard, ScalarHead, describe
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run

ROW = HeadCard()
STEPS = HeadCard("step", "process_reward", "\n\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def opened(folder: Path, *adapt: str, head: HeadCard | None = ROW) -> Policy:
    plugins = [Plugin(name=name, args={"bottom": 1} if name == "freeze" else {}) for name in adapt]
    return load(
        Model(name=str(folder), dtype="bf16"),
        plugins,
        device="cpu",
        beginning=Beginning(heads={} if head is None else {"reward": head}),
    )


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
        policy, without = opened(folder, adapt), opened(folder, adapt, head=None)
        assert policy.head is not None and without.head is None
        names = [name for name, _ in policy.trainable()]
        assert names == [*(name for name, _ in without.trainable()), "head.weight"]
        counts = zip(policy.parameter_counts(), without.parameter_counts(), strict=True)
        assert [a - b for a, b in counts] == [32, 32]
    frozen = load(Model(name=str(folder)), train=False, device="cpu", beginning=Beginning(heads={"reward": HeadCard()}))
    assert frozen.trainable() == []


@pytest.mark.parametrize("adapt", [("lora",), ("full",), ("freeze", "lora")])
@pytest.mark.parametrize("card", [ROW, STEPS], ids=["row", "step"])
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
    save(opened(folder, "lora", head=None), run)
    assert open_run(run, device="cpu").head is None
    assert not (run.adapter / "head.json").exists()


def test_a_head_of_another_size_is_refused(folder: Path, tmp_path: Path):
    policy = opened(folder, "lora")
    policy.heads["reward"] = ScalarHead(16)
    run = Run(tmp_path / "run")
    save(policy, run)
    with pytest.raises(LuthierError, match=r"head cannot be read: .*size mismatch"):
        open_run(run, device="cpu")


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_training_on_goes_on_with_the_head_of_the_earlier_run(folder: Path, tmp_path: Path, adapt: str):
    first, run = opened(folder, adapt), Run(tmp_path / "run")
    assert first.head is not None and describe(first.folder, first.head) is None
    with torch.no_grad():
        first.head.weight.copy_(torch.randn(1, 32))
    save(first, run)
    run.recipe_path.write_text("model: x\n")
    outcome = HeadCard("row", "outcome_reward")
    second = opened(run.folder, "lora", head=outcome)
    assert second.head is not None and torch.equal(second.head.weight, first.head.weight)
    assert second.head.card == outcome and second.head.weight.requires_grad
    assert describe(second.folder, second.head) == "training goes on with the scalar head that objective reward trained"

    steps = opened(run.folder, "lora", head=STEPS)
    assert steps.head is not None and not steps.head.weight.any()
    said = describe(steps.folder, steps.head)
    assert said is not None and said.startswith("a new head begins at zero") and "reads whole responses" in said
    other = opened(run.folder, "lora", head=None)
    assert other.head is None and "is left out" in str(describe(other.folder, None))


@pytest.mark.parametrize("labels", [1, 3])
def test_a_checkpoint_for_classification_brings_its_head(folder: Path, tmp_path: Path, labels: int):
    config = LlamaConfig.from_pretrained(folder, num_labels=labels, pad_token_id=0)
    torch.manual_seed(0)
    classifier = LlamaForSequenceClassification(config).eval()
    classifier.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    policy = load(
        Model(name=str(tmp_path), dtype="fp32"),
        [Plugin(name="lora")],
        device="cpu",
        beginning=Beginning(heads={"reward": HeadCard()}),
    )
    assert policy.head is not None
    if labels == 3:
        assert not policy.head.weight.any() and "gives 3 numbers, not one" in str(describe(tmp_path, policy.head))
    else:
        ids = torch.arange(3, 20)[None]
        with torch.no_grad():
            theirs = classifier(ids).logits[0, 0]
            hidden_KD = policy.module(ids, output_hidden_states=True).hidden_states[-1][0, -1:]
            assert torch.allclose(policy.head.read(hidden_KD)[0], theirs, atol=1e-5) and theirs.abs() > 1e-3
        assert describe(tmp_path, policy.head) == "training goes on with the `score` head of a classifier"
    with pytest.raises(LuthierError, match="a classifier without an output head"):
        load(Model(name=str(tmp_path)), train=False, device="cpu")
