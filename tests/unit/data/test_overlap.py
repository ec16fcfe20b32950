"""Rows that train and are scored on, too: always counted, and an error where they would make the score."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import chat_templates as ct
import pytest
from pydantic import TypeAdapter

from luthier.data import Template, prepare, prompts
from luthier.data.duplicates.contamination import Index
from luthier.data.ledger import Ledger
from luthier.data.overlap import Overlap, overlaps
from luthier.data.reading.feeds import feed
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe import Recipe

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
QUESTIONS = [
    f"At which of the {n} stations between the old harbour and the upper town does the {thing} stop in winter?"
    for n, thing in enumerate(("tram", "bus", "boat", "lift", "coach", "ferry", "train", "cable car", "taxi", "sledge"))
]


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(path: Path, questions: list[str]) -> str:
    rows = [{"prompt": question, "completion": f"At number {n}."} for n, question in enumerate(questions)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def recipe(data: Any, **more: Any) -> Recipe:
    made: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": data, "output": "o", **more})
    return made


def prepared(made: Recipe) -> Any:
    return prepare(made, Template(ct.tokenizer(ct.CHATML)), OBJECTIVES.build(made.objective.name).needs)


def test_what_trains_and_is_scored_is_counted(tmp_path: Path) -> None:
    other = ["How do you say thank you?", f"In capitals, please: {QUESTIONS[3].upper()}", "Who wrote it?"]
    data, test = written(tmp_path / "rows.jsonl", other), written(tmp_path / "test.jsonl", QUESTIONS)
    made = prepared(recipe(data, evaluate={"name": "stops", "data": test}))
    (found,) = made.overlaps
    assert (found.items, found.rows, found.holding) == (10, 3, 1)
    assert dict(found.found) == {f"{test}:4": f"{data}:2"}
    assert found.share == 0.1
    line = f"stops: 1 of its 10 rows (10.0%) stands in 1 of the 3 rows that train: {test}:4 in {data}:2"
    assert made.ledger.remarks == [line]
    assert Ledger.from_json(made.ledger.to_json()).remarks == [line]
    found.check()  # one of ten: 1/√10 is allowed

    drawn = recipe(
        data, evaluate={"name": "stops", "data": test}, objective="grpo", rollout={"prompts": 2, "max_new_tokens": 4}
    )
    asked = prompts(drawn, Template(ct.tokenizer(ct.CHATML)))
    assert asked.overlaps == made.overlaps and line in asked.ledger.remarks


def test_none_is_said_too(tmp_path: Path) -> None:
    data, test = written(tmp_path / "rows.jsonl", QUESTIONS[:4]), written(tmp_path / "test.jsonl", QUESTIONS[4:])
    made = prepared(recipe(data, evaluate={"data": test}))
    assert "held-out: none of its 6 rows stands in the 4 rows that train" in made.ledger.noted()
    assert made.ledger.remarks == []


def test_a_score_of_what_trained_is_an_error(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    with pytest.raises(LuthierError, match=r"4 of the 10 rows that 'a' scores \(40.0%\) train, too, and 31.6% is") as e:
        Overlap("a", 10, 100, 4, {f"t:{n}": f"r:{n}" for n in range(4)}).check()
    assert e.value.where == "r:0" and "decontaminate: evaluate" in str(e.value.fix)
    (whole,) = prepared(recipe(data, evaluate={"data": data})).overlaps
    assert whole.share == 1
    with pytest.raises(LuthierError, match="10 of the 10 rows"):
        whole.check()
    (meant,) = prepared(recipe(data, evaluate={"data": data, "max_overlap": 1})).overlaps
    meant.check()


@pytest.mark.parametrize(("items", "allowed"), [(0, 0.5), (1, 0.5), (4, 0.5), (16, 0.25), (10_000, 0.01)])
def test_what_is_allowed_hangs_on_how_sure_the_score_is(items: int, allowed: float) -> None:
    assert Overlap("a", items).allowed == allowed
    assert Overlap("a", items, at_most=0.0).allowed == 0


def test_a_step_that_looks_after_it_is_enough(tmp_path: Path) -> None:
    data = written(tmp_path / "rows.jsonl", QUESTIONS)
    task, feeds = {"data": data}, [feed(recipe(data).data[0])]
    for step in ("decontaminate", {"decontaminate": "evaluate"}, {"decontaminate": {"against": ["evaluate", "x"]}}):
        assert overlaps(recipe(data, evaluate=task, steps=[step]), feeds, Ledger()) == ()
    other = recipe(data, evaluate=task, steps=[{"decontaminate": "other.jsonl"}])
    assert len(overlaps(other, feeds, Ledger())) == 1


def test_only_what_is_scored_counts(tmp_path: Path) -> None:
    data, test = written(tmp_path / "rows.jsonl", QUESTIONS[5:]), written(tmp_path / "test.jsonl", QUESTIONS)
    tasks = [{"name": "few", "data": test, "limit": 5}, {"name": "all", "data": test}]
    few, every = prepared(recipe(data, evaluate=tasks)).overlaps
    assert (few.items, few.share, every.items, every.share) == (5, 0, 10, 0.5)


def test_found_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, test = written(tmp_path / "rows.jsonl", QUESTIONS), written(tmp_path / "test.jsonl", QUESTIONS[:2])
    made = recipe(data, evaluate={"data": test})
    feeds = [feed(entry) for entry in made.data]
    first = overlaps(made, feeds, Ledger())
    sought: list[int] = []
    monkeypatch.setattr(Index, "search", lambda _, texts: sought.append(len(texts)) or [])
    assert overlaps(made, feeds, Ledger()) == first and not sought
    written(tmp_path / "test.jsonl", QUESTIONS[:3])
    overlaps(made, feeds, Ledger())
    assert sought == [10], "other test rows are looked for"


def test_real_rows_are_looked_through_in_a_second_or_two(tmp_path: Path) -> None:
    rows, test = SHARED / "data/alpaca-52k/alpaca_data.json", SHARED / "data/gsm8k/test.jsonl"
    if not rows.exists() or not test.exists():
        pytest.skip("the data are not here")
    made = recipe({"path": str(rows), "limit": 8000}, evaluate={"data": str(test)})
    feeds = [feed(entry) for entry in made.data]
    (found,) = overlaps(made, feeds, Ledger())
    assert (found.items, found.rows, found.holding) == (1319, 8000, 0)
    start = time.process_time()
    assert overlaps(made, feeds, Ledger()) == (found,)
    assert time.process_time() - start < 1  # the second time nothing but the test rows is read
