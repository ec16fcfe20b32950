"""Block expansion: exactly the base at the start, only the new blocks move, and plain transformers loads the result."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from runs import changed, model, plugin, policy, state, train
from transformers import AutoModelForCausalLM

from luthier.errors import LuthierError

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 2},
    "qwen3": {},
    "mistral": {"sliding_window": 6},
    "gemma3": {"sliding_window": 6, "sliding_window_pattern": 2},
    "gpt2": {},
}
IDS = torch.arange(3, 23).view(2, 10)


def base(family: str) -> Any:
    torch.manual_seed(4)
    ends = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": tiny.VOCABULARY}
    config = tiny.config(family, num_hidden_layers=4, **ends, **FAMILIES[family])
    module = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.endswith("bias"):
                weight.normal_(std=0.1)
    return module


def logits(module: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = module(input_ids=IDS).logits
    return found


@pytest.mark.parametrize("blocks", [1, 2, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_untrained_expansion_is_the_base_to_the_bit(family: str, blocks: int) -> None:
    plain = logits(base(family))
    expanded = policy(plugin("llama_pro", blocks=blocks), module=base(family)).module.eval()
    assert expanded.config.num_hidden_layers == 4 + blocks
    assert torch.equal(logits(expanded), plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_trained_saved_and_opened_it_generates_with_the_cache_as_without(family: str, tmp_path: Path) -> None:
    module = policy(plugin("llama_pro", blocks=2), module=base(family)).module
    optimizer = torch.optim.SGD([weight for weight in module.parameters() if weight.requires_grad], lr=0.5)
    for _ in range(3):
        module(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    module.eval().save_pretrained(tmp_path)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert not torch.equal(logits(opened), logits(base(family)))
    assert torch.equal(logits(opened), logits(module))
    for each in (module, opened):
        cached, plain = (
            each.generate(IDS, max_new_tokens=12, do_sample=False, use_cache=use, pad_token_id=0)
            for use in (True, False)
        )
        assert torch.equal(cached, plain)


def test_only_the_new_blocks_move(tmp_path: Path) -> None:
    trained = policy(plugin("llama_pro"))  # one after every four: the fifth of five
    before = state(trained)
    train(trained, tmp_path, steps=4, weight_decay=0.1)
    moved = changed(before, state(trained))
    assert moved == {name for name in before if "layers.4." in name}
    assert all(torch.equal(before[name], weight) for name, weight in model().state_dict().items())


def test_the_blocks_are_spread_evenly() -> None:
    module = policy(plugin("llama_pro", blocks=2)).module
    new = [number for number, block in enumerate(module.model.layers) if not block.self_attn.o_proj.weight.any()]
    assert new == [2, 5]
    assert torch.equal(module.model.layers[2].mlp.up_proj.weight, module.model.layers[1].mlp.up_proj.weight)
    assert [block.self_attn.layer_idx for block in module.model.layers] == list(range(6))
    assert all(block.self_attn.config is module.config for block in module.model.layers)


def test_more_copies_than_blocks_are_refused() -> None:
    with pytest.raises(LuthierError, match="only 4 to copy"):
        policy(plugin("llama_pro", blocks=5))
