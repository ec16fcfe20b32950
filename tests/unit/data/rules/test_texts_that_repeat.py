"""Repetition, by shares counted by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from luthier.data.cleaning import Repetition
from luthier.data.cleaning.repetition import _again, _top, units_of

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "../shared"))


def test_shares_are_those_of_the_characters() -> None:
    units = ["a", "b", "a", "b", "a", "b", "a", "b", "c"]
    assert units_of("a b a b a b a b c") == units
    assert _top(units, 2, 9) == pytest.approx(3 * 2 / 9)  # `a b` four times, the first left out
    assert _again(units, 5, 9) == pytest.approx(6 / 9)  # the runs from places 2 and 3 stood before: places 2 to 7
    assert units_of("你好 world，世界's") == ["你", "好", "world", "世", "界", "s"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one two\n" * 3 + "three four\n" + "one two\n" * 4, "repeats its lines"),
        ("A first part.\n\n" * 6 + "A second part.", "repeats its lines"),
        ("The cat sat on the mat. " * 30, "repeats itself"),
        ("我今天去公园玩了很久。" * 20, "repeats itself"),
        ("ha" * 200, "repeats one piece"),
        ("哈" * 300, "repeats itself"),
    ],
)
def test_what_repeats_itself_is_found(text: str, reason: str) -> None:
    found = Repetition().reason(text)
    assert found is not None and found[0] == reason
    assert found[1]


PROSE = (
    "Foxes live in dens and hunt at dawn. They eat berries, mice and birds, and they store what is left for "
    "winter. A vixen raises her cubs alone "
    "until they can follow her. In spring the young ones learn to dig, to listen and to wait, which takes most "
    "of their first year in the woods."
)
PROSE_ZH = (
    "狐狸住在洞里，清晨出来觅食。它们吃浆果、老鼠和小鸟，并把剩下的食物留到冬天。"
    "母狐独自抚养幼崽，直到它们能够跟随自己。春天，小狐狸学习挖洞、倾听和等待，这几乎要花去它们在森林里的第一年。"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        PROSE,
        PROSE_ZH,
        "no no no",
        "```\n" + "x = 1\n" * 40 + "```",
        "| a | b |\n" * 30,
        "-" * 400,
        "- a\n- b\n- c\n- d",
        "La la la\nla la la\nThe end",
    ],
)
def test_what_does_not_stays(text: str) -> None:
    assert Repetition().reason(text) is None


def test_thresholds_are_keys() -> None:
    song = "\n".join(
        ["Oh my love", "the night is long", "Oh my love", "the day is short", "Oh my love", "we sing along"]
    )
    assert Repetition().reason(song) is None
    assert Repetition(lines=0.3).reason(song) == ("repeats its lines", "33% of them")
    assert (
        Repetition(lines=1, top_2=1, top_3=1, top_4=1, again_5=1, again_10=1).reason("The cat sat on the mat. " * 30)
        is None
    )


def test_few_rows_of_alpaca_repeat_themselves() -> None:
    path = SHARED / "data/alpaca-52k/alpaca_data.json"
    if not path.exists():
        pytest.skip("the data are not here")
    rows = json.loads(path.read_text())[:6000]
    assert sum(Repetition().reason(row["output"]) is not None for row in rows) < 0.005 * len(rows)
