"""`streaming: true` reads as far as the run needs, and no further."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates as ct
import pytest
from pydantic import TypeAdapter

from luthier.data import Prepared, Template, prepare
from luthier.errors import LuthierError
from luthier.recipe import Recipe


@pytest.fixture(autouse=True)
def cache_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def prepared(data: Any, steps: int = 1, batch: int = 2, **more: Any) -> Prepared:
    given = {
        "model": "m",
        "data": data,
        "output": "o",
        "train": {"steps": steps, "batch": batch, "max_lost": 1},
        **more,
    }
    recipe: Recipe = TypeAdapter(Recipe).validate_python(given)
    return prepare(recipe, Template(ct.tokenizer(ct.CHATML)))


def sft(i: int) -> dict[str, Any]:
    return {"prompt": f"What is {i}?", "completion": f"It is {i}."}


def pair(i: int) -> dict[str, Any]:
    return {"prompt": f"What is {i}?", "chosen": f"What is {i}? {i}.", "rejected": f"What is {i}? {i + 1}."}


def steps(i: int) -> dict[str, Any]:
    return {"prompt": f"What is {i}?", "completions": ["Well.", f"It is {i}."], "labels": [1, i % 2]}


def mapped(i: int) -> dict[str, Any]:
    return {"q": f"What is {i}?", "a": f"It is {i}."}


def broken(path: Path, row: Any = sft, at: int = 49) -> str:
    """A file whose line `at` is broken."""
    lines = [json.dumps(row(i)) for i in range(1, 100)]
    path.write_text("\n".join([*lines[: at - 1], "{", *lines[at - 1 :]]))
    return str(path)


@pytest.mark.parametrize("row", [sft, pair, steps, mapped])
def test_what_lies_behind_is_never_looked_at(row: Any, tmp_path: Path) -> None:
    path = broken(tmp_path / "a.jsonl", row)
    columns = {"prompt": "q", "completion": "a", "answer": "gold"} if row is mapped else {}
    if row is mapped:  # no row has it: so say the rows that can be read
        with pytest.raises(LuthierError, match="`columns` names 'gold'"):
            prepared({"path": path, "streaming": True, "columns": columns})
        del columns["answer"]
    given = prepared({"path": path, "streaming": True, "columns": columns})
    assert len(given.train) == given.ledger.rows_read == 2
    assert [given.train.source(i).row for i in range(2)] == [1, 2]
    (note,) = given.ledger.notes
    assert "read no further than train.steps × train.batch needs" in note
    for entry, long in (
        ({"path": path, "columns": columns}, 1),
        ({"path": path, "streaming": True, "columns": columns}, 25),
    ):
        with pytest.raises(LuthierError, match=r"a.jsonl:49: broken JSON"):
            prepared(entry, steps=long)
    assert len(prepared({"path": path, "streaming": True, "columns": columns}, steps=24).train) == 48


def test_rows_that_are_lost_or_held_out_are_made_up_for(tmp_path: Path) -> None:
    def row(i: int) -> dict[str, Any]:
        return {**sft(i), "completion": None} if i % 3 == 0 else sft(i)

    path = broken(tmp_path / "a.jsonl", row)
    given = prepared({"path": path, "streaming": True}, steps=3)
    assert len(given.train) == 6 and (given.ledger.rows_read, given.ledger.rows_dropped) == (8, 2)
    held = prepared({"path": path, "streaming": True}, steps=3, validate={"share": 0.4})
    assert held.validation is not None and len(held.train) == 6
    assert held.ledger.rows_kept == 6 + len(held.validation) and held.ledger.held_out == len(held.validation) > 0


def test_each_source_by_itself_and_a_short_one_to_its_end(tmp_path: Path) -> None:
    path = broken(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(sft(1000 + i)) + "\n" for i in range(3)))
    short = {"path": str(tmp_path / "b.jsonl"), "streaming": True}
    given = prepared([{"path": path, "streaming": True}, {"path": str(tmp_path / "b.jsonl")}, short], steps=2)
    assert [tally.read for tally in given.ledger.sources.values()] == [4, 6]
    assert len(given.ledger.notes) == 1  # the short one was read whole
    limited = prepared({"path": path, "limit": 3}, steps=99)
    assert limited.ledger.rows_read == 3


def test_a_longer_run_finds_no_shorter_cache(tmp_path: Path) -> None:
    path = broken(tmp_path / "a.jsonl")
    for long in (1, 5, 2):
        assert len(prepared({"path": path, "streaming": True}, steps=long).train) == 2 * long


def test_long_texts_count_by_their_parts(tmp_path: Path) -> None:
    path = broken(tmp_path / "a.jsonl", lambda i: {"text": f"Number {i} is a number. " * 30}, at=4)
    train = {"steps": 2, "batch": 4, "max_tokens": 32}
    given = prepared({"path": path, "streaming": True}, train=train)
    assert len(given.train) >= 8 and given.ledger.rows_read < 4


def test_a_hub_stream_that_breaks_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "train.jsonl").write_text(json.dumps(sft(1)) + "\n" + json.dumps(sft(2)) + "\n" + '{"prompt": \n' * 9)
    with pytest.raises(LuthierError, match="the hub data set cannot be loaded"):
        prepared({"hub": str(folder), "streaming": True}, steps=4)
