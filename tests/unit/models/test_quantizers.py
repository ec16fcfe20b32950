"""Bases in few bits: the codes' closed forms, and that nothing but the rounding differs from an ordinary base."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from luthier.errors import LuthierError
from luthier.models.quantizers import QUANTIZERS, dequantise_, dequantised, is_quantised, keep_types, numbers, settings
from luthier.recipe import Plugin, loads, resolve
from luthier.workflow.registries import REGISTRIES

bitsandbytes = pytest.importorskip("bitsandbytes")
from bitsandbytes import functional  # noqa: E402

# the published codebook (bitsandbytes' documentation of the paper's appendix), rounded to five digits
NF4 = [-1, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0]
NF4 += [0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1]
BLOCK = 64


def normal(rows: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(rows, 256, generator=torch.Generator().manual_seed(seed))


def round_trip(weight: Tensor, kind: str = "nf4", double: bool = False) -> tuple[Tensor, Any]:
    codes, state = functional.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=double, quant_type=kind)
    return functional.dequantize_4bit(codes, state), state


def test_nf4_takes_the_nearest_of_its_16_codes() -> None:
    weight = normal()
    found, state = round_trip(weight)
    assert state.code.tolist() == pytest.approx(NF4, abs=1e-5)
    blocks = weight.view(-1, BLOCK)
    absmax = blocks.abs().max(1).values
    assert torch.equal(state.absmax, absmax)
    scaled = blocks / absmax[:, None]
    nearest = state.code[(scaled[..., None] - state.code).abs().argmin(-1)]
    assert torch.equal(found, (nearest * absmax[:, None]).view_as(found))


def test_nf4_is_idempotent_and_no_further_off_than_half_its_widest_gap() -> None:
    weight = normal(seed=1)
    once, state = round_trip(weight)
    assert torch.equal(round_trip(once)[0], once)
    # between -1 and -0.69619: half of 0.30381
    assert ((once - weight).abs().view(-1, BLOCK) <= state.absmax[:, None] * 0.15191).all()


def test_bits_per_weight_are_the_papers() -> None:
    weight = torch.randn(1024, 1024)  # scales of 16,384 blocks: 64 blocks of 256
    for double, bits in ((False, 4 + 32 / 64), (True, 4 + 8 / 64 + 32 / (64 * 256))):
        codes, state = functional.quantize_4bit(weight, blocksize=BLOCK, compress_statistics=double, quant_type="nf4")
        stored = codes.nbytes + state.absmax.nbytes + (state.state2.absmax.nbytes if double else 0)
        assert 8 * stored / weight.numel() == pytest.approx(bits, abs=1e-6)
    assert bits == pytest.approx(4.127, abs=1e-3)


def test_on_normal_weights_nf4_errs_less_than_int4_and_int4_less_than_fp4() -> None:
    weight = normal(1024, seed=2)
    blocks = weight.view(-1, BLOCK)
    scale = blocks.abs().max(1, keepdim=True).values / 7
    int4 = ((blocks / scale).round().clamp(-7, 7) * scale).view_as(weight)
    nf4, fp4 = round_trip(weight)[0], round_trip(weight, "fp4")[0]
    error = [float((found - weight).square().mean()) for found in (nf4, int4, fp4)]
    assert error[0] < error[1] < error[2]
    double = float((round_trip(weight, double=True)[0] - weight).square().mean())
    assert double == pytest.approx(error[0], rel=2e-3)


def saved(folder: Path, module: Any = None) -> Path:
    (tiny.model(**tiny.WHOLE_BLOCKS) if module is None else module).save_pretrained(folder)
    return folder


def opened(folder: Path, name: str = "nf4", dtype: torch.dtype = torch.float32, **keys: Any) -> Any:
    from transformers import AutoModelForCausalLM

    few_bits = settings(Plugin(name=name, args=keys), dtype)
    module = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, quantization_config=few_bits, device_map={"": "cpu"}
    )
    keep_types(module, dtype)
    return module


def adapted(module: Any) -> Any:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    return get_peft_model(module, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).train()


def gradients(module: Any, ids: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    module(ids, labels=ids).loss.backward()
    return {name: weight.grad.clone() for name, weight in module.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_lora_on_few_bits_has_the_gradients_of_lora_on_the_dequantised_weights(name: str, tmp_path: Path) -> None:
    ids = torch.arange(40).view(2, 20)
    few = opened(saved(tmp_path), name)
    plain = opened(tmp_path, name)
    dequantise_(plain, torch.float32)
    few, plain = adapted(few), adapted(plain)
    ours, theirs = gradients(few, ids), gradients(plain, ids)
    assert set(ours) == set(theirs) and len(ours) == 28
    for key, grad in ours.items():
        assert torch.allclose(grad, theirs[key], rtol=1e-4, atol=1e-5 * float(theirs[key].abs().max())), key


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_an_evaluation_between_steps_computes_the_same_and_changes_nothing(name: str, tmp_path: Path) -> None:
    """bitsandbytes would repack weights in nf4 for good on the first call in evaluation (on CPUs with AVX512-BF16), and
    round the inputs of those in int8 there."""
    ids = torch.arange(40).view(2, 20)
    few = adapted(opened(saved(tmp_path), name, dtype=torch.bfloat16))
    before = gradients(few, ids)
    with torch.no_grad():
        evaluated = few.eval()(ids).logits
        trained = few.train()(ids).logits
    assert torch.equal(evaluated, trained)
    after = gradients(few, ids)
    assert all(torch.equal(grad, after[key]) for key, grad in before.items())


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_a_layer_in_few_bits_computes_in_the_models_type_whatever_its_input_is_widened_to(
    name: str, tmp_path: Path
) -> None:
    layer = opened(saved(tmp_path), name, torch.bfloat16).model.layers[0].mlp.down_proj
    x = torch.randn(3, 128, dtype=torch.bfloat16)
    assert layer(x.float()).dtype == torch.bfloat16 and torch.equal(layer(x.float()), layer(x))


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_only_the_blocks_matrices_are_quantised(name: str, tmp_path: Path) -> None:
    base = tiny.model(**tiny.WHOLE_BLOCKS)
    few = opened(saved(tmp_path, base), name, torch.bfloat16)
    quantised = {key for key, weight in few.named_parameters() if is_quantised(weight)}
    assert quantised == {key for key, _ in base.named_parameters() if "_proj." in key}
    kept = {key: weight for key, weight in few.named_parameters() if key not in quantised}
    assert all(weight.dtype == torch.bfloat16 for weight in kept.values())
    assert {key.split(".")[-2] for key in kept} == {
        "embed_tokens", "input_layernorm", "post_attention_layernorm", "norm", "lm_head",
    }  # fmt: skip
    count = sum(numbers(weight) for weight in few.parameters())
    assert count == sum(weight.numel() for weight in base.parameters())


@pytest.mark.parametrize("name", ["nf4", "int8"])
def test_gpt2s_turned_matrices_are_quantised_and_come_back_turned(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=64, n_embd=64, n_layer=1, n_head=4)).eval()
    few = opened(saved(tmp_path, base), name).eval()
    ids = torch.arange(20)[None]
    with torch.no_grad():
        logits = few(ids).logits
        layer = few.transformer.h[0].mlp.c_fc
        before = base.transformer.h[0].mlp.c_fc.weight
        assert (dequantised(layer).T - before).abs().max() < 0.16 * before.abs().max()
        dequantise_(few, torch.float32)
        assert torch.allclose(few(ids).logits, logits, atol=1e-4 if name == "nf4" else 0.02)
    assert set(few.state_dict()) == set(base.state_dict())
    few.save_pretrained(tmp_path / "plain")
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "plain")
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in few.state_dict().items())
    assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()


def test_a_copy_in_full_precision_is_what_the_quantised_model_computed_with(tmp_path: Path) -> None:
    few = opened(saved(tmp_path)).eval()
    plain = copy.deepcopy(few)
    dequantise_(plain, torch.float32)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.allclose(plain(ids).logits, few(ids).logits, atol=1e-5)
    assert not any(is_quantised(weight) for weight in plain.parameters())


def test_rows_that_bitsandbytes_reads_wrongly_on_cpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=r"rows of whole blocks of 64 weights, .*q_proj has rows of 32"):
        opened(saved(tmp_path, tiny.model()))
    opened(tmp_path, "int8")


RECIPE = "model: m\ndata: rows.jsonl\noutput: run\n"


def test_the_key_takes_a_name_a_mapping_or_nothing() -> None:
    def quantize(line: str) -> Plugin | None:
        return resolve(loads(RECIPE + line, name="r.yaml"), REGISTRIES).recipe.quantize

    assert quantize("") is None
    assert quantize("quantize: null") is None
    assert quantize("quantize: nf4") == Plugin(name="nf4", args={"double": True, "compute": "auto"})
    assert quantize("quantize: {nf4: {double: false}}").args["double"] is False  # type: ignore[union-attr]
    assert quantize("quantize: {int8: {threshold: 4}}") == Plugin(name="int8", args={"threshold": 4})
    with pytest.raises(LuthierError, match="unknown quantizer 'nf5'"):
        quantize("quantize: nf5")


@pytest.mark.parametrize("adapt", ["full", "{freeze: {bottom: 1}}", "[{freeze: {bottom: 1}}, lora]"])
def test_what_trains_the_bases_own_weights_is_refused_with_the_reason(adapt: str) -> None:
    with pytest.raises(LuthierError, match="cannot train on a base in nf4: the base's own weights train") as caught:
        resolve(loads(f"{RECIPE}adapt: {adapt}\nquantize: nf4\n", name="r.yaml"), REGISTRIES)
    assert caught.value.where == "r.yaml:5"


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for name in QUANTIZERS.names():
        with pytest.raises(LuthierError, match=f"`quantize: {name}` needs the package 'bitsandbytes'") as caught:
            settings(Plugin(name=name), torch.bfloat16)
        assert "luthier[quant]" in str(caught.value.fix)
