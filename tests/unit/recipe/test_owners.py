"""An override may leave out the name of the plug-in whose key it sets."""

from typing import Any

import pytest
import yaml

from luthier.errors import LuthierError
from luthier.recipe import Recipe, loads, resolve
from luthier.workflow.registries import REGISTRIES

BASIS: dict[str, Any] = {"model": "m", "data": "d.jsonl", "output": "o"}


def loaded(*overrides: str, **keys: Any) -> Recipe:
    return loads(yaml.safe_dump({**BASIS, **keys}), overrides, REGISTRIES).recipe


@pytest.mark.parametrize(
    "overrides",
    [
        ("adapt=freeze", "adapt.cache_backbone=true"),
        ("adapt=[freeze]", "adapt.0.cache_backbone=true"),
        ("adapt={freeze: {}}", "adapt.cache_backbone=true"),
        ("adapt=freeze", "adapt.freeze.cache_backbone=true"),
    ],
)
def test_a_key_goes_to_the_adapter_that_stands_there(overrides: tuple[str, ...]) -> None:
    (plugin,) = loaded(*overrides).adapt
    assert (plugin.name, plugin.args) == ("freeze", {"cache_backbone": True})


def test_every_kind_of_plug_in_is_asked() -> None:
    recipe = loaded(
        "objective.beta=0.3",
        "train.optimizer=muon",
        "train.optimizer.momentum=0.9",
        "evaluate.scorers.variant=2",
        "train.schedule.min_ratio=0.5",
        objective={"dpo": {"label_smoothing": 0.1}},
        evaluate={"data": "h.jsonl", "scorers": ["f1", "rouge"]},
    )
    assert recipe.objective.args == {"label_smoothing": 0.1, "beta": 0.3}
    assert (recipe.train.optimizer.name, recipe.train.optimizer.args) == ("muon", {"momentum": 0.9})
    assert [(plugin.name, plugin.args) for plugin in recipe.evaluate[0].scorers] == [
        ("f1", {}),
        ("rouge", {"variant": 2}),
    ]
    assert (recipe.train.schedule.name, recipe.train.schedule.args) == ("cosine", {"min_ratio": 0.5}), "the default"


def test_the_default_adapter_takes_its_keys_and_a_name_still_switches() -> None:
    assert loaded("adapt.r=4").adapt[0].args == {"r": 4}
    (plugin,) = loaded("objective=dpo", "adapt.r=4", "adapt.1.freeze.bottom=1").adapt[:1]
    assert (plugin.name, plugin.args) == ("lora", {"r": 4})
    assert loaded("objective.dpo.beta=0.2").objective.name == "dpo"
    assert loaded("adapt.lora=8", "adapt.alpha=4").adapt[0].args == {"": 8, "alpha": 4}


def test_of_several_that_take_the_key_none_is_guessed() -> None:
    text = yaml.safe_dump({**BASIS, "adapt": ["lora", "freeze"]})
    recipe = loads(text, ["adapt.bottom=1"], REGISTRIES).recipe
    assert [(plugin.name, plugin.args) for plugin in recipe.adapt] == [("lora", {}), ("freeze", {"bottom": 1})]
    text = yaml.safe_dump({**BASIS, "adapt": ["lora", "dora"]})
    with pytest.raises(LuthierError, match="unknown adapter 'r'"):
        resolve(loads(text, ["adapt.r=4"], REGISTRIES), REGISTRIES)
    with pytest.raises(LuthierError, match="unknown adapter 'chache_backbone'"):
        resolve(loads(text, ["adapt=freeze", "adapt.chache_backbone=true"], REGISTRIES), REGISTRIES)
