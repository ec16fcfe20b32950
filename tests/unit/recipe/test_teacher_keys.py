"""`teacher:` short and long forms, and what does not go together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from luthier.errors import LuthierError
from luthier.recipe import Recipe, differences, loads, lock, resolve
from luthier.recipe.describe import lines
from luthier.recipe.schema import Model, Source, Teacher
from luthier.workflow.registries import REGISTRIES

HEAD = "model: tiny\ndata: q.jsonl\noutput: runs/kd\nobjective: {gkd: {own: 0}}\n"


def resolved(text: str, *overrides: str) -> Recipe:
    return resolve(loads(HEAD + text, overrides, REGISTRIES), REGISTRIES).recipe


def test_a_models_name_is_short_for_it() -> None:
    short = resolved("teacher: big")
    assert short.teacher == Teacher(model=Model(name="big")) and short.teacher.top is None
    assert short == resolved("teacher: {model: {name: big}}") == resolved("teacher: {name: big}")


def test_keys_of_the_model_may_stand_beside_its_name() -> None:
    beside = resolved("teacher: {name: big, dtype: fp32, top: 64}")
    assert beside == resolved("teacher: {model: {name: big, dtype: fp32}, top: 64}")
    python: Any = {"name": "big", "dtype": "fp32", "top": 64}
    assert Recipe(model="m", data="d", output="o", teacher=python).teacher == beside.teacher  # type: ignore[arg-type]


def test_overrides_and_the_lock_read_back() -> None:
    recipe = resolved("teacher: big", "teacher.top=32", "teacher.kept=fp32", "teacher.model.dtype=bf16")
    assert recipe.teacher == Teacher(model=Model(name="big", dtype="bf16"), top=32, kept="fp32")
    assert resolve(loads(lock(recipe)), REGISTRIES).recipe.teacher == recipe.teacher
    assert set(differences(recipe, resolved("teacher: big"))) == {
        "teacher.top", "teacher.kept", "teacher.model.dtype",
    }  # fmt: skip


def test_a_folder_beside_the_recipe_is_found(tmp_path: Path) -> None:
    from luthier.recipe import load

    (tmp_path / "big").mkdir()
    (tmp_path / "recipe.yaml").write_text(HEAD + "teacher: {model: big, top: 8}")
    teacher = load(tmp_path / "recipe.yaml").recipe.teacher
    assert teacher is not None and teacher.model is not None and teacher.model.name == str(tmp_path / "big")


def test_where_each_value_comes_from_is_explained() -> None:
    found = {
        line.key: line for line in lines(loads(HEAD + "teacher: {model: big, top: 64}", [], REGISTRIES), REGISTRIES)
    }
    assert found["teacher.top"].value == 64 and found["teacher.top"].origin.kind == "file"
    assert found["teacher.kept"].value == "fp16" and "half the disk" in found["teacher.kept"].why
    assert found["teacher.model.name"].value == "big"


@pytest.mark.parametrize(
    ("text", "overrides", "words"),
    [
        ("teacher: {kept: fp32}", (), "nobody is named"),
        ("teacher: {model: big, top: 0}", (), "must be greater than 0"),
        ("teacher: {model: big, tip: 3}", (), "unknown key 'teacher.tip'"),
        ("", (), "learns from a teacher, and none is named"),
        ("teacher: {model: big, top: 64}", ("objective.gkd.own=0.5",), "here the model answers itself"),
        ("teacher: {model: big, top: 64}", ("objective=sft",), "has no teacher"),
    ],
)
def test_what_does_not_go_together(text: str, overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(LuthierError) as caught:
        resolved(text, *overrides)
    assert words in caught.value.what and caught.value.where


def test_rows_may_bring_it() -> None:
    recipe = resolved("teacher: {top: 20}")
    assert recipe.teacher == Teacher(top=20) and recipe.teacher.model is None
    assert recipe.data == (Source(path="q.jsonl"),)
