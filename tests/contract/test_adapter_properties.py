"""What each of PEFT's methods promises in its paper, in numbers; ours are proved beside their own files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapter_cases import (
    DEPTH,
    HEADS,
    IDS,
    INNER,
    KEYS,
    RECIPES,
    VOCABULARY,
    WIDTH,
    case,
    logits,
    opened,
    plugin,
    train_a_little,
    write,
)

from luthier.errors import LuthierError
from luthier.models import ADAPTERS, merge, open_run, save
from luthier.models.adapters.kit.shape import Shape
from luthier.run import Run

LAYERS = [(WIDTH, WIDTH), (WIDTH, KEYS), (WIDTH, KEYS), (WIDTH, WIDTH), (WIDTH, INNER), (WIDTH, INNER), (INNER, WIDTH)]
"""Inputs and outputs of the linear layers of a Llama block."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield write(tmp_path_factory.mktemp("base"), "llama", True)


CLOSED_FORMS = {
    "lora": DEPTH * sum(4 * (i + o) for i, o in LAYERS),
    "rslora": DEPTH * sum(4 * (i + o) for i, o in LAYERS),
    "pissa": DEPTH * sum(4 * (i + o) for i, o in LAYERS),
    "dora": DEPTH * sum(4 * (i + o) + o for i, o in LAYERS),
    "freeze + lora": sum(4 * (i + o) for i, o in LAYERS),
    "vera": DEPTH * sum(8 + o for _, o in LAYERS),
    "ia3": DEPTH * (2 * KEYS + INNER),
    "oft": DEPTH * sum(i // 8 * (8 * 7 // 2) for i, _ in LAYERS),
    "boft": DEPTH * sum(i // 4 * 16 + o for i, o in LAYERS),
    "adalora": DEPTH * sum(4 * (i + o + 1) for i, o in LAYERS),
    "prompt": 3 * WIDTH,
    "p_tuning_v2": 3 * DEPTH * 2 * KEYS,
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_the_number_of_weights_that_train_is_the_closed_form(folder: Path, name: str) -> None:
    assert opened(folder, RECIPES[name]).parameter_counts()[0] == CLOSED_FORMS[name]


UNTOLD = {
    *("eva", "gelora"),  # the data decide
    *("freeze", "freeze + lora", "peft", "peft hra"),  # their keys do
    "lora of many kinds",  # whole modules train beside it
}
"""Recipes of which nothing tells beforehand how many weights train."""


@pytest.mark.parametrize("name", RECIPES)
def test_as_many_weights_train_as_the_adapters_tell_of_a_models_sizes(folder: Path, name: str) -> None:
    if name == "loftq":
        pytest.importorskip("bitsandbytes")
    policy = opened(folder, RECIPES[name], quantize=plugin("nf4") if name == "loftq" else None)
    policy.attached.before_step(5, 6)  # what joins in the course of a run has joined
    shape = Shape("tiny", DEPTH, WIDTH, INNER, KEYS, VOCABULARY)
    told = [adapter.count(shape) for adapter in policy.adapters]
    assert (None in told) == (name in UNTOLD)
    if name not in UNTOLD:
        assert sum(count for count in told if count is not None) == policy.parameter_counts()[0]


def test_the_keys_that_name_layers_are_counted() -> None:
    shape = Shape("tiny", 2, 64, 128, 32, 96, tied=False)
    assert shape.total - replace(shape, tied=True).total == 96 * 64

    def count(name: str, **keys: Any) -> int | None:
        return ADAPTERS.build(name, keys).count(shape)

    assert count("lora", r=2, targets=["q_proj"], ranks={"1.self_attn.q_proj": 3}) == (2 + 3) * (64 + 64)
    assert count("dora", r=2, targets=r".*0\.mlp\.down_proj") == 2 * (128 + 64) + 64
    assert count("ia3", targets=["up_proj"]) == 2 * 128
    assert count("loreft", r=3, tied=False, layers=[1]) == 2 * 3 * (2 * 64 + 1)
    assert count("bitfit", add_biases=True, targets=["v_proj"]) == 2 * 32
    assert count("bitfit") is count("sara", threshold=1e-3) is count("p_tuning", encoder="lstm") is None
    assert count("oft", block=24) is None
    assert count("train", weights="head") == 96 * 64
    with pytest.raises(LuthierError, match="no linear layer"):
        count("lora", targets=["c_attn"])


def weights(folder: Path, name: str, tmp_path: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """The linear layers' matrices of the base, and of the merged model."""
    from safetensors.torch import load_file

    policy = case(folder, "llama", RECIPES[name]).policy
    merge(policy, tmp_path / "merged")
    base, merged = (load_file(path / "model.safetensors") for path in (folder, tmp_path / "merged"))
    chosen = [key for key in base if key.endswith("proj.weight")]
    assert len(chosen) == DEPTH * len(LAYERS)
    return {key: base[key].double() for key in chosen}, {key: merged[key].double() for key in chosen}


@pytest.mark.parametrize(
    "name", ["lora", "rslora", "pissa", "olora", "eva", "corda", "lora_ga", "gelora", "oft", "freeze + lora"]
)
def test_lora_of_any_scale_and_start_and_oft_take_the_fused_blocks(folder: Path, name: str) -> None:
    from luthier.forward.forward import Forward

    with Forward(opened(folder, RECIPES[name]).module).opened() as forward:
        assert f"{DEPTH} of {DEPTH} layers fused" in forward.path


def test_oft_keeps_the_gram_matrix_of_the_neurons(folder: Path, tmp_path: Path) -> None:
    base, merged = weights(folder, "oft", tmp_path)
    for name, w in base.items():
        assert not torch.allclose(merged[name], w, atol=1e-3)
        assert torch.allclose(merged[name] @ merged[name].T, w @ w.T, atol=2e-5)


def test_boft_keeps_the_angles_between_neurons(folder: Path, tmp_path: Path) -> None:
    base, merged = weights(folder, "boft", tmp_path)
    for name, w in base.items():
        before, after = (torch.nn.functional.normalize(each, dim=1) for each in (w, merged[name]))
        assert torch.allclose(after @ after.T, before @ before.T, atol=2e-5)


def test_boft_refuses_factors_that_peft_would_drop(folder: Path) -> None:
    from luthier.models.adapters.peft.orthogonal import _extension

    if _extension():
        pytest.skip("PEFT's CUDA extension is here")
    with pytest.raises(LuthierError, match="butterfly factors"):
        opened(folder, [plugin("boft", block=4, factors=2)])


def test_dora_sets_each_neurons_length_apart(folder: Path, tmp_path: Path) -> None:
    policy = opened(folder, RECIPES["dora"])
    base = {
        n: layer.weight.norm(dim=1) for n, layer in opened(folder, train=False).module.named_modules() if "proj" in n
    }
    sizes = {n: w for n, w in policy.module.named_parameters() if "magnitude" in n}
    assert len(sizes) == DEPTH * len(LAYERS)
    for name, m in sizes.items():
        assert torch.equal(m, base[name.removeprefix("base_model.model.").partition(".lora_")[0]])
    train_a_little(policy)
    merge(policy, tmp_path / "merged")
    from safetensors.torch import load_file

    merged = load_file(tmp_path / "merged" / "model.safetensors")
    for name, m in sizes.items():
        key = name.removeprefix("base_model.model.").partition(".lora_")[0]
        assert torch.allclose(merged[f"{key}.weight"].norm(dim=1), m, atol=1e-5)


def test_pissa_leaves_the_tail_of_the_singular_values(folder: Path) -> None:
    policy = opened(folder, RECIPES["pissa"])
    base = dict(opened(folder, train=False).module.named_parameters())
    left = {n: w for n, w in policy.bare.named_parameters() if n.endswith("base_layer.weight")}
    assert len(left) == DEPTH * len(LAYERS)
    for name, w in left.items():
        tail = torch.linalg.svdvals(base[name.replace(".base_layer", "")])[4:]
        assert torch.allclose(torch.linalg.svdvals(w)[: len(tail)], tail, atol=1e-5)


@pytest.mark.parametrize("name", ["pissa", "olora", "corda", "lora_ga"])
def test_what_takes_weights_out_of_the_base_is_saved_as_plain_lora(folder: Path, tmp_path: Path, name: str) -> None:
    import json

    trained = case(folder, "llama", RECIPES[name])
    assert trained.policy.rewrites_base
    run = Run(tmp_path / "run")
    save(trained.policy, run)
    config = json.loads((run.adapter / "adapter_config.json").read_text())
    assert config["init_lora_weights"] is True and config["r"] == 8
    again = open_run(run, device="cpu")
    assert not again.rewrites_base
    with again.adapter_off():
        assert torch.equal(logits(again.module), trained.base)
    assert torch.allclose(logits(again.module), trained.tuned, atol=2e-6)


def test_adalora_ends_at_its_budget(folder: Path) -> None:
    policy = opened(folder, [plugin("adalora", r=2, before=0.1, after=0.3)])
    train_a_little(policy, steps=10)
    left = sum(int((w != 0).sum()) for n, w in policy.module.named_parameters() if ".lora_E." in n)
    assert left == 2 * DEPTH * len(LAYERS)


def test_loraplus_lets_b_learn_faster(folder: Path) -> None:
    factors = opened(folder, [plugin("lora", r=4, plus=16)]).attached.lr_factors()
    assert factors and set(factors.values()) == {16.0} and all(".lora_B." in name for name in factors)
    assert not opened(folder, [plugin("lora", r=4)]).attached.lr_factors()


def test_ranks_may_differ_by_layer_and_keep_their_scale(folder: Path) -> None:
    policy = opened(folder, [plugin("lora", r=4, alpha=8, ranks={"q_proj": 2, r".*0\.mlp\.up_proj": 6})])
    found = {
        n: (layer.r["default"], layer.scaling["default"])
        for n, layer in policy.bare.named_modules()
        if n[-4:] == "proj"
    }
    assert {r for n, (r, _) in found.items() if "q_proj" in n} == {2}
    assert found["model.layers.0.mlp.up_proj"][0] == 6 and found["model.layers.1.mlp.up_proj"][0] == 4
    assert {scale for _, scale in found.values()} == {2.0}
    with pytest.raises(LuthierError, match="no layer that is trained is called 'q'"):
        opened(folder, [plugin("lora", ranks={"q": 2})])


def test_a_prefix_of_real_keys_and_values_reads_as_that_text(folder: Path) -> None:
    policy = opened(folder, RECIPES["p_tuning_v2"])
    policy.module.eval()
    text, rest = IDS[:1, :3], IDS[:1, 3:]
    with torch.no_grad():
        whole = policy.bare(input_ids=IDS[:1], use_cache=True)
        first = policy.bare(input_ids=text, use_cache=True).past_key_values
        # rows of virtual tokens; in each layer its keys, then its values, head by head
        kept = torch.stack([t[0] for layer in first.layers for t in (layer.keys, layer.values)])
        table = policy.module.prompt_encoder["default"].embedding.weight
        table.copy_(kept.permute(2, 0, 1, 3).reshape(3, DEPTH * 2 * KEYS))
        again = policy.module(input_ids=rest).logits
    assert KEYS == WIDTH // HEADS * 2
    assert torch.allclose(again, whole.logits[:, 3:], atol=1e-4)


def test_prompt_tuning_that_begins_as_a_text_is_that_text(folder: Path) -> None:
    policy = opened(folder, [plugin("prompt", tokens=3, text="A B C")])
    ids = torch.tensor([policy.tokenizer("A B C")["input_ids"]])
    assert ids.shape == (1, 3)
    with torch.no_grad():
        whole = policy.bare(input_ids=torch.cat([ids, IDS[:1]], 1)).logits[:, 3:]
    policy.module.eval()
    assert torch.allclose(logits(policy.module)[:1], whole, atol=1e-5)


# any other tuner
def test_unknown_tuners_and_keys_are_named_with_the_nearest() -> None:
    with pytest.raises(LuthierError, match="no tuner 'LOHAA'") as error:
        ADAPTERS.build("peft", {"peft_type": "LOHAA"})
    assert "LOHA" in (error.value.fix or "")
    with pytest.raises(LuthierError, match="no key 'alfa'") as error:
        ADAPTERS.build("peft", {"peft_type": "LOHA", "alfa": 3})
    with pytest.raises(LuthierError, match="needs the key 'peft_type'"):
        ADAPTERS.build("peft", {"r": 3})
    with pytest.raises(LuthierError, match="key 'options': must be a valid dictionary"):
        ADAPTERS.build("peft", {"peft_type": "LOHA", "r": 3, "options": "abc"})
    assert "alpha" in (error.value.fix or "")
    assert ADAPTERS.build("peft", {"peft_type": "LOHA", "r": 3, "options": {"alpha": 4}}).options == {
        "r": 3,
        "alpha": 4,
    }
