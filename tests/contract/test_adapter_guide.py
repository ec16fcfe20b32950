"""What readers are told of the adapters is made from their declarations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from luthier import verbs
from luthier.errors import LuthierError
from luthier.models import catalogue, fetch
from luthier.models.adapters import ADAPTERS
from luthier.models.adapters.kit import guide
from luthier.models.adapters.kit.shape import DEFAULT, Shape
from luthier.recipe import Model

ROOT = Path(__file__).parents[2]


def test_the_page_of_adapters_is_not_stale() -> None:
    assert (ROOT / "docs/adapters.md").read_text(encoding="utf-8") == guide.page(), "run `make docs`"


def test_explain_tables_every_adapter(capsys: pytest.CaptureFixture[str]) -> None:
    verbs.explain("adapt")
    shown = capsys.readouterr().out
    assert all(name in shown for name in ADAPTERS.names())


def test_the_share_that_trains_is_told_where_it_is_known() -> None:
    shares = {row[0]: row[guide.HEADINGS.index("share")] for row in guide.rows()}
    # r (inputs + outputs) of 30 blocks with layers of 576 x 576, 576 x 192 and 576 x 1536 numbers, of 134,515,008
    assert 30 * 16 * (2 * 1152 + 2 * 768 + 3 * 2112) == guide.numbers(ADAPTERS.get("lora")) == 4_884_480
    assert shares["lora"] == shares["pissa"] == "3.6 %" and shares["full"] == "100 %" and shares["ia3"] == "0.043 %"
    # 2 bytes for each number of the base, 16 for each that trains
    assert guide.memory(ADAPTERS.get("lora")) == "331 MiB" and guide.memory(ADAPTERS.get("full")) == "2.3 GiB"
    assert {name for name, share in shares.items() if share == "–"} == {"bitfit", "eva", "freeze", "gelora", "peft"}


def test_the_guide_is_made_without_torch() -> None:
    code = "import sys; from luthier.models.adapters.kit import guide; guide.page(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_the_default_models_sizes_are_its_own() -> None:
    known = next(each for each in catalogue() if each.alias == DEFAULT.name)
    if not known.cached:
        pytest.skip("the default model is not cached")
    config = AutoConfig.from_pretrained(fetch(Model(name=DEFAULT.name)).folder)
    keys = config.hidden_size // config.num_attention_heads * config.num_key_value_heads
    sizes = config.num_hidden_layers, config.hidden_size, config.intermediate_size, keys, config.vocab_size
    assert Shape(DEFAULT.name, *sizes, config.tie_word_embeddings) == DEFAULT
    with torch.device("meta"):
        assert sum(each.numel() for each in AutoModelForCausalLM.from_config(config).parameters()) == DEFAULT.total


@pytest.mark.parametrize("name", ADAPTERS.names())
def test_explain_prints_the_card_of_one(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    verbs.explain(name)
    shown = " ".join(capsys.readouterr().out.split())
    assert ADAPTERS.get(name).card.title in shown
    assert "learning rate" in shown


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("grpo", ["(for objective)", "arXiv:2402.03300", "clip_low", "0.04", "Why: the paper's."]),
        ("gae", ["(for credit of objectives", "gamma"]),
        ("maths", ["(for evaluate.scorers, reward)"]),
        ("muon", ["(for train.optimizer)", "momentum"]),
        ("rollout", ["(of a recipe)", "max_new_tokens", "256"]),
        ("rollout.follow", ["every"]),
        ("reward", ["(of a recipe)", "gate", "(for objective)"]),
    ],
)
def test_explain_prints_what_any_name_of_a_recipe_is(
    name: str, told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    verbs.explain(name)
    shown = " ".join(capsys.readouterr().out.split())
    assert all(words in shown for words in told), shown


@pytest.mark.parametrize(
    ("name", "near"), [("lorra", "did you mean 'lora'?"), ("LORA", "lora"), ("grpoo", "grpo"), ("rollouts", "rollout")]
)
def test_explain_of_a_misspelt_name_says_what_is_near(name: str, near: str) -> None:
    with pytest.raises(LuthierError, match="neither a recipe, nor a plug-in") as caught:
        verbs.explain(name)
    assert near in str(caught.value.fix)
