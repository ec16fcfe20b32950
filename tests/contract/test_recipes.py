"""Every recipe that ships can be read, holds together, names plug-ins that exist, and finds its rows."""

import json
from pathlib import Path

import pytest

from luthier.data import Ledger, read
from luthier.recipe import load, loads, lock, resolve
from luthier.workflow.registries import REGISTRIES

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def test_there_is_a_recipe_for_each_way():
    names = {path.stem for path in RECIPES}
    assert names >= {"lora", "full", "freeze", "freeze_lora", "pretrain", "alpaca", "sharegpt", "messages", "gsm8k"}
    assert names >= {"llamafactory", "mix", "streaming", "completion", "early_stopping"}
    assert names >= {"dpo", "simpo", "kto", "reward", "process_reward", "best_of", "grpo", "gkd", "distil"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_resolves_reads_back_from_its_lock_and_finds_its_data(path, monkeypatch, tmp_path):
    """It resolves, with each plug-in's keys checked, and its lock reads back as the same recipe."""
    monkeypatch.chdir(tmp_path)
    resolved = resolve(load(path), REGISTRIES).recipe
    assert resolve(loads(lock(resolved)), REGISTRIES).recipe == resolved
    assert resolved.output == f"runs/{path.stem}"
    for source in (*resolved.data, *resolved.validate.data, *(s for task in resolved.evaluate for s in task.data)):
        local = source.path or source.llamafactory
        if local is not None:
            assert (tmp_path / local).exists(), f"{path.name}: {local} is not there"
        else:
            assert source.hub is not None


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_says_what_it_is_for(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    assert len(lines) < 50


@pytest.mark.parametrize("name", ["dpo", "simpo", "kto", "reward", "process_reward"])
def test_judged_rows_are_all_read(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    recipe = load(ROOT / "recipes" / f"{name}.yaml").recipe
    ledger = Ledger()
    examples = list(read(recipe.data, ledger))
    assert len(examples) >= 4 and ledger.rows_dropped == 0
    assert all(example.responses for example in examples)


def test_held_out_rows_of_the_recipes_do_not_train():
    def texts(name: str) -> set[str]:
        lines = (ROOT / "recipes" / "data" / name).read_text(encoding="utf-8").splitlines()
        return {json.loads(line)["messages"][1]["content"] for line in lines}

    assert not texts("messages.jsonl") & texts("heldout.jsonl")
