"""Faults of the libraries that the models room works around: each is still there, and no version is newer than the one
in which it was last seen.

A check that fails here says that a fault is gone: take the workaround out, or ask for the version that has it mended.
The first test fails when a library is newer than what was looked at: run the others with it, and raise the ceiling.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from packaging.version import Version
from peft import BOFTConfig, IA3Config, LoraConfig, PeftModel, TaskType, get_peft_model
from transformers import AutoModelForCausalLM

SEEN = {"peft": "0.21.2", "transformers": "5.24.0", "bitsandbytes": "0.50.2"}
"""The newest versions in which these faults were seen."""
IDS = torch.tensor([[3, 7, 8, 50]])


@pytest.mark.parametrize("package", SEEN)
def test_no_newer_version_than_was_looked_at(package: str) -> None:
    try:
        installed = Version(metadata.version(package))
    except metadata.PackageNotFoundError:
        pytest.skip(f"{package} is not installed")
    assert installed <= Version(SEEN[package]), (
        f"{package} {installed} is newer than {SEEN[package]}: see whether the faults below are still there"
    )


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module.eval()(input_ids=IDS).logits
    return found


def moved(base: Any, **keys: Any) -> Any:
    torch.manual_seed(1)
    module: Any = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, task_type=TaskType.CAUSAL_LM, **keys))
    for weight in module.parameters():
        if weight.requires_grad:
            weight.data.add_(torch.randn_like(weight) * 0.05)
    return module


def few_bits(folder: Path, **keys: Any) -> Any:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    settings: Any = BitsAndBytesConfig(**keys)
    base = tiny.folder(folder, **tiny.WHOLE_BLOCKS)
    return AutoModelForCausalLM.from_pretrained(base.name, quantization_config=settings, dtype=torch.bfloat16)


def merging_changes_the_model(module: Any) -> bool:
    expected = logits(module)
    return not torch.allclose(logits(copy.deepcopy(module).merge_and_unload()), expected, atol=1e-3)


# worked around in folding.py
def an_update_is_merged_into_both_of_tied_matrices(_: Path) -> bool:
    """`BaseTuner.merge_and_unload`; https://github.com/huggingface/peft/issues/2777"""
    return merging_changes_the_model(moved(tiny.model(tie_word_embeddings=True), target_modules=["lm_head"]))


def tokens_under_an_update_are_lost_on_merging(_: Path) -> bool:
    """`BaseTuner._unload_and_optionally_merge` unloads the outer of two wrappers."""
    from luthier.models.folding import _part

    module = moved(tiny.model(tie_word_embeddings=True), target_modules=["lm_head"], trainable_token_indices=[3, 7])
    _part(module.get_base_model())  # so that it is not the fault above
    return merging_changes_the_model(module)


# in foreign.py
def weights_without_a_place_are_passed_over(folder: Path) -> bool:
    """`PeftModel.from_pretrained` reports missing keys alone."""
    from safetensors.torch import load_file, save_file

    moved(tiny.model(), target_modules=["q_proj"]).save_pretrained(folder)
    file = folder / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.score.weight": torch.zeros(2, 32)}, file)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        PeftModel.from_pretrained(tiny.model(), folder)
    return not any("score" in str(each.message) for each in said)


# in policy.py
def switching_off_and_on_makes_weights_train(_: Path) -> bool:
    """`PeftModel.disable_adapter` sets requires_grad on its way out, whatever it was."""
    module = moved(tiny.model(), target_modules=["q_proj"]).requires_grad_(False)
    with module.disable_adapter():
        pass
    return any(weight.requires_grad for weight in module.parameters())


# in adapters/tuner.py
def lengths_of_dora_are_no_norms_on_bf16(_: Path) -> bool:
    """`DoraLinearLayer.update_layer` takes them from weights in the base's type."""
    module: Any = moved_not(tiny.model(dtype=torch.bfloat16), target_modules=["q_proj"], use_dora=True)
    layer = module.get_base_model().model.layers[0].self_attn.q_proj
    norms = layer.get_base_layer().weight.float().norm(dim=1)
    return not torch.equal(layer.lora_magnitude_vector["default"].weight.float(), norms)


def moved_not(base: Any, **keys: Any) -> Any:
    return get_peft_model(base, LoraConfig(r=4, task_type=TaskType.CAUSAL_LM, **keys))


def pissa_cuts_a_rank_without_a_word(_: Path) -> bool:
    """`LoraLayer.pissa_init`: a matrix of 16 rows gets factors of rank 16, and its configuration says 20."""
    module: Any = moved_not(
        tiny.model(), target_modules=["k_proj"], init_lora_weights="pissa", rank_pattern={"k_proj": 20}
    )
    layer = module.get_base_model().model.layers[0].self_attn.k_proj
    return len(layer.lora_A["default"].weight) < layer.r["default"]


# in adapters/other.py
def training_no_tokens_fails_when_called(_: Path) -> bool:
    """`TrainableTokensConfig` takes an empty list."""
    from peft import TrainableTokensConfig

    module = get_peft_model(tiny.model(), TrainableTokensConfig(task_type=TaskType.CAUSAL_LM))
    with pytest.raises(RuntimeError):
        logits(module)
    return True


def parameters_that_are_not_there_are_passed_over(_: Path) -> bool:
    """`LoraConfig.target_parameters`, beside target_modules that are."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = moved_not(tiny.model(), target_modules=["q_proj"], target_parameters=["no.such"])
    return module is not None


# in adapters/lora_starts.py
def olora_decomposes_gpt2_the_wrong_way(_: Path) -> bool:
    """`LoraLayer.olora_init` knows no transposed weights."""
    base = AutoModelForCausalLM.from_config(tiny.config("gpt2"))
    before = logits(base)
    try:
        module = moved_not(base, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights="olora")
        return not torch.allclose(logits(module), before, atol=1e-3)
    except (RuntimeError, ValueError):
        return True


def eva_goes_round_for_ever(_: Path) -> bool:
    """`peft/tuners/lora/eva.py`, `get_eva_state_dict`, where no batch has as many tokens as directions are wanted."""
    from peft import EvaConfig
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    config = LoraConfig(
        r=8, target_modules=["q_proj"], init_lora_weights="eva", eva_config=EvaConfig(rho=1), task_type="CAUSAL_LM"
    )
    module, rounds = get_peft_model(tiny.model(), config), iter(range(20))

    def count(*_: Any) -> None:
        if next(rounds, None) is None:
            raise TimeoutError

    module.get_base_model().register_forward_pre_hook(count)
    rows = [{"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}]
    try:
        initialize_lora_eva_weights(module, rows, show_progress_bar=False)
    except TimeoutError:
        return True
    except ValueError:
        return False
    return False


def corda_needs_a_package_that_peft_does_not_ask_for(_: Path) -> bool:
    """`peft/tuners/lora/corda.py` imports attr; see pyproject.toml."""
    asked = [name.split(";")[0] for name in metadata.requires("peft") or [] if "extra" not in name]
    from peft.tuners.lora import corda

    return "attr" in Path(corda.__file__).read_text() and not any(name.startswith("attrs") for name in asked)


# in adapters/rounding.py
def loftq_is_for_cuda_only(_: Path) -> bool:
    """`peft/utils/loftq_utils.py` moves the weights to CUDA."""
    from peft.utils import loftq_utils

    return '"xpu" if is_xpu_available() else "cuda"' in Path(loftq_utils.__file__).read_text()


# in adapters/orthogonal.py
def factors_of_boft_are_dropped_without_the_extension(_: Path) -> bool:
    """`peft/tuners/boft/layer.py`: without its CUDA extension one factor trains, whatever was asked for."""
    if torch.cuda.is_available():
        pytest.skip("the extension may be there")
    config = BOFTConfig(boft_block_size=4, boft_n_butterfly_factor=2, target_modules=["q_proj"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module: Any = get_peft_model(tiny.model(), config)
    return module.base_model.model.model.layers[0].self_attn.q_proj.boft_R["default"].shape[0] == 1


# in adapters/few_bits.py
def ia3_gives_fp32_on_few_bits(folder: Path) -> bool:
    """`peft/tuners/ia3/bnb.py`"""
    base = few_bits(folder, load_in_8bit=True)
    config = IA3Config(task_type=TaskType.CAUSAL_LM, target_modules=["k_proj"], feedforward_modules=[])
    layer = get_peft_model(base, config).base_model.model.model.layers[0].self_attn.k_proj  # type: ignore[union-attr]
    return layer(torch.zeros(1, 3, 64, dtype=torch.bfloat16)).dtype != torch.bfloat16


def reading_int8_for_dora_drops_its_scales(folder: Path) -> bool:
    """`peft/utils/integrations.py`, `dequantize_module_weight` on a CPU."""
    from peft.utils.integrations import dequantize_module_weight

    layer = few_bits(folder, load_in_8bit=True).model.layers[0].self_attn.k_proj
    layer(torch.zeros(1, 3, 64, dtype=torch.bfloat16))
    dequantize_module_weight(layer)
    return layer.weight.CB is not None and layer.weight.SCB is None


# in quantizers/
def merging_ia3_asks_how_the_base_was_loaded(_: Path) -> bool:
    """`peft/tuners/ia3/model.py` reads flags of a base that has ordinary matrices again."""
    from peft.tuners.ia3 import model

    return "is_loaded_in_4bit" in Path(model.__file__).read_text()


def int8_rounds_inputs_in_evaluation_only(_: Path) -> bool:
    """`bitsandbytes/autograd/_functions.py` decides by the layer's mode."""
    functions = pytest.importorskip("bitsandbytes.autograd._functions")
    return "is_training" in Path(functions.__file__).read_text()


def nf4_takes_other_blocks_scales_at_a_rows_end(_: Path) -> bool:
    """bitsandbytes' CPU kernels (`backends/cpu/ops.py`), for rows that are not of whole blocks of 64."""
    functional = pytest.importorskip("bitsandbytes.functional")
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        pytest.skip("this processor has other kernels")
    torch.manual_seed(0)
    weight = torch.randn(8, 96) * torch.tensor([1.0, 100.0]).repeat_interleave(48)
    codes, state = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4")
    pairs = torch.stack([codes.reshape(-1) >> 4, codes.reshape(-1) & 15], 1).reshape(-1).long()
    right = (state.code[pairs] * state.absmax.repeat_interleave(64)).view(8, 96)
    return not torch.allclose(functional.dequantize_4bit(codes, state), right, atol=1e-3)


def nf4_layers_repack_their_weights_in_evaluation(_: Path) -> bool:
    """`bitsandbytes/nn/modules.py`, `Linear4bit.forward` on CPUs with AVX512-BF16: a switch of each layer."""
    bitsandbytes = pytest.importorskip("bitsandbytes")
    return "support_avx512bf16_for_cpu" in vars(bitsandbytes.nn.Linear4bit(64, 8))


FAULTS: list[Callable[[Path], bool]] = [
    an_update_is_merged_into_both_of_tied_matrices,
    tokens_under_an_update_are_lost_on_merging,
    weights_without_a_place_are_passed_over,
    switching_off_and_on_makes_weights_train,
    lengths_of_dora_are_no_norms_on_bf16,
    pissa_cuts_a_rank_without_a_word,
    training_no_tokens_fails_when_called,
    parameters_that_are_not_there_are_passed_over,
    olora_decomposes_gpt2_the_wrong_way,
    eva_goes_round_for_ever,
    corda_needs_a_package_that_peft_does_not_ask_for,
    loftq_is_for_cuda_only,
    factors_of_boft_are_dropped_without_the_extension,
    ia3_gives_fp32_on_few_bits,
    reading_int8_for_dora_drops_its_scales,
    merging_ia3_asks_how_the_base_was_loaded,
    int8_rounds_inputs_in_evaluation_only,
    nf4_takes_other_blocks_scales_at_a_rows_end,
    nf4_layers_repack_their_weights_in_evaluation,
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_the_fault_is_still_there(fault: Callable[[Path], bool], tmp_path: Path) -> None:
    assert fault(tmp_path), f"{fault.__name__.replace('_', ' ')}: no longer. The workaround can go. ({fault.__doc__})"
