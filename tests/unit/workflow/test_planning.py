"""`luthier plan` on rows and a tiny model: what it proposes trains, and what was expected stands beside what came."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bench import save_tiny_model

from luthier import verbs
from luthier.advisor import history
from luthier.errors import LuthierError
from luthier.run import Run
from luthier.workflow.planning import Asked, of_rows


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(place: Path, made: list[dict[str, object]]) -> Path:
    path = place / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


ANSWERS: list[dict[str, object]] = [{"prompt": f"count {n}", "completion": "ab" * (n % 4 + 1)} for n in range(24)]
PAIRS: list[dict[str, object]] = [{"prompt": f"q {n}", "chosen": "yes, ab", "rejected": f"n{n}"} for n in range(12)]
LABELS: list[dict[str, object]] = [{"prompt": f"q {n}", "completion": f"a{n}", "label": n % 4 != 0} for n in range(12)]
TEXTS: list[dict[str, object]] = [{"text": f"once upon a time there were {n} of them"} for n in range(12)]


def test_what_is_proposed_trains_and_what_came_stands_beside_what_was_expected(place, model, capsys):
    written = place / "recipe.yaml"
    verbs.plan(rows(place, ANSWERS), model=str(model), gpu="cpu", write=written)
    shown = capsys.readouterr()
    assert "proposed: lora" in shown.out and "Below 10,000 rows" in shown.out and "24 of answers" in shown.err
    assert "[guide 001 (volume-small)]" in written.read_text()
    verbs.train(written, ["train.steps=2", "train.threads=1", "validate.share=0"])
    said = capsys.readouterr().err
    assert "expected: memory" in said and "came: memory" in said
    run = Run.open(place / "runs" / "rows")
    told = run.read_json(run.summary_path)["forecast"]
    assert told["memory"] == pytest.approx(sum(told["memory_parts"].values()), rel=1e-6)
    assert told["seconds_range"][0] < told["seconds_range"][1]
    (ended,) = history.ended()
    assert ended.steps == 2 and ended.predicted == pytest.approx(told["memory"], abs=1)
    verbs.plan(written, ["train.steps=2"], gpu="cpu")
    assert "trains " in capsys.readouterr().out
    with pytest.raises(LuthierError, match="there is a file already"):
        verbs.plan(rows(place, ANSWERS), model=str(model), gpu="cpu", write=written)


@pytest.mark.parametrize(
    ("made", "objective", "goal"),
    [(PAIRS, "dpo", "align"), (LABELS, "kto", "align"), (TEXTS, "pretrain", "domain"), (ANSWERS, "sft", "classify")],
)
def test_the_objective_follows_the_rows(place, model, made, objective, goal):
    found = of_rows(rows(place, made), Asked(str(model), "24GB"))
    assert found.recipe["objective"] == objective and found.plan.facts["goal"] == goal
    assert all(one.fits for one in found.plan.candidates) and len(found.plan.others) == 2
    assert found.plan.chosen.way.name == "lora"  # below 10,000 rows, and at 16 to 80 GB


def test_labels_that_are_not_balanced_are_told(place, model):
    found = of_rows(rows(place, LABELS), Asked(str(model), "24GB"))
    assert found.plan.facts["imbalance"] == 3.0
    assert "labels-imbalanced" in {rule.id for rule in found.plan.said}


def test_where_nothing_fits_the_smallest_is_proposed(place, model):
    found = of_rows(rows(place, ANSWERS), Asked(str(model), "cpu:0.1GB"))
    assert found.plan.facts["fits"] is False
    least = min(one.forecast.memory.total for one in found.plan.candidates)
    assert found.plan.chosen.forecast.memory.total == least
    assert {"out-of-memory", "freeze-half", "little-memory"} <= {rule.id for rule in found.plan.said}


@pytest.mark.parametrize(
    ("given", "keys", "told"),
    [
        (None, {}, "a plan for what"),
        ("none.jsonl", {}, "there are no rows"),
        ("rows.jsonl", {"goal": "chatting"}, "no goal"),
        ("rows.jsonl", {"gpu": "huge"}, "no hardware"),
        ("r.yaml", {"goal": "chat"}, "a recipe says that itself"),
    ],
)
def test_what_cannot_be_planned_is_told(place, model, given, keys, told):
    rows(place, ANSWERS)
    with pytest.raises(LuthierError, match=told):
        verbs.plan(given, model=None if given == "r.yaml" else str(model), **keys)


def test_rows_have_no_keys(place, model):
    with pytest.raises(LuthierError, match="rows have no keys"):
        verbs.plan(rows(place, ANSWERS), ["train.lr=1"], model=str(model))


def test_every_rule_is_printed(capsys):
    verbs.plan(None, rules=True)
    out = capsys.readouterr().out
    assert "volume-small" in out and "guide 004" in out
