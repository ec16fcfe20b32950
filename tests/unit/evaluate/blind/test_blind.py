"""Answers dealt without names, judged on sheets and in the file of the page, and opened."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.evaluate.blind import Blind, deal, opened, sheets
from luthier.evaluate.blind.folder import verdict_of
from luthier.types import Example, Turn


def rows(count: int) -> list[Example]:
    return [Example((Turn("user", f"Question {number}: 哪种茶?"),)) for number in range(count)]


def dealt(folder: Path, count: int = 20, models: tuple[str, ...] = ("tuned", "base"), wanted: int = 50) -> Blind:
    said = {name: [f"{name} answers {number}" + "!" * number for number in range(count)] for name in models}
    return deal(folder, rows(count), said, wanted, 0)[0]


def best(blind: Blind, item: str, model: str) -> str:
    """Which side a rater names who knows that this model is the best."""
    x, y = blind.key[item]
    return "x" if x == model else "y" if y == model else "tie"


def test_names_and_places_are_hidden_and_by_chance(tmp_path: Path):
    blind = dealt(tmp_path / "b", 60, wanted=40)
    assert len(blind.items) == 40 and list(blind.items)[:2] == ["01", "02"]
    shown = blind.key_path.read_text() + json.dumps(list(blind.items))
    assert "tuned" not in shown and "base" not in shown
    assert 8 < sum(x == "tuned" for x, _ in blind.key.values()) < 32
    assert 8 < sum(blind.left("ann", item) == "x" for item in blind.items) < 32
    assert blind.order("ann") == Blind(tmp_path / "b").order("ann") != blind.order("bob")
    assert sorted(blind.order("bob")) == sorted(blind.items)
    assert any(blind.left("ann", item) != blind.left("bob", item) for item in blind.items)
    again = dealt(tmp_path / "c", 60, wanted=40)
    assert again.items == blind.items and again.key == blind.key


def test_verdicts_are_on_the_disk_at_once_and_the_last_one_counts(tmp_path: Path):
    blind = dealt(tmp_path / "b")
    blind.say("ann", "01", "x")
    blind.say("ann", "02", "tie")
    blind.say("ann", "01", "y")
    assert Blind(blind.folder).said() == {"ann": {"01": "y", "02": "tie"}}
    with blind.verdicts_path.open("a") as file:
        file.write('{"rater": "ann", "item": "03", "sa')  # killed in the middle
    assert blind.said()["ann"] == {"01": "y", "02": "tie"}
    blind.say("ann", "03", "x")
    assert blind.said()["ann"]["03"] == "x"
    for wrong in (("ann", "99", "x"), ("ann", "01", "left"), (" ", "01", "x")):
        with pytest.raises(LuthierError, match="no verdict"):
            blind.say(*wrong)  # type: ignore[arg-type]
    blind.verdicts_path.write_text("nonsense\n")
    with pytest.raises(LuthierError, match="changed") as told:
        blind.said()
    assert str(told.value.where).endswith("verdicts.jsonl:1")


def test_a_planted_winner_wins_wherever_it_stood(tmp_path: Path):
    blind = dealt(tmp_path / "b", 30)
    for item in blind.items:
        blind.say("ann", item, best(blind, item, "tuned"))  # type: ignore[arg-type]
    found = opened(blind)
    (pair,) = found.pairs
    assert (pair.one, pair.other, pair.wins, pair.losses) == ("base", "tuned", 0, 30)
    assert pair.rate.value == 0 and pair.p < 1e-8 and "tuned is better (30 to 0" in pair.verdict
    assert found.ratings is not None and list(found.ratings) == ["tuned", "base"]
    assert found.left is not None and found.left.low is not None and found.left.low < 0.5 < (found.left.high or 0)
    assert json.loads(json.dumps(found.as_json()))["raters"] == {"ann": 30}


def test_few_verdicts_show_little_and_say_so(tmp_path: Path):
    blind = dealt(tmp_path / "b", 50)
    for number, item in enumerate(blind.items):
        blind.say("ann", item, best(blind, item, "tuned" if number < 32 else "base"))  # type: ignore[arg-type]
    (pair,) = opened(blind).pairs
    assert "no difference is shown (18 to 32, p 0.065; it takes 33 of 50)" in pair.verdict
    assert any("194 items" in line and "here are 50" in line for line in opened(blind).lines())


def test_several_raters_are_one_witness_an_item_and_their_agreement_is_told(tmp_path: Path):
    blind = dealt(tmp_path / "b", 24)
    for rater in ("ann", "bob", "cat"):
        for number, item in enumerate(blind.items):
            model = "base" if rater == "cat" and number % 3 == 0 else "tuned"
            blind.say(rater, item, best(blind, item, model))  # type: ignore[arg-type]
    found = opened(blind)
    (pair,) = found.pairs
    assert (pair.items, pair.losses, pair.wins) == (24, 24, 0)  # two of three say tuned
    assert found.agreement["ann", "bob"].same.value == 1
    assert found.agreement["ann", "cat"].same.value == pytest.approx(2 / 3)
    kappa = found.agreement["ann", "cat"].kappa
    assert kappa is not None and 0.2 < kappa.value < 0.5


def test_three_models_meet_in_turn(tmp_path: Path):
    blind = dealt(tmp_path / "b", 30, ("a", "b", "c"), wanted=60)
    assert len(blind.items) == 60
    order = {"a": 0, "b": 1, "c": 2}
    for item in blind.items:
        blind.say("ann", item, best(blind, item, max(blind.key[item], key=lambda name: order[name])))  # type: ignore[arg-type]
    found = opened(blind)
    assert [(pair.one, pair.other, pair.items) for pair in found.pairs] == [
        ("a", "b", 20),
        ("a", "c", 20),
        ("b", "c", 20),
    ]
    assert found.ratings is not None and list(found.ratings) == ["c", "b", "a"]


def test_sheets_are_filled_in_renamed_and_read(tmp_path: Path):
    blind = dealt(tmp_path / "b", 6)
    first, second = sheets.write(blind, 2)
    lines = list(csv.DictReader(first.open(encoding="utf-8-sig")))
    assert first.read_bytes().startswith(b"\xef\xbb\xbf") and "哪种茶" in first.read_text("utf-8")
    for row in lines:
        item = blind.items[row["item"].zfill(len(next(iter(blind.items))))]
        left = blind.left("rater-1", item.name)
        assert row["answer 1"] == (item.x if left == "x" else item.y)
        wanted = best(blind, item.name, "tuned")
        row["verdict"] = "1" if wanted == left else "2"
    lines[0]["verdict"], lines[1]["verdict"] = "0", ""
    renamed = blind.sheets / "anna.csv"
    with renamed.open("w", encoding="utf-8", newline="") as file:  # as a spreadsheet of another country saves it
        writer = csv.DictWriter(file, sheets.COLUMNS, delimiter=";")
        writer.writeheader()
        writer.writerows(lines)
    first.unlink()
    said = sheets.read(blind)
    assert list(said) == ["anna"] and len(said["anna"]) == 5
    found = opened(blind)
    (pair,) = found.pairs
    assert (pair.losses, pair.ties, pair.wins) == (4, 1, 0) and found.left is None
    second.write_text(second.read_text("utf-8-sig").rstrip("\n").rstrip("\r") + "both\r\n", encoding="utf-8-sig")
    with pytest.raises(LuthierError, match="verdict is 'both'"):
        sheets.read(blind)
    second.write_text("a,b\n1,2\n")
    with pytest.raises(LuthierError, match="lacks a column"):
        sheets.read(blind)


def test_an_answer_is_no_formula_of_a_spreadsheet(tmp_path: Path):
    said = {"a": ["=HYPERLINK(1)", "x"], "b": ["@SUM(2)", "y"]}
    blind, _ = deal(tmp_path / "b", rows(2), said, 2, 0)
    (sheet,) = sheets.write(blind, 1)
    cells = [row[f"answer {n}"] for row in csv.DictReader(sheet.open(encoding="utf-8-sig")) for n in (1, 2)]
    assert not any(cell.startswith(("=", "@")) for cell in cells) and any(cell.startswith("'=") for cell in cells)


def test_what_is_the_same_is_not_judged_and_what_was_changed_is_told(tmp_path: Path):
    said = {"a": ["one", "two", "three"], "b": ["one", "2", "3"]}
    blind, same = deal(tmp_path / "b", rows(3), said, 9, 0)
    assert len(blind.items) == 2 and same == 1
    with pytest.raises(LuthierError, match="say the same to all"):
        deal(tmp_path / "c", rows(1), {"a": ["one"], "b": ["one "]}, 5, 0)
    with pytest.raises(LuthierError, match="not empty"):
        deal(tmp_path / "b", rows(3), said, 9, 0)
    with pytest.raises(LuthierError, match="nobody has judged"):
        opened(blind)
    blind.say("ann", "1", "x")
    blind.items_path.write_text(blind.items_path.read_text().replace("two", "too"))
    with pytest.raises(LuthierError, match="the file was changed"):
        opened(Blind(blind.folder))
    blind.key_path.write_text("else")
    with pytest.raises(LuthierError, match="the key was changed"):
        opened(Blind(blind.folder))
    blind.key_path.unlink()
    with pytest.raises(LuthierError, match="the key is not there"):
        opened(Blind(blind.folder))
    with pytest.raises(LuthierError, match="holds no blind comparison"):
        _ = Blind(tmp_path / "none").items


def test_left_and_right_are_told_apart_from_x_and_y():
    assert [verdict_of("x", which) for which in ("left", "right", "tie")] == ["x", "y", "tie"]
    assert [verdict_of("y", which) for which in ("left", "right", "tie")] == ["y", "x", "tie"]
