"""Every adapter goes through the same checks; its declared abilities decide what must hold, never its name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import IDS, NOT_ON, RECIPES, Case, case, logits, opened, plugin, rows, train_a_little, write
from passes import Pass, computed, differing, once
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import AutoModelForCausalLM

from luthier.errors import LuthierError
from luthier.forward.forward import Forward
from luthier.models import ADAPTERS, EXPORTERS, merge, open_run, save
from luthier.models.adapters import Adapter, build
from luthier.models.adapters.kit.card import Card
from luthier.models.quantizers import QUANTIZERS, dequantised
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run
from luthier.train.loop import activations

TIGHT = 2e-6
"""Rounding of sums of some hundred fp32 terms of size one."""
FAST = {"lora", "dora", "pissa", "houlsby", "bitfit", "ia3", "train", "prefix", "loreft"}
"""What runs on every model by default; on the first one everything does."""
BASES = [("llama", True), ("llama", False), ("qwen2", True), ("gpt2", True), ("gpt2", False)]


def pairs() -> Iterator[Any]:
    for family, tied in BASES:
        for name, adapt in RECIPES.items():
            if name in NOT_ON.get(family, set()) or name in NOT_ON["whole"]:
                continue
            fast = (family, tied) == BASES[0] or (name in FAST and (family, tied) in (BASES[2], BASES[3]))
            marks = () if fast else (pytest.mark.slow,)
            label = f"{family}-{'tied' if tied else 'untied'}-{name}"
            yield pytest.param((family, tied, adapt, None), id=label, marks=marks)
    for name, adapt in RECIPES.items():
        if goes_on(adapt, "nf4"):
            marks = () if name in ("lora", "loftq", "houlsby") else (pytest.mark.slow,)
            yield pytest.param(("llama", True, adapt, plugin("nf4")), id=f"llama-nf4-{name}", marks=marks)


def goes_on(adapt: list[Plugin], quantizer: str) -> bool:
    """Do all of them declare that they train on a base in these few bits?"""
    declared = [ADAPTERS.get(each.name).quantisable for each in adapt]
    return all(goes is True or (goes and quantizer in goes) for goes in declared)


def in_few_bits() -> Iterator[Any]:
    """Every adapter and kind of few bits: on bf16 bases, as runs have them."""
    for quantizer in QUANTIZERS.names():
        for name, adapt in RECIPES.items():
            fast = name in ("lora", "dora", "ia3", "houlsby", "ir_qlora")
            marks = () if fast or not goes_on(adapt, quantizer) else (pytest.mark.slow,)
            yield pytest.param(name, quantizer, id=f"{quantizer}-{name}", marks=marks)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Path]:
    return {base: write(tmp_path_factory.mktemp("base"), *base) for base in BASES}


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=pairs())
def trained(request: pytest.FixtureRequest, folders: dict[tuple[str, bool], Path]) -> Case:
    family, tied, adapt, quantize = request.param
    if quantize is not None:
        pytest.importorskip("bitsandbytes")
    return case(folders[family, tied], family, adapt, quantize)


@pytest.fixture(scope="module")
def llama(folders: dict[tuple[str, bool], Path]) -> Path:
    return folders["llama", True]


# declarations
def test_every_registered_adapter_is_covered_and_keeps_the_contract() -> None:
    assert {p.name for plugins in RECIPES.values() for p in plugins} == set(ADAPTERS.names())
    for plugins in RECIPES.values():
        for adapter in build(plugins):
            assert isinstance(adapter, Adapter) and isinstance(adapter.card, Card)
            assert 0 < adapter.default_lr < 1
            assert set(adapter.card.related) <= set(ADAPTERS.names())


@pytest.mark.parametrize("name", sorted(NOT_ON["gpt2"]))
def test_what_does_not_go_on_a_model_says_so(folders: dict[tuple[str, bool], Path], name: str) -> None:
    with pytest.raises(LuthierError) as refused:
        opened(folders["gpt2", True], RECIPES[name])
    assert refused.value.fix


def test_loftq_wants_a_rounded_base(llama: Path) -> None:
    with pytest.raises(LuthierError, match="makes up for rounding"):
        opened(llama, RECIPES["loftq"])


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_loftq_takes_the_base_nearer_to_what_it_was(folders: dict[tuple[str, bool], Path], family: str) -> None:
    """GPT-2's files hold their matrices inputs by outputs, the square ones among them too."""
    pytest.importorskip("bitsandbytes")
    folder, nf4 = folders[family, True], plugin("nf4")
    whole, rounded = opened(folder).module, opened(folder, [plugin("lora", r=4)], quantize=nf4).module
    mended = opened(folder, [plugin("loftq", r=32)], quantize=nf4).module
    for (name, before), (_, after) in zip(linear_updates(rounded), linear_updates(mended), strict=True):
        weight = whole.get_submodule(name).weight.detach()
        weight = weight.T if family == "gpt2" else weight
        assert (after - weight).norm() < 0.9 * (before - weight).norm(), name


def linear_updates(peft: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Every layer's W + s B A by its name in the base, outputs by inputs."""
    for name, layer in peft.get_base_model().named_modules():
        if isinstance(layer, LoraLayer):
            yield name, dequantised(layer.get_base_layer()).float() + layer.get_delta_weight("default").detach()


@pytest.mark.parametrize(("name", "quantizer"), in_few_bits())
def test_it_trains_on_a_bf16_base_in_few_bits_as_declared(
    llama: Path, tmp_path: Path, name: str, quantizer: str
) -> None:
    pytest.importorskip("bitsandbytes")
    if not goes_on(RECIPES[name], quantizer):
        with pytest.raises(LuthierError, match="cannot train on a base in"):
            opened(llama, RECIPES[name], dtype="bf16", quantize=plugin(quantizer))
        return
    policy = opened(llama, RECIPES[name], dtype="bf16", quantize=plugin(quantizer))
    before = {name: weight.detach().clone() for name, weight in policy.trainable()}
    policy.module.train()
    trained = train_a_little(policy, steps=2)
    assert trained
    after = dict(policy.trainable())
    moved = [each for each, old in before.items() if not torch.equal(after[each], old)]
    assert moved and all(torch.isfinite(after[each]).all() for each in before)
    policy.module.eval()
    tuned, run = logits(policy.module), Run(tmp_path / "run")
    save(policy, run)
    assert torch.allclose(logits(open_run(run, device="cpu").module), tuned, atol=TIGHT)


# at the start and after some steps
def test_begins_as_the_base_or_says_that_it_does_not(trained: Case) -> None:
    if trained.can("exact_start"):
        assert torch.equal(trained.start, trained.base)
    assert torch.isfinite(trained.start).all()


def test_what_trains_moves_and_nothing_else_does(trained: Case) -> None:
    after = dict(trained.policy.module.named_parameters())
    moved = {name for name, old in trained.before.items() if not torch.equal(after[name], old)}
    assert trained.given <= trained.trained
    # AdaLoRA may take a layer's whole rank away: its singular values then stay at zero
    emptied = {name for name in trained.trained - moved if ".lora_E." in name and not after[name].any()}
    assert moved == trained.trained - emptied
    assert not torch.allclose(trained.tuned, trained.start, atol=1e-4)


def test_saved_and_opened_gives_the_same_logits(trained: Case, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    written = save(trained.policy, run)
    again = open_run(run, device="cpu")
    assert again.has_adapter == trained.policy.has_adapter == (written == run.adapter)
    assert torch.allclose(logits(again.module), trained.tuned, atol=TIGHT)
    assert not again.trainable()
    assert again.tokenizer.encode("abc") == trained.policy.tokenizer.encode("abc")
    assert again.tokenizer.chat_template == trained.policy.tokenizer.chat_template


def test_switched_off_it_is_the_base(trained: Case) -> None:
    policy, names = trained.policy, [name for name, _ in trained.policy.trainable()]
    if not policy.has_adapter or policy.rewrites_base:
        with pytest.raises(LuthierError, match="switch"), policy.adapter_off():
            pass
        return
    with policy.adapter_off():
        assert torch.equal(logits(policy.module), trained.base)
    assert torch.equal(logits(policy.module), trained.tuned)
    assert [name for name, _ in policy.trainable()] == names


def test_merged_is_the_adapters_forward_in_plain_transformers_or_refused(trained: Case, tmp_path: Path) -> None:
    policy = trained.policy
    if not trained.can("mergeable"):
        with pytest.raises(LuthierError, match="cannot be merged"):
            merge(policy, tmp_path / "merged")
        return
    files = EXPORTERS.build("merged")(policy, tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    if policy.quantize is None:  # else the drift is measured, not bounded by rounding alone
        assert torch.allclose(logits(plain), trained.tuned, atol=2e-5)
    assert plain.config.tie_word_embeddings == policy.module.config.tie_word_embeddings
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= {f.name for f in files}
    assert torch.equal(logits(policy.module), trained.tuned), "merging changed the policy itself"


# through the loop's forward pass
def gradients(case: Case, budget: int = 100_000, **choices: Any) -> Pass:
    """One pass in training mode; the module is left as it was."""
    module = case.policy.module.train()
    made = once(module, rows(8), budget, **choices)
    module.eval().zero_grad(set_to_none=True)
    return made


CLOSE = {"loss": 1e-5, "gradient": 2e-4}


def test_layouts_and_accumulation_give_the_same_gradients(trained: Case) -> None:
    padded = gradients(trained, layout="padded", share_prefix=False)
    assert padded.gradients.keys() == {name for name, _ in trained.policy.trainable()}
    parts = gradients(trained, budget=40, layout="padded", share_prefix=False)
    assert parts.batches > padded.batches == 1
    assert not differing(padded, parts, **CLOSE)
    if trained.can("packs"):
        packed = gradients(trained, share_prefix=False)
        assert packed.path.startswith("packed")
        assert not differing(padded, packed, **CLOSE)
    if trained.can("packs") and trained.can("shares_prefix"):
        shared = gradients(trained, share_prefix=True)
        assert "shared prefixes" in shared.path
        assert not differing(padded, shared, **CLOSE)


def test_gradient_checkpointing_changes_nothing_where_it_is_declared_and_fails_where_not(trained: Case) -> None:
    layout = "auto" if trained.can("packs") else "padded"
    plain = gradients(trained, layout=layout, share_prefix=False)
    activations.remake(trained.policy.bare)
    counts = computed(trained.policy.bare)
    try:
        if not trained.can("checkpoints"):  # layers that are made again get no cache, so no virtual tokens in it
            with pytest.raises(RuntimeError, match="must match the size"):
                gradients(trained, layout=layout, share_prefix=False)
            return
        remade = gradients(trained, layout=layout, share_prefix=False)
    finally:
        activations.keep(trained.policy.bare)
        trained.policy.module.eval()
    assert set(counts.values()) in ({2}, {1, 2}), "layers above a weight that trains are computed again going back"
    assert not differing(plain, remade, **CLOSE)


def test_plain_lora_is_fused_and_what_is_more_is_not(folders: dict[tuple[str, bool], Path]) -> None:
    paths = {}
    for name in ("lora", "full", "freeze + lora", "houlsby", "bitfit", "houlsby + lora", "dora", "lora of many kinds"):
        with Forward(opened(folders["llama", True], RECIPES[name]).module).opened() as forward:
            paths[name] = "2 of 2 layers fused" in forward.path
    assert [name for name, fused in paths.items() if fused][:3] == ["lora", "full", "freeze + lora"]
    assert not any(paths[name] for name in ("houlsby", "houlsby + lora", "dora"))


# types, seeds, plain PEFT
@pytest.mark.parametrize("name", [n for n in RECIPES if n not in NOT_ON["whole"]])
def test_added_weights_are_fp32_on_a_bf16_base(llama: Path, name: str) -> None:
    own = {n for n, _ in opened(llama, train=False).module.named_parameters()}
    policy = opened(llama, RECIPES[name], dtype="bf16")
    assert policy.dtype == torch.bfloat16
    added = {n.replace("base_model.model.", "").replace(".base_layer", ""): w for n, w in policy.trainable()}
    whole = ("modules_to_save", ".bias")  # copies of the base's, and biases, are added to what the base computes
    kinds = {w.dtype for n, w in added.items() if n not in own and not any(part in n for part in whole)}
    assert kinds <= {torch.float32} or all(adapter.kind == "base" for adapter in policy.adapters)
    assert torch.isfinite(policy.module(input_ids=IDS).logits).all()


def test_merging_into_bf16_is_the_fp32_sum_rounded_once(llama: Path, tmp_path: Path) -> None:
    policy = case(llama, "llama", RECIPES["lora"]).policy
    merge(policy, tmp_path / "wide")
    merge(policy, tmp_path / "narrow", torch.bfloat16)
    wide = AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype="auto").state_dict()
    narrow = AutoModelForCausalLM.from_pretrained(tmp_path / "narrow", dtype="auto").state_dict()
    assert {tensor.dtype for tensor in narrow.values()} == {torch.bfloat16}
    assert all(torch.equal(narrow[name], tensor.to(torch.bfloat16)) for name, tensor in wide.items())


PEFTS = [n for n, adapt in RECIPES.items() if {ADAPTERS.get(p.name).kind for p in adapt} == {"peft"} and n != "loftq"]


@pytest.mark.parametrize("name", PEFTS)
def test_plain_peft_loads_the_adapter_folder(llama: Path, tmp_path: Path, name: str) -> None:
    trained, run = case(llama, "llama", RECIPES[name]), Run(tmp_path / "run")
    save(trained.policy, run)
    base = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, run.adapter).eval()
    assert torch.allclose(logits(plain), trained.tuned, atol=TIGHT)
    with plain.disable_adapter():
        assert torch.equal(logits(plain), trained.base)


def test_an_adapter_folder_names_its_base_for_peft(llama: Path, tmp_path: Path) -> None:
    from peft import AutoPeftModelForCausalLM

    trained, run = case(llama, "llama", RECIPES["lora"]), Run(tmp_path / "run")
    save(trained.policy, run)
    by_name = AutoPeftModelForCausalLM.from_pretrained(run.adapter, dtype=torch.float32)
    assert torch.equal(logits(by_name.eval()), trained.tuned)


@pytest.mark.parametrize("name", ["lora", "houlsby", "prompt"])
def test_the_same_seed_draws_the_same_weights_and_leaves_torchs_own_alone(llama: Path, name: str) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    first, again = (opened(llama, RECIPES[name], seed=5) for _ in range(2))
    other = opened(llama, RECIPES[name], seed=6)
    assert torch.equal(torch.get_rng_state(), state)
    compared = list(zip(first.trainable(), again.trainable(), other.trainable(), strict=True))
    assert all(torch.equal(a[1], b[1]) for a, b, _ in compared)
    assert any(not torch.equal(a[1], c[1]) for a, _, c in compared)
    assert Model(name=str(llama)).name == first.base
