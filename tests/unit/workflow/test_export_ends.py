"""An exported model stops where the template's turns end, in plain transformers, or there is no export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from bench import CHATML, CONTEXT
from tiny_tokenizers import letters
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.errors import LuthierError
from luthier.models import load, saving
from luthier.recipe import Model, Plugin, Recipe
from luthier.workflow.export_check import checked

END, TEXT = 2, 3
SETTINGS = "generation_config.json"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A model that knows the end of a text alone, as base models with a template put on them do."""
    special = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>"
    tokenizer = letters(*special, bos_token=special[0], eos_token="</s>", chat_template=CHATML)
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": TEXT}
    tiny.model(**sizes, max_position_embeddings=CONTEXT).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "one", "completion": "two and three"}) + "\n")
    return Recipe(model="tiny", data=str(rows), output="run")  # type: ignore[arg-type]


def exported(base: Path, folder: Path, *adapt: str, ends: frozenset[int] = frozenset({END, TEXT})) -> Path:
    """What a run would write."""
    policy = load(Model(name=str(base), dtype="fp32"), [Plugin(name=name) for name in adapt], device="cpu")
    policy.ends = ends
    saving.merge(policy, folder)
    return folder


def passes(base: Path, recipe: Recipe, target: Path, **settings: Any) -> None:
    """Export through the gate with other settings than were written."""

    def write(folder: Path) -> None:
        exported(base, folder, "lora")
        written = json.loads((folder / SETTINGS).read_text())
        (folder / SETTINGS).write_text(json.dumps(written | settings))

    checked(write, target, AutoTokenizer.from_pretrained(base), recipe)


@pytest.mark.parametrize("adapt", [["lora"], []])
def test_the_ends_of_turns_join_the_bases_own(base: Path, tmp_path: Path, adapt: list[str]) -> None:
    (base / SETTINGS).write_text(json.dumps({"eos_token_id": TEXT, "temperature": 0.5, "do_sample": True}))
    written = json.loads((exported(base, tmp_path / "out", *adapt) / SETTINGS).read_text())
    assert written == {"eos_token_id": [TEXT, END], "temperature": 0.5, "do_sample": True}


def test_without_a_file_of_the_bases_one_is_written(base: Path, tmp_path: Path) -> None:
    (base / SETTINGS).unlink()
    settings = AutoModelForCausalLM.from_pretrained(exported(base, tmp_path / "out", "lora")).generation_config
    assert set(settings.eos_token_id) == {TEXT, END} and settings.bos_token_id == 0


def test_a_file_that_ends_there_already_stays_word_for_word(base: Path, tmp_path: Path) -> None:
    (base / SETTINGS).write_text('{"eos_token_id":  [2, 3]}')
    assert (exported(base, tmp_path / "out", "lora") / SETTINGS).read_text() == '{"eos_token_id":  [2, 3]}'


def test_plain_transformers_stops_at_the_end_of_a_turn(base: Path, tmp_path: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(exported(base, tmp_path / "out", "lora"))

    def always_the_end(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([END]), 0)

    made = model.generate(torch.tensor([[5, 6]]), max_new_tokens=9, logits_processor=[always_the_end])
    assert made.tolist() == [[5, 6, END]]


def test_the_gate_lets_it_through(base: Path, recipe: Recipe, tmp_path: Path) -> None:
    passes(base, recipe, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("ends", "says"),
    [(TEXT, "would run on after"), ([END, TEXT, 200], "would stop within"), (None, "would run on after")],
)
def test_the_gate_stops_what_ends_elsewhere(base: Path, recipe: Recipe, tmp_path: Path, ends: Any, says: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    if isinstance(ends, list):
        ends[-1] = tokenizer("h", add_special_tokens=False)["input_ids"][0]  # a letter of the answer
    with pytest.raises(LuthierError, match=says):
        passes(base, recipe, tmp_path / "out", eos_token_id=ends)
    assert not (tmp_path / "out").exists()
