"""A bare value stands for a plug-in's first key (`dpo: 0.2`): explain, overrides and paths know whose it is."""

import dataclasses
from typing import Any

import pytest
import yaml

from luthier.recipe import load, loads, resolve
from luthier.recipe.describe import default_of, lines, plugin_fields
from luthier.workflow.registries import REGISTRIES

BASIS: dict[str, Any] = {"model": "m", "data": "d.jsonl", "output": "o"}
PLACES = {
    "objective": lambda plugin: {"objective": plugin, **beside(plugin)},
    "adapter": lambda plugin: {"adapt": plugin},
    "quantizer": lambda plugin: {"quantize": plugin},
    "optimizer": lambda plugin: {"train": {"optimizer": plugin}},
    "schedule": lambda plugin: {"train": {"schedule": plugin}},
    "tracker": lambda plugin: {"train": {"trackers": plugin}},
    "exporter": lambda plugin: {"export": plugin},
    "scorer": lambda plugin: {"evaluate": {"data": "h.jsonl", "scorers": plugin}},
    "engine": lambda plugin: {"engine": plugin},
    "step": lambda plugin: {"steps": [plugin]},
}
"""Where a recipe names a plug-in of each kind."""


def beside(plugin: dict[str, Any]) -> dict[str, Any]:
    """What a recipe must say besides for this objective."""
    ((name, value),) = plugin.items()
    needs = REGISTRIES["objective"].build(name, {"": value}).needs
    reward = {"reward": "f1"} if needs.rollouts and needs.rewards else {}
    return {**reward, **({"teacher": "t"} if "teacher" in needs.roles else {})}


def bare() -> list[tuple[str, str, str, Any]]:
    """Kind, plug-in, its first key and a value of its type, for those whose first key takes a bare value."""
    found = []
    for kind in PLACES:
        for name in REGISTRIES[kind].names():
            first = next(iter(plugin_fields(REGISTRIES[kind].get(name))), None)
            value = None if first is None else default_of(first)
            if first is not None and isinstance(value, str | bool | int | float):
                found.append((kind, name, first.name, value))
    return found


def shown(text: str, *overrides: str) -> dict[str, Any]:
    return {line.key: line for line in lines(loads(text, overrides), REGISTRIES)}


def test_there_are_plug_ins_of_most_kinds_to_try():
    assert {kind for kind, *_ in bare()} >= {"objective", "adapter", "quantizer", "schedule", "scorer", "exporter"}


@pytest.mark.parametrize(("kind", "name", "first", "value"), bare(), ids=lambda part: str(part))
def test_explain_says_whose_a_bare_value_is(kind, name, first, value):
    found = shown(yaml.safe_dump({**BASIS, **PLACES[kind]({name: value})}))
    (line,) = (line for key, line in found.items() if key.endswith(f"{name}.{first}"))
    assert line.origin.kind == "file"


def test_explain_says_whose_a_bare_value_on_the_command_line_is():
    text = yaml.safe_dump({**BASIS, "objective": "dpo"})
    found = shown(
        text, "objective.dpo=0.2", "train.schedule.cosine=0.3", "evaluate.data=h.jsonl", "evaluate.scorers.rouge=2"
    )
    for key in ("objective.dpo.beta", "train.schedule.cosine.min_ratio", "evaluate.0.scorers.0.rouge.variant"):
        assert found[key].origin.kind == "override", key
    assert found["objective.dpo.label_smoothing"].origin.kind == "default"


def test_a_key_on_the_command_line_leaves_the_bare_value_beside_it():
    text = yaml.safe_dump({**BASIS, "objective": {"dpo": 0.2}})
    found = shown(text, "objective.dpo.label_smoothing=0.1")
    assert (found["objective.dpo.beta"].value, found["objective.dpo.beta"].origin.kind) == (0.2, "file")
    assert found["objective.dpo.label_smoothing"].origin.kind == "override"
    found = shown(text, "objective.dpo.beta=0.5")
    assert (found["objective.dpo.beta"].value, found["objective.dpo.beta"].origin.kind) == (0.5, "override")
    assert [line for key, line in found.items() if key.startswith("objective.dpo.")].count(
        found["objective.dpo.beta"]
    ) == 1


def test_explain_says_whose_the_keys_are_that_one_key_takes_in():
    found = shown(yaml.safe_dump({**BASIS, "adapt": {"peft": {"peft_type": "LOHA", "r": 4}}}))
    assert found["adapt.0.peft.options"].origin.kind == found["adapt.0.peft.peft_type"].origin.kind == "file"
    found = shown(yaml.safe_dump({**BASIS, "objective": {"sum": {"dpo": {"beta": 0.2}, "sft": 0.2}}}))
    assert found["objective.sum.of"].origin.kind == "file"


def test_a_reward_model_beside_the_recipe_is_found_by_its_bare_value(tmp_path, monkeypatch):
    (tmp_path / "recipes" / "judge").mkdir(parents=True)
    path = tmp_path / "recipes" / "r.yaml"
    task = {
        "data": "h.jsonl",
        "scorers": [{"reward_model": "judge"}],
        "best_of": 2,
        "temperature": 1,
        "by": {"reward_model": "judge"},
    }
    path.write_text(yaml.safe_dump({**BASIS, "evaluate": task}))
    monkeypatch.chdir(tmp_path)
    loaded = load(path)
    recipe = resolve(loaded, REGISTRIES).recipe
    for plugin in (recipe.evaluate[0].scorers[0], recipe.evaluate[0].by):
        assert plugin.args["run"] == str(tmp_path / "recipes" / "judge")
    found = {line.key: line for line in lines(loaded, REGISTRIES)}
    assert found["evaluate.0.by.reward_model.run"].why == "judge found beside the recipe"


def test_every_kind_of_plug_in_is_tried():
    named = {
        kind
        for kind in REGISTRIES
        if any(dataclasses.is_dataclass(REGISTRIES[kind].get(n)) for n in REGISTRIES[kind].names())
    }
    # credit is of objectives, materials are named by `format`, the first key of a benchmark is a path without a default
    assert named - set(PLACES) <= {"format", "credit", "material", "benchmark"}
