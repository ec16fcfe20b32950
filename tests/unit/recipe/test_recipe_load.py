"""Recipes are read exactly, and each fault is named with its file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.recipe import Recipe, load, loads, override

WHOLE = "model: m\ndata: d.jsonl\noutput: o\n"


def fault(text: str, overrides: tuple[str, ...] = ()) -> LuthierError:
    with pytest.raises(LuthierError) as caught:
        loads(text, overrides, name="r.yaml")
    return caught.value


def test_short_forms_equal_long_forms() -> None:
    short = loads("model: m\ndata: d.jsonl\nobjective: sft\nadapt: lora\noutput: o\n").recipe
    long = loads(
        "model: {name: m}\ndata: [{path: d.jsonl}]\nobjective: {sft: {}}\nadapt: [{lora: {}}]\noutput: o\n"
    ).recipe
    assert short == long == Recipe(model="m", data="d.jsonl", output="o")  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", "+1e-04", '"1e-4"'])
def test_floats_without_a_dot_are_floats(text: str) -> None:
    assert loads(WHOLE + f"train: {{lr: {text}}}").recipe.train.lr == 1e-4


@pytest.mark.parametrize(("text", "value"), [("no", "no"), ("2024-01-01", "2024-01-01"), ("12:30", "12:30")])
def test_words_that_yaml_1_1_turns_into_other_things_stay_text(text: str, value: str) -> None:
    assert loads(f"model: m\ndata: d\noutput: {text}").recipe.output == value


@pytest.mark.parametrize(
    ("text", "what", "line", "fix"),
    [
        (WHOLE + "trian: {}", "unknown key 'trian'", 4, "did you mean 'train'?"),
        (WHOLE + "train:\n  bach: 3", "unknown key 'train.bach'", 5, "did you mean 'batch'?"),
        (WHOLE + "lr: 3", "unknown key 'lr'", 4, "'lr' belongs under train"),
        (WHOLE + "learning_rate: 3", "unknown key 'learning_rate'", 4, "here it is called train.lr"),
        (WHOLE + "train:\n  lr: -1", "train.lr must be greater than 0, got -1", 5, None),
        (WHOLE + "train:\n  lr: fast", "train.lr must be a number, got 'fast'", 5, None),
        (WHOLE + "train:\n  lr: .inf", "train.lr must be a finite number, got inf", 5, None),
        (WHOLE + "train:\n  batch: true", "train.batch must be a number", 5, None),
        (WHOLE + "train:\n  batch: 1.5", "train.batch must be a whole number, got 1.5", 5, None),
        (WHOLE + "validate: {share: 1}", "validate.share must be less than 1, got 1", 4, None),
        (
            WHOLE + "train:\n  long_rows: truncat",
            "train.long_rows must be 'error', 'drop' or 'truncate', got 'truncat'",
            5,
            "did you mean 'truncate'?",
        ),
        (
            WHOLE + "train: {masters: perhaps}",
            "train.masters must be true or false or 'auto', got 'perhaps'",
            4,
            None,
        ),
        ("model: m\ndata: d\noutput: 7", "output must be text, got 7", 3, 'put it in quotes: "7"'),
        (WHOLE + "seed: 1\nseed: 2", "the key 'seed' is given twice (first at r.yaml:4)", 5, None),
        ("model: m\ndata: d", "'output' is missing", 1, None),
        ("seed: 1", "'model' and 'data' and 'output' are missing", 1, None),
        (WHOLE + "adapt: [{lora: {}, full: {}}]", "adapt.0 must name one plug-in, not 2 (lora, full)", 4, None),
        (WHOLE + "adapt: {lora: [3]}", "the keys of adapt.0.lora must be a mapping, got [3]", 4, None),
        ("model: m\noutput: o\ndata:\n- a\n- {hub: a, path: b}", "data.1 needs exactly one of", 5, None),
        (WHOLE + "train: 3", "train must be a mapping of keys to values, got 3", 4, None),
        (WHOLE + "train: {lr: [1", "not valid YAML", 4, None),
        (WHOLE + "train: !!python/object:os.system {}", "the tag", 4, None),
    ],
)
def test_each_fault_is_named_with_its_line(text: str, what: str, line: int, fix: str | None) -> None:
    error = fault(text)
    assert error.what.startswith(what)
    assert error.where == f"r.yaml:{line}"
    if fix is not None:
        assert error.fix == fix


def test_overrides_reach_every_shape() -> None:
    text = "model: m\ndata: d.jsonl\nadapt: lora\nevaluate: {data: h}\noutput: o\n"
    recipe = loads(
        text,
        [
            "train.lr=1e-4",
            "data.0.limit=10",
            "adapt.0.lora.r=8",
            "adapt.lora.alpha=32",
            "evaluate.limit=5",
            "evaluate.0.scorers=[f1, {rouge: {n: 2}}]",
            "train.optimizer.muon.momentum=0.9",
            "model.dtype=fp32",
            'output="a b: c"',
            "train.steps=null",
        ],
    ).recipe
    assert recipe.train.lr == 1e-4
    assert (recipe.data[0].path, recipe.data[0].limit) == ("d.jsonl", 10)
    assert [(plugin.name, plugin.args) for plugin in recipe.adapt] == [("lora", {"r": 8, "alpha": 32})]
    assert recipe.evaluate[0].limit == 5
    assert [scorer.name for scorer in recipe.evaluate[0].scorers] == ["f1", "rouge"]
    assert (recipe.train.optimizer.name, recipe.train.optimizer.args) == ("muon", {"momentum": 0.9})
    assert (recipe.model.name, recipe.model.dtype) == ("m", "fp32")
    assert recipe.output == "a b: c"


def test_an_override_adds_what_the_file_lacks() -> None:
    recipe = loads(WHOLE, ["adapt.0.lora.r=8", "data.1.path=more.jsonl", "validate.share=0.1"]).recipe
    assert recipe.adapt[0].args == {"r": 8}
    assert [source.path for source in recipe.data] == ["d.jsonl", "more.jsonl"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("train.bach=3", "unknown key 'train.bach'"),
        ("train.lr=fast", "train.lr must be a number, got 'fast'"),
        ("train.lr", "an override is written key=value"),
        (".=3", "an override is written key=value"),
        ("data.3.limit=1", "data has no entry 3"),
        ("train.lr=[1", "not valid YAML"),
    ],
)
def test_a_fault_in_an_override_names_the_override(text: str, what: str) -> None:
    error = fault(WHOLE, (text,))
    assert error.what.startswith(what)
    assert error.where == f"override {text}"


def test_origins_say_who_set_what(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(WHOLE + "train:\n  batch: 4\n")
    loaded = load(file, ["train.lr=1e-4"])
    assert str(loaded.origins["train", "batch"]) == f"{file}:5"
    assert str(loaded.origins["train", "lr"]) == "override train.lr=1e-4"
    assert ("train", "epochs") not in loaded.origins


def test_data_lies_beside_the_caller_or_else_beside_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    here = tmp_path / "work"
    here.mkdir()
    monkeypatch.chdir(here)
    file = tmp_path / "recipes" / "r.yaml"
    file.write_text("model: m\ndata: [a.jsonl, b.jsonl, c.jsonl, 'd/*.csv']\noutput: o\n")
    (tmp_path / "recipes" / "a.jsonl").touch()
    (tmp_path / "recipes" / "b.jsonl").touch()
    (here / "b.jsonl").touch()
    (tmp_path / "recipes" / "d").mkdir()
    (tmp_path / "recipes" / "d" / "x.csv").touch()
    loaded = load(file)
    paths = [source.path for source in loaded.recipe.data]
    beside = file.parent
    assert paths == [f"{beside}/a.jsonl", "b.jsonl", "c.jsonl", f"{beside}/d/*.csv"]
    assert set(loaded.notes) == {("data", 0, "path"), ("data", 3, "path")}


def test_files_that_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(WHOLE)
    with pytest.raises(LuthierError, match="no such recipe") as caught:
        load(tmp_path / "trian.yaml")
    assert caught.value.fix == f"did you mean {tmp_path / 'train.yaml'}?"
    with pytest.raises(LuthierError, match="a folder"):
        load(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"model: m\n# caf\xe9\n")
    with pytest.raises(LuthierError, match="not UTF-8") as caught:
        load(tmp_path / "latin.yaml")
    assert caught.value.where == f"{tmp_path / 'latin.yaml'}:2"
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    with pytest.raises(LuthierError, match="empty"):
        load(tmp_path / "empty.yaml")
    (tmp_path / "list.yaml").write_text("- a\n")
    with pytest.raises(LuthierError, match="a mapping"):
        load(tmp_path / "list.yaml")


def test_a_python_recipe_takes_overrides() -> None:
    recipe = Recipe(model="m", data="d.jsonl", output="o")  # type: ignore[arg-type]
    changed = override(recipe, ["adapt.lora.r=4", "train.epochs=3"]).recipe
    assert changed.adapt[0].args == {"r": 4}
    assert changed.train.epochs == 3
    assert override(recipe, []).recipe == recipe


def test_from_python_places_may_be_paths() -> None:
    sft = Path("runs") / "sft"
    given = Recipe(model=sft, data=[Path("a.jsonl"), "b.jsonl"], output=Path("o"), reference=sft)  # type: ignore[arg-type]
    told = Recipe(model="runs/sft", data=["a.jsonl", "b.jsonl"], output="o", reference="runs/sft")  # type: ignore[arg-type]
    assert given == told


def test_a_reference_may_be_written_as_its_name() -> None:
    written = "model: m\ndata: d.jsonl\noutput: o\nobjective: dpo\n"
    short, overridden = loads(written + "reference: runs/sft"), loads(written, ["reference=runs/sft"])
    whole = loads(written + "reference: {model: runs/sft}")
    assert short.recipe == overridden.recipe == whole.recipe
