"""Tasks before they are scored: what is told of rows that are none."""

import json

import pytest

from luthier.errors import LuthierError
from luthier.recipe import Model, Recipe, Source, Task
from luthier.workflow import scoring
from luthier.workflow.job import Job


def task(tmp_path, *rows) -> Task:
    path = tmp_path / "held.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Task(name="sums", data=(Source(path=str(path)),))


def job(asked: Task) -> Job:
    return Job(Recipe(model=Model(name="m"), data=asked.data, output="o", evaluate=(asked,)))


def test_a_task_without_rows_says_why_and_what_to_do(tmp_path):
    asked = task(tmp_path, {"prompt": "1?", "answer": True}, {"prompt": "2?", "answer": False}, {"prompt": ""})
    with pytest.raises(LuthierError) as error:
        scoring.rows_of(asked, job(asked), lambda _: None)
    assert "'sums' has no rows to score: 2 of 3 rows are not scored: 'answer' is true or false" in error.value.what
    assert "; 1 of 3 rows are not scored: 'prompt' is empty" in error.value.what
    assert error.value.where == asked.data[0].path and "text that the model should give" in (error.value.fix or "")


def test_rows_that_are_left_out_beside_others_are_told(tmp_path):
    said: list[str] = []
    asked = task(tmp_path, {"prompt": "1?", "answer": True}, {"prompt": "2?", "answer": 2})
    (row,) = scoring.rows_of(asked, job(asked), said.append)
    assert row.answer == "2" and len(said) == 1
    assert said[0].startswith("sums: 1 of 2 rows are not scored: 'answer' is true or false")
