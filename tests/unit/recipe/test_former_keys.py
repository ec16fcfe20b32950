"""Keys by their names of one version ago still work, each with a line that says the new one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.errors import LuthierError
from luthier.recipe import Recipe, load, loads, override
from luthier.recipe.load import Loaded

WHOLE = "model: m\ndata: d.jsonl\noutput: o\n"


def freeze(recipe: Recipe) -> Any:
    return next(plugin.args for plugin in recipe.adapt if plugin.name == "freeze")


FORMER = {
    "train.score": (lambda recipe: recipe.train.loss_on, "all", "train.loss_on"),
    "reference.keep": (lambda recipe: recipe.reference.cache, True, "reference.cache"),
    "adapt.freeze.cache_trunk": (
        lambda recipe: freeze(recipe)["cache_backbone"],
        True,
        "adapt.freeze.cache_backbone",
    ),
}
IN_A_FILE = [
    ("train.score", "train:\n  score: all\n"),
    ("train.score", "train: {epochs: 2, score: all}\n"),
    ("reference.keep", "reference: {keep: true}\n"),
    ("adapt.freeze.cache_trunk", "adapt: {freeze: {bottom: 1, cache_trunk: true}}\n"),
    ("adapt.freeze.cache_trunk", "adapt: [{freeze: {bottom: 1, cache_trunk: true}}, lora]\n"),
    ("adapt.freeze.cache_trunk", "adapt:\n- lora\n- freeze:\n    bottom: 1\n    cache_trunk: true\n"),
]
ON_THE_COMMAND_LINE = [
    ("train.score", "", "train.score=all"),
    ("train.score", "train: {epochs: 2}\n", "train={score: all}"),
    ("reference.keep", "", "reference.keep=true"),
    ("reference.keep", "", "reference={keep: true}"),
    ("adapt.freeze.cache_trunk", "adapt: {freeze: {bottom: 1}}\n", "adapt.freeze.cache_trunk=true"),
    ("adapt.freeze.cache_trunk", "adapt: [lora, {freeze: {bottom: 1}}]\n", "adapt.1.freeze.cache_trunk=true"),
    ("adapt.freeze.cache_trunk", "", "adapt={freeze: {bottom: 1, cache_trunk: true}}"),
    ("adapt.freeze.cache_trunk", "", "adapt=[{freeze: {bottom: 1, cache_trunk: true}}, lora]"),
]


def holds(loaded: Loaded, former: str) -> None:
    value, expected, now = FORMER[former]
    assert value(loaded.recipe) == expected
    assert "cache_trunk" not in str(loaded.recipe)
    (line,) = loaded.renamed
    assert line.startswith(f"{former} is called {now} now (") and "goes with the next version" in line


@pytest.mark.parametrize(("former", "text"), IN_A_FILE)
def test_in_a_file(former: str, text: str, tmp_path: Path) -> None:
    holds(loads(WHOLE + text), former)
    path = tmp_path / "r.yaml"
    path.write_text(WHOLE + text, encoding="utf-8")
    loaded = load(path)
    holds(loaded, former)
    assert "r.yaml:" in loaded.renamed[0], "the line is named"


@pytest.mark.parametrize(("former", "text", "given"), ON_THE_COMMAND_LINE)
def test_on_the_command_line(former: str, text: str, given: str) -> None:
    loaded = loads(WHOLE + text, [given])
    holds(loaded, former)
    assert given in loaded.renamed[0] or "override" in loaded.renamed[0] or "command line" in loaded.renamed[0]


def test_over_a_recipe_made_in_python() -> None:
    loaded = override(loads(WHOLE).recipe, ["train.score=all"])
    holds(loaded, "train.score")


def test_an_override_by_an_old_name_replaces_what_the_file_says_by_either() -> None:
    for key in ("score", "loss_on"):
        for given in ("score", "loss_on"):
            loaded = loads(WHOLE + f"train: {{{key}: last}}\n", [f"train.{given}=all"])
            assert loaded.recipe.train.loss_on == "all"
            assert len(loaded.renamed) == (key == "score") + (given == "score")


@pytest.mark.parametrize(
    ("text", "old", "new"),
    [
        ("train: {score: all, loss_on: all}\n", "train.score", "train.loss_on"),
        ("reference: {cache: true, keep: true}\n", "reference.keep", "reference.cache"),
        (
            "adapt: [{freeze: {bottom: 1, cache_trunk: true, cache_backbone: true}}]\n",
            "adapt.freeze.cache_trunk",
            "adapt.freeze.cache_backbone",
        ),
    ],
)
def test_both_names_at_once_are_an_error(text: str, old: str, new: str) -> None:
    with pytest.raises(LuthierError) as caught:
        loads(WHOLE + text, name="r.yaml")
    assert caught.value.what == f"{old} is the old name of {new}, and both are given"
    assert str(caught.value.where).startswith("r.yaml:4") and caught.value.fix == f"keep {new.rpartition('.')[2]}"


def test_both_names_in_one_override_are_an_error() -> None:
    with pytest.raises(LuthierError, match=r"train\.score is the old name of train\.loss_on"):
        loads(WHOLE, ["train={score: all, loss_on: last}"])


def test_names_of_today_say_nothing_and_old_ones_elsewhere_are_no_keys() -> None:
    now = "train: {loss_on: all}\nreference: {cache: true}\nadapt: {freeze: {bottom: 1, cache_backbone: true}}\n"
    assert loads(WHOLE + now).renamed == ()
    for text in ("score: all\n", "validate: {keep: 1}\n", "train: {cache_trunk: true}\n"):
        with pytest.raises(LuthierError, match="unknown key"):
            loads(WHOLE + text)


def test_a_bad_value_is_told_by_both_names() -> None:
    with pytest.raises(LuthierError, match=r"train.loss_on must be .*train.score is called train.loss_on now"):
        loads("model: m\ndata: d\noutput: o\ntrain: {score: bad}")
