"""Folders: what is data in them, what only tells about it, what is asked about, and data sets that `datasets` saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Example

ROWS = [{"prompt": f"What is {i}?", "completion": f"It is {i}."} for i in range(5)]


def told(path: Path | str, **entry: object) -> tuple[list[Example], Ledger]:
    ledger = Ledger()
    return list(read([Entry(path=str(path), **entry)], ledger)), ledger


def lines(path: Path, rows: list[dict[str, str]] = ROWS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def replies(examples: list[Example]) -> list[str]:
    return [example.responses[0].turns[0].text for example in examples]


@pytest.mark.parametrize("name", ["LICENSE.txt", "license-apache.txt", "README.txt", "NOTICE.txt", "requirements.txt"])
def test_texts_that_tell_about_the_data_do_not_train(name: str, tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl")
    (tmp_path / name).write_text("All rights reserved.")
    for path in (tmp_path, tmp_path / "*"):
        examples, ledger = told(path)
        assert len(examples) == 5
        (note,) = ledger.notes
        assert f"left out {name}" in note and "a source of its own" in note
    assert len(told(tmp_path / name)[0]) == 1  # named, it is read
    assert len(told(tmp_path / "*.txt")[0]) == 1
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for file in ("a.txt", "b.txt", name):
        (corpus / file).write_text("Once upon a time.")
    examples, ledger = told(corpus)
    assert [Path(e.source.path).name for e in examples if e.source] == ["a.txt", "b.txt"] and len(ledger.notes) == 1


def test_other_texts_beside_rows_are_asked_about(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl")
    for i in range(5):
        (tmp_path / f"story{i}.txt").write_text("Once upon a time.")
    for path, place in ((tmp_path / "*", tmp_path), (tmp_path, tmp_path / "**")):
        with pytest.raises(LuthierError, match=r"story0.txt, .*, story2.txt and 2 more beside rows.jsonl") as caught:
            told(path)
        rows, texts = str(place / "*.jsonl"), str(place / "*.txt")
        assert caught.value.fix and rows in caught.value.fix and texts in caught.value.fix
        assert len(told(rows)[0]) == len(told(texts)[0]) == 5  # the fix works as it is written


def test_a_folder_with_nothing_but_what_tells_about_data(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("Nothing here.")
    with pytest.raises(LuthierError, match=r"(?s)holds no data files beside README.txt.*name the file"):
        told(tmp_path)


def test_listings_are_left_out(tmp_path: Path) -> None:
    lines(tmp_path / "rows.jsonl")
    (tmp_path / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.jsonl"}}))
    examples, ledger = told(tmp_path)
    (note,) = ledger.notes
    assert len(examples) == 5 and "left out dataset_info.json" in note and "`llamafactory:`" in note


def test_files_of_several_splits_are_read_and_said(tmp_path: Path) -> None:
    lines(tmp_path / "data" / "train-00000.jsonl")
    lines(tmp_path / "data" / "test-00000.jsonl")
    examples, ledger = told(tmp_path)
    (note,) = ledger.notes
    assert len(examples) == 10 and "files of several splits are read (test, train)" in note
    alone = note.rpartition("so: ")[2]
    assert len(told(alone)[0]) == 5 and not told(alone)[1].notes  # what it says works
    lines(tmp_path / "apart" / "train" / "0.jsonl")
    lines(tmp_path / "apart" / "validation" / "0.jsonl")
    assert "(train, validation)" in next(iter(told(tmp_path / "apart")[1].notes))
    assert not told(tmp_path / "apart" / "train")[1].notes


def test_a_saved_data_set(tmp_path: Path) -> None:
    saved = Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one", num_shards=2)
    examples, ledger = told(tmp_path / "one")
    assert replies(examples) == [row["completion"] for row in ROWS] and not ledger.notes
    saved.shuffle(seed=3).select(range(3)).save_to_disk(tmp_path / "picked")
    assert replies(told(tmp_path / "picked")[0]) == saved.shuffle(seed=3)["completion"][:3]
    next((tmp_path / "one").glob("*00001-of*.arrow")).unlink()
    with pytest.raises(
        LuthierError, match=r"one: the saved data set cannot be read: data-00001-of-00002.arrow is missing"
    ):
        told(tmp_path / "one")
    (tmp_path / "picked" / "state.json").write_text("{")
    with pytest.raises(LuthierError, match=r"state.json: the saved data set's state.json is damaged"):
        told(tmp_path / "picked")


def test_a_saved_data_set_of_several_splits(tmp_path: Path) -> None:
    splits = {"train": Dataset.from_list(ROWS[:3]), "test": Dataset.from_list(ROWS[3:])}
    DatasetDict(splits).save_to_disk(tmp_path / "both")
    examples, ledger = told(tmp_path / "both")
    assert replies(examples) == [row["completion"] for row in ROWS[:3]]
    assert "its split 'train' is read, not test" in next(iter(ledger.notes))
    assert replies(told(tmp_path / "both", split="test")[0]) == [row["completion"] for row in ROWS[3:]]
    with pytest.raises(LuthierError, match=r"(?s)no split 'tset'; it has train, test.*did you mean 'test'"):
        told(tmp_path / "both", split="tset")
    (tmp_path / "both" / "test" / "state.json").unlink()
    with pytest.raises(LuthierError, match="the split 'test' of the saved data set is not whole"):
        told(tmp_path / "both", split="test")
