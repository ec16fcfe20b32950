"""The demo's data: made by its script, split cleanly, and its answers are what its texts say."""

import json
import random
import re

import pytest

from luthier.demo import prepare
from luthier.demo.generate import HELDOUT_ROWS, TRAIN_ROWS, Row, generate, split_pairs
from luthier.demo.wording import HELDOUT, MENU, NUMBERS, SIZES, TRAIN
from luthier.recipe import load


@pytest.fixture(scope="module")
def rows() -> tuple[list[Row], list[Row]]:
    return generate()


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, list[dict[str, str]]]]]:
    folder = prepare(tmp_path_factory.mktemp("demo")).parent
    return {
        name: [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
        for name in ("train", "heldout")
    }


def test_the_shipped_files_are_what_the_script_writes(rows, shipped):
    train, heldout = rows
    assert shipped["train"] == [row.as_json() for row in train]
    assert shipped["heldout"] == [row.as_json() for row in heldout]
    assert (len(train), len(heldout)) == (TRAIN_ROWS, HELDOUT_ROWS)


def test_another_seed_gives_other_rows(rows):
    assert [row.text for row in generate(seed=1)[0]] != [row.text for row in rows[0]]


# the split
def test_no_sentence_stands_in_both_stocks():
    assert not TRAIN.sentences() & HELDOUT.sentences()


def test_no_held_out_sentence_or_number_of_an_item_is_trained_on(rows):
    train, heldout = rows
    assert not {s for row in train for s in row.sentences} & {s for row in heldout for s in row.sentences}
    assert not {p for row in train for p in row.pairs} & {p for row in heldout for p in row.pairs}
    assert not {row.text for row in train} & {row.text for row in heldout}


def test_no_held_out_order_line_stands_in_a_training_text(rows):
    train, heldout = rows
    texts = "\n".join(row.text.lower() for row in train)
    lines = {phrase.lower() for row in heldout for phrase in row.phrases}
    assert len(lines) > HELDOUT_ROWS / 2
    found = [line for line in lines if re.search(rf"\b{re.escape(line)}\b", texts)]
    assert not found


def test_every_number_and_every_item_occurs_on_both_sides(rows):
    """The split must not make the task one of unknown words, or of one-sided numbers."""
    for side in rows:
        pairs = {pair for row in side for pair in row.pairs}
        assert {number for _, number in pairs} == set(NUMBERS)
        assert {item for item, _ in pairs} == {item.name for item in MENU}


# the answers
@pytest.mark.parametrize("side", ["train", "heldout"])
def test_answers_can_be_read_off_the_texts(shipped, side):
    """Independent of the generator: every name, size, number and extra of an answer stands in the text, and no more."""
    forms = {item.name: {item.one, item.many} for item in MENU}
    for row in shipped[side]:
        text, answer = row["messages"][0]["content"].lower(), json.loads(row["messages"][1]["content"])
        assert list(answer) == ["items"] and answer["items"]
        for item in answer["items"]:
            assert list(item) == [key for key in ("quantity", "size", "name", "extra") if key in item]
            assert any(form in text for form in forms[item["name"]]), row
            assert any(re.search(rf"\b{re.escape(word)}\b", text) for word in _words(item["quantity"])), row
            assert "size" not in item or any(re.search(rf"\b{word}\b", text) for word in SIZES[item["size"]]), row
            assert item.get("extra", "") in text, row
        if not any("size" in item for item in answer["items"]):
            assert not re.search(r"\b(small|medium|large|big)\b", text), row


def _words(quantity: int) -> tuple[str, ...]:
    extra = ("an",) if quantity == 1 else ("a couple",) if quantity == 2 else ()
    return NUMBERS[quantity] + extra


@pytest.mark.parametrize("side", ["train", "heldout"])
def test_every_row_is_an_open_and_shut_case(shipped, side):
    """No text twice, no left-over slot, no doubled word or stray space."""
    texts = [row["messages"][0]["content"] for row in shipped[side]]
    assert len(set(texts)) == len(texts)
    for text in texts:
        assert not re.search(r"[{}]|  | [,.?!]|,,|\bof of\b|\ba [aeiou]", text), text


def test_the_split_reserves_numbers_for_each_item():
    train, heldout = split_pairs(random.Random(0))
    for item in MENU:
        assert not set(train[item.name]) & set(heldout[item.name])
        assert set(train[item.name]) | set(heldout[item.name]) == set(NUMBERS)


# the recipe
def test_the_prepared_recipe_finds_its_own_data(tmp_path, monkeypatch):
    """Also where the current directory has files of the same names."""
    monkeypatch.chdir(tmp_path)
    for name in ("train.jsonl", "heldout.jsonl"):
        (tmp_path / name).write_text("not ours")
    recipe = load(prepare("demo", output=tmp_path / "run")).recipe
    task = recipe.evaluate[0]
    assert recipe.data[0].path == str(tmp_path / "demo" / "train.jsonl")
    assert task.data[0].path == str(tmp_path / "demo" / "heldout.jsonl")
    assert task.data[0].system == recipe.data[0].system
    assert recipe.output == str(tmp_path / "run")


def test_the_example_in_the_instruction_is_no_row_of_the_data(tmp_path, rows):
    """The instruction shows the shape with an item that is not on the menu, so it gives no answer away."""
    system = load(prepare(tmp_path)).recipe.data[0].system
    assert system is not None
    example = json.loads(system[system.index("{") : system.rindex("]}") + len("]}")])
    assert example["items"][0]["name"] not in {item.name for item in MENU}
    assert all(row.order != example for side in rows for row in side)
