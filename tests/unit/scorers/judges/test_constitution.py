"""The constitutions shipped, what is drawn from them, and what is no constitution."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.scorers.judges.constitution import SHIPPED, constitution
from luthier.types import Example, Turn


def row(number: int) -> Example:
    return Example((Turn("user", f"question {number}"),))


@pytest.mark.parametrize("language", SHIPPED)
def test_ours_have_sixteen_principles_with_a_question_a_critique_and_a_revision(language: str):
    ours = constitution(language)
    assert ours.language == language and len(ours.principles) == 16
    for part in ("name", "compare", "critique", "revise"):
        assert len({getattr(principle, part) for principle in ours.principles}) == 16


def test_ours_say_the_same_in_both_languages_as_far_as_can_be_counted():
    english, chinese = constitution("en"), constitution("zh")
    assert all(principle.name.isascii() for principle in english.principles)
    assert not any(principle.compare.isascii() for principle in chinese.principles)


def test_principles_are_drawn_evenly_by_what_is_compared_and_whatever_the_order():
    ours = constitution("en")
    drawn = Counter(ours.drawn(row(number), ("a", "b"))[0].name for number in range(3200))
    # chi-squared with 15 degrees of freedom: above 37.7 once in a thousand
    assert len(drawn) == 16 and sum((count - 200) ** 2 / 200 for count in drawn.values()) < 37.7
    assert ours.drawn(row(1), ("a", "b")) == ours.drawn(row(1), ("b", "a"))
    many = ours.drawn(row(1), ("a", "b"), 5)
    assert len(set(many)) == 5 and many[:1] == ours.drawn(row(1), ("a", "b"))
    assert set(ours.drawn(row(1), (), 40)) == set(ours.principles)
    assert len({tuple(ours.drawn(row(1), (said, "b"))) for said in "cdefghij"}) > 1


ONE = "{name: n, compare: c, critique: d, revise: e}"


@pytest.mark.parametrize(
    ("content", "place", "says"),
    [
        ("", "", "no principles"),
        ("- a\n- b", "", "no principles"),
        ("principles: []", "", "no principles"),
        ("principles: [", ":1", "no YAML"),
        ("language: fr\nprinciples: [" + ONE + "]", "", "'fr'"),
        ("laws: 1\nprinciples: [" + ONE + "]", "", "no key 'laws'"),
        ("principles: [be kind]", "principle 1", "mapping"),
        ("principles: [" + ONE + ", {name: m, compare: c, critique: d}]", "principle 2", "`revise`"),
        ("principles: [{name: n, compare: 3, critique: d, revise: e}]", "principle 1", "`compare`"),
        ("principles: [{name: n, comparee: c, critique: d, revise: e}]", "principle 1", "'comparee'"),
        ("principles: [" + ONE + ", " + ONE + "]", "", "principle 2 is called 'n'"),
    ],
)
def test_what_is_no_constitution_says_where_and_why(tmp_path: Path, content: str, place: str, says: str):
    path = tmp_path / "mine.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(LuthierError) as raised:
        constitution(str(path))
    assert raised.value.where and str(path) in raised.value.where and place in raised.value.where
    assert says in raised.value.what and raised.value.fix


def test_one_of_ones_own_is_read_and_read_again_when_it_changes(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text(f"language: zh\nprinciples: [{ONE}]", encoding="utf-8")
    assert constitution(str(path)).language == "zh" and constitution(str(path)).principles[0].compare == "c"
    with pytest.raises(LuthierError, match="absent"):
        constitution(str(tmp_path / "absent.yaml"))
