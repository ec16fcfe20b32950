"""Adapters loaded into the local engine leave the model alone: on it trains, generates and is saved as without them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from tiny_tokenizers import words

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.types import Request, Sampling
from luthier.workflow.scoring import AdapterOff

IDS = torch.tensor([[5, 6, 7, 8]])
GREEDY = Sampling(max_new_tokens=6)


def engine(module: Any) -> LocalEngine:
    return LocalEngine(module, words(65), ())


def answer(made: Any, adapter: str | None) -> tuple[int, ...]:
    (completion,) = made.run([Request((5, 6, 7, 8), GREEDY, adapter=adapter)])
    return completion.ids


def saved(folder: Path, module: Any) -> str:
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if "lora_B" in name or "prompt" in name:
                weight.normal_(generator=torch.Generator().manual_seed(3))
    module.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return saved(tmp_path / "lora", get_peft_model(tiny.model(), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])))


def state(module: Any) -> tuple[Any, ...]:
    weights = {name: weight.requires_grad for name, weight in module.named_parameters()}
    return weights, [(name, type(part), part.training) for name, part in module.named_modules()]


def test_a_plain_model_stays_one(folder: str) -> None:
    module = tiny.model().train()
    module.model.embed_tokens.weight.requires_grad_(False)
    before, logits = state(module), module(IDS).logits
    made = engine(module)
    own = answer(made, None)
    made.load_adapter("a", folder)
    assert torch.equal(module(IDS).logits, logits) and module.training
    trains = {
        name.replace("base_layer.", ""): w.requires_grad for name, w in module.named_parameters() if "lora" not in name
    }
    assert trains == before[0]
    assert answer(made, "a") != own == answer(made, None)
    assert torch.equal(module(IDS).logits, logits)
    made.drop_adapter("a")
    assert state(module) == before and torch.equal(module(IDS).logits, logits)


def test_beside_the_adapter_that_trains(tmp_path: Path, folder: str) -> None:
    module = tiny.lora().train()
    before, logits = state(module)[0], module(IDS).logits
    made = engine(module)
    own = answer(made, None)
    made.load_adapter("a", folder)
    for _ in range(2):
        assert answer(made, "a") not in (own, ()) and answer(made, "default") == own
        assert torch.equal(module(IDS).logits, logits) and module.active_adapter == "default"
    assert {name: grad for name, grad in state(module)[0].items() if ".a." not in name} == before
    plain = engine(tiny.model())
    plain.load_adapter("a", folder)
    assert answer(plain, "a") == answer(made, "a")
    off = AdapterOff(made, module.disable_adapter)
    assert answer(off, "a") == answer(made, "a"), "named, it answers also where the model's own is off"
    assert answer(off, None) == answer(engine(tiny.model()), None)
    made.drop_adapter("a")
    assert state(module)[0] == before and torch.equal(module(IDS).logits, logits)
    with pytest.raises(LuthierError, match=r"no adapter 'default' was loaded \(loaded: none\)"):
        made.drop_adapter("default")


def test_virtual_tokens_on_a_plain_model(tmp_path: Path) -> None:
    tuned = get_peft_model(tiny.model(), PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    folder = saved(tmp_path / "prefix", tuned)
    made = engine(tiny.model())
    own = answer(made, None)
    made.load_adapter("p", folder)
    assert answer(made, "p") == answer(engine(tuned.eval()), None) != own == answer(made, None)
    made.drop_adapter("p")
    assert answer(made, None) == own


def test_an_adapter_of_another_model_is_refused_and_leaves_nothing(tmp_path: Path, folder: str) -> None:
    wide = get_peft_model(tiny.model(hidden_size=64), LoraConfig(r=2, target_modules=["q_proj"]))
    module = tiny.model()
    before, made = state(module), engine(module)
    for path in (saved(tmp_path / "wide", wide), str(tmp_path)):
        with pytest.raises(LuthierError) as error:
            made.load_adapter("w", path)
        assert error.value.where == path and error.value.fix
        assert state(module) == before
    made.load_adapter("a", folder)
    with pytest.raises(LuthierError, match="does not go on the model"):
        made.load_adapter("w", str(tmp_path / "wide"))
    assert answer(made, "a") and answer(made, None) == answer(engine(tiny.model()), None)


def test_between_two_completions_the_model_is_free(folder: str) -> None:
    module = tiny.model().train()
    logits, made = module(IDS).logits, engine(module)
    made.load_adapter("a", folder)
    asked = [Request((5, 6, 7), Sampling(max_new_tokens=length), adapter="a", id=length) for length in (2, 5)]
    seen = []
    for completion in made.run(asked):
        seen.append(completion)
        assert module.training and torch.equal(module(IDS).logits, logits) and torch.is_grad_enabled()
    assert sorted(len(each.ids) for each in seen) == [2, 5]
