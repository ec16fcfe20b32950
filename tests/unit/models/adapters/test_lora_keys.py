"""What adapters refuse before anything trains, in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from beside_a_tiny_model import on, rows

from luthier.errors import LuthierError
from luthier.models import saving
from luthier.models.loading import load
from luthier.recipe import Plugin
from luthier.run import Run
from luthier.workflow import faults

SAMPLE = rows((6, 6), (5, 7))


@pytest.mark.parametrize(
    ("given", "fix"), [("lm_haed", "did you mean 'lm_head'?"), ("xyzzy", "known: "), ("act_fn", "known: ")]
)
def test_modules_to_save_are_there(given: str, fix: str) -> None:
    with pytest.raises(LuthierError, match=f"no module '{given}' with weights") as refused:
        on(tiny.model(), "lora", save_modules=[given])
    assert refused.value.where == "adapt.lora.save_modules" and fix in str(refused.value.fix)


def test_a_module_is_saved_whole_or_has_an_update() -> None:
    with pytest.raises(LuthierError, match=r"layers\.0\.self_attn\.q_proj would train whole and have an update"):
        on(tiny.model(), "lora", save_modules=["q_proj"])
    on(tiny.model(), "lora", targets=["v_proj"], save_modules=["q_proj"])


@pytest.mark.parametrize("name", ["pissa", "olora", "corda", "lora_ga"])
def test_first_weights_out_of_the_base_are_no_more_than_a_layer_has(name: str) -> None:
    """The tiny model's keys: 16 outputs of 32 inputs."""
    r = 9 if name == "lora_ga" else 17
    with pytest.raises(LuthierError, match=r"k_proj \(16 x 32\) has only 16") as refused:
        on(tiny.model(), name, sample=SAMPLE, r=r)
    assert refused.value.where == f"adapt.{name}.r"
    assert f"{{k_proj: {8 if name == 'lora_ga' else 16}}}" in str(refused.value.fix)


def test_eva_has_as_many_tokens_as_directions() -> None:
    """Two rows of 12 tokens: 24 of them, fewer than 2 x 13 directions, would be passed over for ever."""
    with pytest.raises(LuthierError, match=r"rho x r = 26 directions .* at most 24 tokens"):
        on(tiny.model(), "eva", sample=SAMPLE, r=13)


def test_eva_looks_for_no_more_directions_than_a_layer_has_inputs() -> None:
    """The tiny model's narrowest layers read 32 numbers: more rows would not help."""
    with pytest.raises(LuthierError, match=r"rho x r = 34 directions .*q_proj, which has 32 inputs") as refused:
        on(tiny.model(), "eva", sample=rows(*[(10, 10)] * 4), r=17)
    assert refused.value.where == "adapt.eva.r" and "smaller r or rho" in str(refused.value.fix)


def test_right_angles_want_an_even_rank() -> None:
    with pytest.raises(LuthierError, match="even rank, not 3") as refused:
        on(tiny.model(), "lora", r=3, init="orthogonal")
    assert refused.value.where == "adapt.lora.r"


def test_no_targets_at_all() -> None:
    with pytest.raises(LuthierError, match="targets is empty"):
        on(tiny.model(), "lora", targets=[])


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("oft", {"neumann": 1}, "one Neumann term is the identity"),
        ("oft", {"neumann": 10**9}, "'neumann': must be less than or equal to 100"),
        ("ia3", {"feedforward": ["down_proj"]}, "feedforward is read beside targets"),
        (
            "ia3",
            {"targets": ["down_proj"], "feedforward": ["down_proj"]},
            "'down_proj' is in targets and in feedforward",
        ),
    ],
)
def test_keys_that_would_do_nothing_are_refused(name: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(LuthierError, match=said):
        on(tiny.model(), name, **keys)


@pytest.mark.parametrize(("name", "keys"), [("lora", {"r": 10**12}), ("houlsby", {"size": 10**12})])
def test_what_memory_cannot_hold_is_told(name: str, keys: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError) as fault:
        on(tiny.model(), name, **keys)
    assert "out of memory" in faults.words(fault.value) and "smaller adapter" in faults.words(fault.value)


def test_a_tuner_of_pefts_goes_by_its_own_name() -> None:
    with pytest.raises(LuthierError, match="PEFT cannot put HRA on a LlamaForCausalLM"):
        on(tiny.model(), "peft", peft_type="hra", r=0)


def test_what_peft_cuts_without_a_word_is_refused() -> None:
    keys: dict[str, Any] = {"peft_type": "LORA", "init_lora_weights": "pissa", "target_modules": "all-linear"}
    with pytest.raises(LuthierError, match=r"k_proj \(16 x 32\) has only 16"):
        on(tiny.model(), "peft", r=17, **keys)


@pytest.mark.parametrize(
    ("adapt", "said"),
    [
        (["lora"], "from_pretrained(folder)` loads it"),
        (["houlsby", "lora"], "without `luthier.safetensors` (houlsby)"),
        (["houlsby"], "Plain PEFT does not know this kind"),
    ],
)
def test_the_folder_says_what_plain_peft_loads(tmp_path: Path, adapt: list[str], said: str) -> None:
    policy = load.load(tiny.folder(tmp_path / "base"), [Plugin(name=name) for name in adapt], device="cpu")
    run = Run(tmp_path / "run")
    saving.save(policy, run)
    text = (run.adapter / "README.md").read_text()
    assert said in text and ("library_name: peft" in text) == ("lora" in adapt)
    assert json.loads((run.adapter / load.ORIGIN).read_text())["adapt"]
