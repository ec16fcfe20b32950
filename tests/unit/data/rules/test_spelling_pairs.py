"""Spelling by pairs: off unless asked for, and never by a dictionary."""

from __future__ import annotations

from pathlib import Path

import pytest

from luthier.data.cleaning import Cleaning
from luthier.data.cleaning.spelling import COMMON, read
from luthier.errors import LuthierError


def test_off_by_default() -> None:
    assert Cleaning().clean("Teh chatbot") == "Teh chatbot"


def test_common_slips_keep_their_capitals() -> None:
    rules = Cleaning(spelling="common")
    assert rules.clean("Teh goverment did recieve ALOT of it.") == "The government did receive A LOT of it."
    assert rules.clean("chatbot bitcoin serverless `teh`") == "chatbot bitcoin serverless `teh`"


def test_no_right_word_is_a_wrong_one() -> None:
    assert not {word for right in COMMON.values() for word in right.split()} & set(COMMON)


def test_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("# ours\ncolour\tcolor\n帐号 -> 账号\n")
    assert Cleaning(spelling=str(path)).clean("Colour 帐号") == "Color 账号"


@pytest.mark.parametrize(
    ("lines", "what"), [("one\n", "pair"), ("a\tb\nb\ta\n", "wrong word, too"), ("two words,x\n", "pair")]
)
def test_faults_name_the_line(tmp_path: Path, lines: str, what: str) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text(lines)
    with pytest.raises(LuthierError, match=what) as error:
        read(str(path))
    assert "pairs.txt" in str(error.value)
    with pytest.raises(LuthierError, match="cannot be read"):
        read(str(tmp_path / "none.txt"))
