"""`luthier curate --try N`: what the whole would take, and why one process reads a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import endpoints
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scripted import Scripted

from luthier.data.reading.cutting import counting
from luthier.types import Request, Sampling, Turn
from luthier.workflow import curation, outlook
from luthier.workflow.curation import Asked, curate


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"What is {n}?", "completion": f"It is {n}, as {n} says."} for n in range(count)]


def written(name: str, count: int) -> str:
    given = rows(count)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(given), name)
    elif name.endswith(".csv"):
        lines = [f'{row["prompt"]},"{row["completion"]}"\n' for row in given]
        Path(name).write_text("prompt,completion\n" + "".join(lines))
    else:
        Path(name).write_text(
            json.dumps(given) if name.endswith(".json") else "".join(json.dumps(r) + "\n" for r in given)
        )
    return name


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
@pytest.mark.parametrize("count", [300, 5000])
def test_rows_of_a_file_are_counted_about(name: str, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "SAMPLE", 20_000)
    found = counting.of_file(Path(written(name, count)))
    assert found is not None and abs(found - count) <= (0.1 * count if count > 300 else 1)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_some_rows_tell_what_all_would_take(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written("a.jsonl", 400)
    monkeypatch.setattr(outlook, "clock", lambda seconds: "so long")
    curate(["a.jsonl", "steps=[clean, exact]"], Asked(first=100, processes=1))
    assert "100 tried; all 400 rows (about) would take so long, rather less" in told(capsys)
    curate(["a.jsonl", "steps=[clean, exact]"], Asked(first=500, processes=1))
    assert "these were all rows (400)" in told(capsys)
    recipe = {"data": [{"path": "a.jsonl", "limit": 200}], "steps": ["exact"]}
    Path("r.yaml").write_text(yaml.safe_dump(recipe))
    curate(["r.yaml"], Asked(first=100, processes=2))
    assert "100 tried; all 200 rows (about) would take so long in 2 processes, rather less" in told(capsys)


def test_what_is_asked_and_paid_for_is_told_for_all(capsys: pytest.CaptureFixture[str]) -> None:
    written("a.jsonl", 40)
    model = Scripted()

    def answer(_: str, body: dict[str, Any]) -> endpoints.Answer:
        turns = tuple(Turn(one["role"], one["content"]) for one in body["messages"])
        (one,) = model.run([Request((), Sampling(seed=body.get("seed", 0)), turns=turns)])
        return endpoints.said(one.text, read=100, written=50)

    with endpoints.endpoint(answer) as found:
        engine = {"openai": {"url": found.url, "model": "m", "price_in": 1000, "price_out": 2000}}
        step = {"rewrite": {"engine": engine, "tone": "friendly", "budget": {"calls": 25}}}
        Path("r.yaml").write_text(yaml.safe_dump({"data": {"path": "a.jsonl"}, "steps": [step]}))
        curate(["r.yaml"], Asked(first=10))
        calls = len(found.asked)
    said = told(capsys)
    assert calls == 10
    assert "rewrite: about 40 calls, 4,000 tokens read, 2,000 generated, 8 in money" in said
    assert "its budget of 25 would end it before" in said


def test_a_file_that_one_process_reads_says_why(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curation, "ALONE", 1000)
    written("a.parquet", 400)
    curate(["a.parquet", "steps=[exact]"], Asked(processes=2))
    assert "a.parquet: one process reads it: it is written as one row group" in told(capsys)
    curate(["a.parquet", "steps=[exact]"], Asked(processes=1))
    assert "one process reads it" not in told(capsys)


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "1 s"), (80, "80 s"), (600, "10 min"), (7260, "2 h 1 min")])
def test_a_span_of_time_in_words(seconds: float, words: str) -> None:
    assert outlook.clock(seconds) == words
