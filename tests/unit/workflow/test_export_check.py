"""The export gate lets through what reads text as training did, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import save_tiny_model
from transformers import AutoTokenizer

from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.workflow.export_check import STAND_INS, checked, samples


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"prompt": "one", "completion": "two"}) + "\n")
    return Recipe(model="tiny", data=str(rows), output="run")  # type: ignore[arg-type]


def spoilt(edit: Callable[[Path], None]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_tiny_model(folder)
        edit(folder)

    return write


def other_template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("assistant\n", "assistant"))


def other_tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["o"], vocabulary["n"] = vocabulary["n"], vocabulary["o"]
    file.write_text(json.dumps(content))


def double_start(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text("{{ bos_token }}" + file.read_text())


def test_a_faithful_export_passes(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    target = tmp_path / "out"
    assert checked(save_tiny_model, target, AutoTokenizer.from_pretrained(model), recipe) == 1
    assert (target / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


@pytest.mark.parametrize("edit", [other_template, other_tokens, double_start])
def test_an_unfaithful_export_fails_and_is_removed(
    model: Path, recipe: Recipe, tmp_path: Path, edit: Callable[[Path], None]
) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "earlier").touch()
    with pytest.raises(LuthierError, match="would read text otherwise") as caught:
        checked(spoilt(edit), target, AutoTokenizer.from_pretrained(model), recipe)
    assert caught.value.where == f"{tmp_path / 'rows.jsonl'}:1"
    assert [path.name for path in target.iterdir()] == ["earlier"]  # what was there before stays
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rows.jsonl"]


def test_rows_of_our_own_stand_in_for_data_that_is_gone(model: Path, recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").unlink()
    assert samples(recipe) == STAND_INS
    tokenizer = AutoTokenizer.from_pretrained(model)
    assert checked(save_tiny_model, tmp_path / "out", tokenizer, recipe) == len(STAND_INS)
    with pytest.raises(LuthierError, match="would read text otherwise"):
        checked(spoilt(other_template), tmp_path / "out", tokenizer, recipe)
