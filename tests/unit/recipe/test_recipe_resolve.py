"""What is left open is derived with its reason; the lock leaves nothing open."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pytest
import yaml
from pydantic import Field
from rich.console import Console

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.objectives import OBJECTIVES
from luthier.recipe import Plugin, differences, digest, explain, json_schema, loads, lock, override, resolve
from luthier.recipe.describe import docs, entries, lines
from luthier.recipe.resolve import plugin_keys
from luthier.recipe.schema import Recipe, Train
from luthier.recipe.shape import every_slot
from luthier.registry import Registry

WHOLE = "model: m\ndata: d.jsonl\noutput: o\n"


class Declared(Adapter):
    """What a recipe asks of an adapter is declared: nothing is attached here."""

    def attach(self, module, sample=()):
        raise AssertionError("a recipe is read without a model")


@dataclass(frozen=True)
class Full(Declared):
    """Every weight."""

    default_lr: ClassVar[float] = 2e-5
    kind: ClassVar[str] = "base"


@dataclass(frozen=True)
class Freeze(Declared):
    """Some weights."""

    default_lr: ClassVar[float] = 5e-5
    kind: ClassVar[str] = "base"


@dataclass(frozen=True)
class Lora(Declared):
    """Low-rank."""

    default_lr: ClassVar[float] = 2e-4
    kind: ClassVar[str] = "peft"

    r: Annotated[int, Field(gt=0)] = 16
    """Rank."""
    targets: tuple[str, ...] = ("all",)


ADAPTERS = {"lora": Lora, "full": Full, "freeze": Freeze}
REGISTRIES = {"adapter": Registry("adapter", ADAPTERS)}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("adapt", "rate"),
    [("lora", 2e-4), ("full", 2e-5), ("freeze", 5e-5), ("[freeze, lora]", 2e-4)],
)
def test_learning_rate_follows_what_trains(adapt: str, rate: float) -> None:
    resolved = resolve(loads(WHOLE + f"adapt: {adapt}"), REGISTRIES)
    assert resolved.recipe.train.lr == rate
    assert ("train", "lr") in resolved.reasons
    own = resolve(loads(WHOLE + f"adapt: {adapt}\ntrain: {{lr: 1e-3}}"), REGISTRIES)
    assert own.recipe.train.lr == 1e-3
    assert ("train", "lr") not in own.reasons


@pytest.mark.parametrize(
    ("batch", "longest", "micro"), [(16, 1024, 2048), (2, 1024, 2048), (1, 8192, 8192), (4, 512, 2048)]
)
def test_micro_tokens_hold_two_thousand_or_the_longest_row(batch: int, longest: int, micro: int) -> None:
    loaded = loads(WHOLE, [f"train.batch={batch}", f"train.max_tokens={longest}"])
    assert resolve(loaded).recipe.train.micro_tokens == micro


@pytest.mark.parametrize(
    ("text", "what", "line"),
    [
        ("adapt: [full, lora]", "`full` trains every weight, `lora`", 4),
        ("adapt: [full, freeze]", "`full` trains every weight and `freeze`", 4),
        ("adapt: []", "`adapt:` is empty: nothing is said of what trains", 4),
        ("adapt: null", "`adapt:` is empty: nothing is said of what trains", 4),
        ("adapt: [lora, lora]", "`lora` is given twice", 4),
        ("train: {lr: 1}\nvalidate:\n  patience: 3", "early stopping", 6),
        ("validate: {share: 0.1, data: v.jsonl}", "validate.share and validate.data", 4),
        ("train: {steps: 5, warmup: 5}", "warm-up takes 5 steps of a run of 5", 4),
        ("evaluate: [{data: a}, {data: b}]", "two tasks of `evaluate:`", 4),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(text: str, what: str, line: int) -> None:
    with pytest.raises(LuthierError) as caught:
        resolve(loads(WHOLE + text, name="r.yaml"))
    assert caught.value.what.startswith(what)
    assert caught.value.where == f"r.yaml:{line}"
    assert caught.value.fix


def test_no_data_and_endless_data_are_refused() -> None:
    with pytest.raises(LuthierError, match="nothing to train on"):
        resolve(loads("model: m\ndata: []\noutput: o"))
    with pytest.raises(LuthierError, match="no known end"):
        resolve(loads("model: m\ndata: {path: d, streaming: true}\noutput: o"))


def test_plugins_are_checked_and_written_out() -> None:
    recipe = resolve(loads(WHOLE + "adapt: {lora: {r: 4}}"), REGISTRIES).recipe
    assert recipe.adapt == (Plugin(name="lora", args={"r": 4, "targets": ["all"]}),)
    for text, what, line in [
        ("adapt:\n- lora:\n    rank: 4", "adapter 'lora' has no key 'rank'", 6),
        ("adapt:\n- lora:\n    r: 0", "adapter 'lora', key 'r'", 6),
        ("adapt:\n- lara", "unknown adapter 'lara'", 5),
    ]:
        with pytest.raises(LuthierError) as caught:
            resolve(loads(WHOLE + text, name="r.yaml"), REGISTRIES)
        assert caught.value.what.startswith(what)
        assert caught.value.where == f"r.yaml:{line}"


def test_a_plugin_says_which_key_it_needs_and_takes_no_infinite_number() -> None:
    for args in (float("inf"), "inf"):  # pydantic reads the text as the number
        with pytest.raises(LuthierError, match=r"'dpo', key 'beta': must be a finite number, got inf"):
            OBJECTIVES.build("dpo", {"beta": args})
    with pytest.raises(LuthierError, match=r"objective 'sum' needs the key 'of'"):
        OBJECTIVES.build("sum", {})


def test_the_lock_runs_the_same_again() -> None:
    text = "model: {name: m, revision: '1e5'}\ndata: [a, {hub: x/y, weight: 2}]\noutput: o\nevaluate: {data: h}\n"
    first = resolve(loads(text, ["train.lr=2e-5", "seed=7", "adapt.lora.r=4"]), REGISTRIES).recipe
    again = resolve(loads(lock(first)), REGISTRIES).recipe
    assert lock(again) == lock(first)
    assert digest(again) == digest(first)
    assert again.train == first.train
    assert again.adapt == first.adapt
    assert again.model.revision == "1e5"
    assert yaml.safe_load(lock(first))["train"]["lr"] == 2e-5  # a number to other YAML readers as well
    assert again.data[0].path == str(Path("a").resolve())


def test_differences_name_the_keys_that_shape_the_weights() -> None:
    base = resolve(loads(WHOLE, ["train.lr=2e-4"])).recipe
    assert differences(base, override(base, ["train.log_every=5", "output=p", "export=merged"]).recipe) == {}
    changed = override(base, ["train.lr=1e-3", "adapt=full"]).recipe
    assert differences(base, changed) == {
        "train.lr": (2e-4, 1e-3),
        "adapt.0": ("lora", "full"),
    }
    rloo, grpo = (
        resolve(loads(WHOLE + f"objective: {name}\nreward: f1"), REGISTRIES).recipe for name in ("rloo", "grpo")
    )
    assert differences(grpo, rloo) == {"objective": ("grpo", "rloo")}, "its keys say nothing of another's"
    assert digest(base) != digest(changed)


def test_explain_says_where_each_value_came_from() -> None:
    loaded = loads(WHOLE + "adapt: {lora: {r: 4}}", ["seed=3"], name="r.yaml")
    found = {line.key: line for line in lines(loaded, REGISTRIES)}
    assert str(found["adapt.0"].origin) == "r.yaml:4"
    assert str(found["adapt.0.lora.r"].origin) == "r.yaml:4"
    assert found["adapt.0.lora.targets"].origin.kind == "default"
    assert found["seed"].origin.kind == "override"
    assert (found["train.lr"].origin.kind, found["train.lr"].why) == ("derived", "from adapt: lora")
    assert found["train.clip"].origin.kind == "default"
    assert found["train.clip"].why
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as captured:
        console.print(explain(loaded, REGISTRIES))
    text = captured.get()
    assert "train.max_tokens" in text
    assert "command line" in text


def test_every_key_is_documented() -> None:
    for path, slot in every_slot():
        owner = Recipe
        for part in path[:-1]:
            owner = next(s.hint for p, s in every_slot() if p[-1] == part and p == path[: path.index(part) + 1])
            owner = getattr(owner, "__args__", (owner,))[0]
        assert docs(owner).get(slot.name), path
    assert {entry.key for entry in entries(Train)} == set(docs(Train))


def test_every_plugin_field_has_its_seam() -> None:
    recipe = resolve(loads(WHOLE + "evaluate: {data: h}\nexport: merged\ntrain: {trackers: tensorboard}")).recipe
    kinds = {".".join(map(str, key)): kind for key, kind, _ in plugin_keys(recipe)}
    assert kinds == {
        "objective": "objective",
        "adapt.0": "adapter",
        "train.optimizer": "optimizer",
        "train.schedule": "schedule",
        "train.trackers.0": "tracker",
        "evaluate.0.scorers.0": "scorer",
        "engine": "engine",
        "export.0": "exporter",
    }


def test_json_schema_knows_short_forms_and_plugins() -> None:
    schema = json_schema(REGISTRIES)
    assert set(schema["required"]) == {"model", "data", "output"}
    assert schema["additionalProperties"] is False
    assert {"type": "string", "description": docs(type(loads(WHOLE).recipe.model))["name"]} in schema["$defs"]["Model"][
        "anyOf"
    ]
    names = [form["const"] for form in schema["$defs"]["adapter"]["anyOf"] if "const" in form]
    assert names == ["freeze", "full", "lora"]
    lora = schema["$defs"]["adapter"]["anyOf"][5]["properties"]["lora"]["anyOf"][0]
    assert lora["properties"]["r"] == {
        "default": 16,
        "exclusiveMinimum": 0,
        "title": "R",
        "type": "integer",
        "description": "Rank.",
    }
    assert schema["properties"]["adapt"]["anyOf"] == [
        {"$ref": "#/$defs/adapter"},
        {"type": "array", "items": {"$ref": "#/$defs/adapter"}},
    ]
