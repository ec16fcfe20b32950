"""How long a row a model can read: the same before its weights are loaded and after."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
from transformers import GPT2LMHeadModel

from luthier.models import expected_max_context, load, max_context
from luthier.recipe import Plugin


@pytest.mark.parametrize(
    ("name", "args", "taken"),
    [
        ("lora", {}, 0),
        ("prompt", {"tokens": 5}, 5),
        ("prefix", {"tokens": 7}, 7),
        ("p_tuning", {}, 20),
        ("peft", {"peft_type": "PREFIX_TUNING", "options": {"num_virtual_tokens": 9}}, 9),
    ],
)
def test_virtual_tokens_take_of_the_context(tmp_path: Path, name: str, args: dict[str, Any], taken: int) -> None:
    model, adapt = tiny.folder(tmp_path, max_position_embeddings=64), [Plugin(name=name, args=args)]
    assert expected_max_context(model, adapt) == (64 - taken, taken)
    assert max_context(load(model, adapt).module) == 64 - taken


def test_learned_positions_end_with_the_context(tmp_path: Path) -> None:
    model = tiny.folder(tmp_path, GPT2LMHeadModel(tiny.config("gpt2", max_position_embeddings=48)))
    assert expected_max_context(model, []) == (48, 0)
