"""The first loss of preference training is that of equal models, or the adapter declares that it begins as another."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from adapter_cases import NOT_ON, RECIPES, opened, plugin, write
from tiny_judged import Judged

from luthier.models import ADAPTERS, dropout
from luthier.models.adapters import build
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin
from luthier.recipe.schema import Reference
from luthier.run import Run
from luthier.train import fit

EQUAL = {"dpo": math.log(2), "ipo": 25.0, "kto": 0.5, "sppo": 50.0}
"""Each objective's loss for equal models, at its defaults: (0 − 1/(2 β))² is 25 for β = 0.1; SPPO has two of them."""
CLOSE = 2e-7
"""Of the loss: its sum in fp32. In whatever type the base is, both models' log-probabilities are equal to the bit."""
FAST = {
    "bf16": {"lora", "dora", "pissa", "oft", "full"},
    "nf4": {"lora", "dora", "loftq", "ia3"},
    "int8": {"lora", "dora", "ia3"},
}
"""What runs by default; in fp32 everything does."""


def cases() -> Iterator[Any]:
    for name, adapt in RECIPES.items():
        quantisable = all(ADAPTERS.get(each.name).quantisable is True for each in adapt)
        for kind in ("fp32", "bf16", "nf4", "int8"):
            few_bits = kind in ("nf4", "int8")
            if (few_bits and not quantisable) or name in NOT_ON.get(kind if few_bits else "whole", ()):
                continue
            marks = [] if kind == "fp32" or name in FAST[kind] else [pytest.mark.slow]
            yield pytest.param(name, kind, id=f"{kind}-{name}", marks=marks)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("base"), "llama", True)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def first_step(
    folder: Path, output: Path, adapt: list[Plugin], kind: str = "bf16", objective: str = "dpo",
    keep: bool = False, **train: Any,
) -> dict[str, Any]:  # fmt: skip
    """The first `step` event of a run in one type: fp32, bf16, or bf16 with the base in few bits."""
    quantize = plugin(kind) if kind in ("nf4", "int8") else None
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    policy = opened(folder, adapt, quantize=quantize, dtype="fp32" if kind == "fp32" else "bf16")
    recipe = tiny.recipe(output, **{"steps": 2, "micro_tokens": 100, **train})
    recipe = replace(recipe, adapt=tuple(adapt), objective=plugin(objective), reference=Reference(cache=keep))
    run, store = Run(output), Judged(8, responses=1 if objective == "kto" else 2)
    fit(policy, OBJECTIVES.build(objective), tiny.Prepared(store), recipe, run)
    return next(run.events("step"))


@pytest.mark.parametrize(("name", "kind"), cases())
def test_dpo_begins_at_log_2_or_the_adapter_declares_that_it_begins_as_another_model(
    llama: Path, tmp_path: Path, name: str, kind: str
) -> None:
    layout = "auto" if all(adapter.packs for adapter in build(RECIPES[name])) else "padded"
    share = all(adapter.shares_prefix for adapter in build(RECIPES[name]))
    step = first_step(llama, tmp_path, RECIPES[name], kind, layout=layout, share_prefix=share)
    equal = step["loss"] == pytest.approx(math.log(2), rel=CLOSE) and step["kl"] == 0
    elsewhere = any(adapter.starts_elsewhere for adapter in build(RECIPES[name]))
    assert equal != elsewhere, step["loss"]


@pytest.mark.parametrize("name", ["lora", "full"])
@pytest.mark.parametrize("objective", ["ipo", "kto", "sppo"])
def test_every_objective_begins_at_its_loss_of_equal_models(
    llama: Path, tmp_path: Path, name: str, objective: str
) -> None:
    step = first_step(llama, tmp_path, RECIPES[name], objective=objective)
    assert step["loss"] == pytest.approx(EQUAL[objective], rel=CLOSE)


WAYS = {
    "kept": {"keep": True},
    "kept, one row at a time": {"keep": True, "micro_tokens": 30},
    "checkpointing": {"checkpointing": True},
    "prefixes not shared": {"share_prefix": False},
    "padded": {"layout": "padded"},
    "not fused": {"fused": False},
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lora", "bf16"),
        ("full", "bf16"),
        pytest.param("dora", "bf16", marks=pytest.mark.slow),
        pytest.param("pissa", "bf16", marks=pytest.mark.slow),
        pytest.param("lora", "int8", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_no_way_of_computing_changes_the_first_loss(
    llama: Path, tmp_path: Path, name: str, way: str, kind: str
) -> None:
    step = first_step(llama, tmp_path, RECIPES[name], kind, **WAYS[way])
    assert step["loss"] == pytest.approx(math.log(2), rel=CLOSE)
    assert step["kl"] == 0


# a base with noise of its own
NOISY = {
    "gpt2": {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "llama": {"attention_dropout": 0.5},
}


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {family: write(tmp_path_factory.mktemp(family), family, True) for family in NOISY}
    for family, folder in folders.items():
        config = folder / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), **NOISY[family]}))
    return folders


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("name", ["lora", "full"])
@pytest.mark.parametrize("family", NOISY)
def test_a_bases_own_dropout_is_off_and_said_to_be(
    noisy: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str], family: str, name: str, layout: str
) -> None:
    step = first_step(noisy[family], tmp_path, RECIPES[name], layout=layout)
    assert step["loss"] == pytest.approx(math.log(2), rel=CLOSE) and step["kl"] == 0
    value = 0.1 if family == "gpt2" else 0.5
    assert f"the model's own dropout ({value}) is off" in capfd.readouterr().err


def test_a_bases_own_dropout_stays_where_nothing_is_compared_and_is_back_afterwards(
    noisy: dict[str, Path], tmp_path: Path
) -> None:
    module = opened(noisy["gpt2"], RECIPES["lora"]).module
    rates = dropout.of_base(module)
    assert [rate.value for rate in rates] == [0.1] * 7  # embeddings, and in each of two blocks one, two or three
    assert not dropout.of_adapters(module)
    with dropout.off(rates):
        assert not dropout.of_base(module)
    assert dropout.of_base(module) == rates

    recipe = tiny.recipe(tmp_path, steps=1)
    fit(tiny.Policy(module), OBJECTIVES.build("dpo"), tiny.Prepared(Judged(8)), recipe, Run(tmp_path))
    assert dropout.of_base(module) == rates
    assert not module.config.to_dict().items() >= {"resid_pdrop": 0.0}.items()


# what is told
@pytest.mark.parametrize("name", ["adalora", "sara"])
def test_what_an_adapter_adds_is_told_apart_from_the_loss(llama: Path, tmp_path: Path, name: str) -> None:
    step = first_step(llama, tmp_path, RECIPES[name], "fp32")
    assert step["loss"] == pytest.approx(math.log(2), rel=CLOSE)
    assert (step.get("penalty", 0.0) > 1e-4) == (name == "adalora")  # sara has none on matrices this small
    start = next(Run(tmp_path).events("start"))
    assert start["parameters"] >= sum(weight.numel() for weight in opened(llama, train=False).module.parameters())


@pytest.mark.parametrize(
    ("adapt", "train", "said"),
    [
        ([plugin("pissa", r=4, niter=0, dropout=0.1)], {}, "the adapter has a dropout of 0.1"),
        ([plugin("lora", r=4)], {"neftune": 5.0}, "NEFTune adds noise"),
        ([plugin("prompt", tokens=3)], {"layout": "padded"}, "Prompt tuning begins as another model than the base"),
        ([plugin("loreft", r=4, start="random")], {}, "LoReFT begins as another model than the base"),
    ],
    ids=lambda value: value[0].name if isinstance(value, list) else "",
)
def test_a_first_loss_that_is_not_that_of_equal_models_is_told_with_the_reason(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], adapt: list[Plugin], train: Any, said: str
) -> None:
    step = first_step(llama, tmp_path, adapt, **train)
    assert abs(step["loss"] - math.log(2)) > 1e-5
    assert f"the first loss will not be that of equal models: {said}" in capfd.readouterr().err


@pytest.mark.parametrize(
    "adapt",
    [
        plugin("lora", r=4, dropout=0.1),
        plugin("lora", r=4, init="orthogonal"),
        plugin("lora", r=4, dora=True),
        plugin("houlsby", size=4, start="near"),
        plugin("peft", peft_type="hra", r=3, target_modules="all-linear"),
    ],
    ids=lambda adapt: f"{adapt.name}-{next(reversed(adapt.args))}",
)
def test_what_begins_nearly_as_the_base_is_compared_with_how_it_begins(
    llama: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], adapt: Plugin
) -> None:
    step = first_step(llama, tmp_path, [adapt])
    assert step["loss"] == pytest.approx(math.log(2), rel=CLOSE) and step["kl"] == 0
    assert "will not be" not in capfd.readouterr().err
