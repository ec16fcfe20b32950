"""Entries of `evaluate:` that name benchmarks: short and long forms, overrides, and what does not go together."""

from typing import Any

import pytest
import yaml

from luthier.errors import LuthierError
from luthier.recipe import Plugin, Task, loads, lock, resolve
from luthier.workflow.registries import REGISTRIES

BASIS = {"model": "m", "data": "rows.jsonl", "output": "out"}


def tasks(evaluate: Any, *overrides: str) -> tuple[Task, ...]:
    return loads(yaml.safe_dump({**BASIS, "evaluate": evaluate}), overrides).recipe.evaluate


def test_names_maps_and_tasks_with_rows_stand_beside_one_another():
    found = tasks(["gsm8k", {"mmlu": {"shots": 3}}, {"data": "held.jsonl"}, {"piqa": "data/piqa"}])
    assert [task.name for task in found] == ["gsm8k", "mmlu", "held-out", "piqa"]
    assert found[1].benchmark == Plugin(name="mmlu", args={"shots": 3}) and found[1].scorers == ()
    assert found[2].benchmark is None and found[2].scorers == (Plugin(name="exact_match"),)
    assert found[3].benchmark == Plugin(name="piqa", args={"": "data/piqa"})
    assert tasks("gsm8k") == tasks(["gsm8k"]) == tasks([{"gsm8k": None}]) == tasks({"benchmark": "gsm8k"})


@pytest.mark.parametrize(
    "entry",
    [{"mmlu": {"shots": 2, "name": "few", "base": False}}, {"mmlu": {"shots": 2}, "name": "few", "base": False}],
)
def test_name_and_base_stand_beside_or_among_the_keys(entry):
    (task,) = tasks([entry])
    assert (task.name, task.base) == ("few", False) and task.benchmark == Plugin(name="mmlu", args={"shots": 2})


def test_a_bare_list_is_the_tasks_of_the_harness():
    (task,) = tasks([{"lm_eval": ["hellaswag", "arc_easy"]}])
    assert task.benchmark == Plugin(name="lm_eval", args={"tasks": ["hellaswag", "arc_easy"]})


def test_overrides_reach_a_benchmark_by_its_name_or_number():
    given = ["gsm8k", {"mmlu": {"shots": 5}}]
    found = tasks(given, "evaluate.mmlu.limit=7", "evaluate.0.gsm8k.shots=2", "evaluate.1.base=false")
    assert found[0].benchmark == Plugin(name="gsm8k", args={"shots": 2})
    assert found[1].benchmark == Plugin(name="mmlu", args={"shots": 5, "limit": 7}) and not found[1].base
    assert tasks(given, "evaluate=[piqa]")[0].name == "piqa"


def test_the_lock_reads_as_it_was_written_with_all_keys():
    resolved = resolve(
        loads(yaml.safe_dump({**BASIS, "evaluate": ["gsm8k", {"mmlu": {"limit": 9}}]})), REGISTRIES
    ).recipe
    again = resolve(loads(lock(resolved)), REGISTRIES).recipe
    assert again.evaluate == resolved.evaluate and again.evaluate[1].benchmark.args["shots"] == 5


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"dta": "x"}, "unknown key 'evaluate.0.dta'"),
        ({"mmlu": {"shots": 5}, "limit": 3}, "evaluate.0.limit is for tasks with rows of their own"),
        ({"benchmark": "mmlu", "data": "x.jsonl"}, "evaluate.0.data is for tasks with rows of their own"),
        ({"name": "x"}, "evaluate.0.data is missing"),
        ({"data": "x.jsonl", "scorers": []}, "evaluate.0.scorers is empty"),
    ],
)
def test_what_does_not_go_together(entry, what):
    with pytest.raises(LuthierError) as raised:
        tasks([entry])
    assert what in str(raised.value)


def test_unknown_benchmarks_and_keys_have_a_suggestion():
    for entry, hint in (("mmul", "did you mean 'mmlu'"), ({"mmlu": {"shot": 5}}, "did you mean 'shots'")):
        with pytest.raises(LuthierError, match=hint):
            resolve(loads(yaml.safe_dump({**BASIS, "evaluate": [entry]})), REGISTRIES)
    twice = ["mmlu", {"mmlu": {"shots": 0}}]
    with pytest.raises(LuthierError, match="two tasks of `evaluate:` are called 'mmlu'"):
        resolve(loads(yaml.safe_dump({**BASIS, "evaluate": twice})), REGISTRIES)
    with pytest.raises(LuthierError, match="cannot be told from 1 samples"):
        resolve(loads(yaml.safe_dump({**BASIS, "evaluate": [{"humaneval": {"k": [1, 10]}}]})), REGISTRIES)
    with pytest.raises(LuthierError, match="names no tasks"):
        resolve(loads(yaml.safe_dump({**BASIS, "evaluate": ["lm_eval"]})), REGISTRIES)


def test_files_beside_the_recipe_are_found(tmp_path, monkeypatch):
    from luthier.recipe import load, located

    (tmp_path / "recipes" / "mmlu").mkdir(parents=True)
    path = tmp_path / "recipes" / "r.yaml"
    path.write_text(yaml.safe_dump({**BASIS, "evaluate": [{"mmlu": "mmlu"}, {"piqa": {"path": "nowhere"}}]}))
    monkeypatch.chdir(tmp_path)
    recipe = located(resolve(load(path), REGISTRIES).recipe)
    assert recipe.evaluate[0].benchmark.args["path"] == str(tmp_path / "recipes" / "mmlu")
    assert recipe.evaluate[1].benchmark.args["path"] == "nowhere"
