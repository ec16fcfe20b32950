"""format, regex, json_schema, length, overlong, repetition and language, worked by hand."""

from __future__ import annotations

import json
import socket

import pytest

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.types import Example, Response, Turn

ROW = Example((Turn("user", "?"),))
SCHEMA = {
    "type": "object",
    "properties": {"cups": {"type": "integer", "minimum": 1}},
    "required": ["cups"],
    "additionalProperties": False,
}


def score(name: str, said: str, ids: int | None = None, **keys: object) -> float | None:
    """Of a response that was sampled as so many tokens, if it was."""
    tokens = None if ids is None else tuple(range(ids))
    return SCORERS.build(name, keys)(ROW, Response((Turn("assistant", said),), ids=tokens))


@pytest.mark.parametrize(
    ("said", "ids", "expected"),
    [
        # limit 100, cache 20 (arXiv:2503.14476, eq. 13)
        ("", 0, 0.0),
        ("", 80, 0.0),
        ("", 81, -0.05),
        ("", 90, -0.5),
        ("", 100, -1.0),
        ("", 101, -1.0),
        ("", 5000, -1.0),
        ("word " * 90, None, -0.5),  # not sampled: words
        ("字" * 95, None, -0.75),
        ("word " * 90, 10, 0.0),  # its tokens count, not its words
    ],
)
def test_overlong_is_daps_soft_punishment(said, ids, expected):
    assert score("overlong", said, ids, limit=100, cache=20) == pytest.approx(expected)
    assert score("overlong", said, ids, limit=100) == pytest.approx(expected), "a fifth of the limit if nothing is said"


def test_overlong_with_the_papers_lengths():
    assert score("overlong", "", 16384, limit=20480, cache=4096) == 0.0
    assert score("overlong", "", 18432, limit=20480, cache=4096) == -0.5
    with pytest.raises(LuthierError, match="`cache` \\(11\\) is more than `limit` \\(10\\)"):
        SCORERS.build("overlong", {"limit": 10, "cache": 11})


@pytest.mark.parametrize(
    ("words", "expected"), [(0, 0.0), (5, 0.5), (9, 0.9), (10, 1.0), (20, 1.0), (22, 0.8), (30, 0.0), (99, 0.0)]
)
def test_length_falls_in_a_straight_line(words, expected):
    said = "word " * words
    assert score("length", said, least=10, most=20, fade=10) == pytest.approx(expected)
    assert score("length", said, least=10, most=20) == float(10 <= words <= 20)


def test_length_counts_what_is_asked_for():
    assert score("length", "abc def", least=7, most=7, unit="characters") == 1.0
    assert score("length", "你好吗", least=3, most=3) == 1.0
    assert score("length", "abc def", ids=9, least=9, most=9, unit="tokens") == 1.0
    assert score("length", "abc def", least=2, most=2, unit="tokens") == 1.0, "not sampled: words"
    with pytest.raises(LuthierError, match="`least` \\(5\\) is more than `most` \\(2\\)"):
        SCORERS.build("length", {"least": 5, "most": 2})


@pytest.mark.parametrize(
    ("said", "n", "expected"),
    [
        ("a b c d e f", 2, 0.0),
        ("a b a b a b", 2, -3 / 5),  # ab ba ab ba ab: two of five are new
        ("a a a a a", 1, -4 / 5),
        ("A a", 1, -1 / 2),
        ("哈哈哈哈", 1, -3 / 4),
        ("one two", 4, 0.0),
        ("", 1, 0.0),
        ("go on " * 1000, 4, 2 / 1997 - 1),
    ],
)
def test_repetition_is_the_share_said_before(said, n, expected):
    assert score("repetition", said, n=n) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("said", "english", "chinese"),
    [
        ("The answer is five.", 1.0, 0.0),
        ("答案是五。", 0.0, 1.0),
        ("答案 is 五", 1 / 4, 3 / 4),
        ("42", 1.0, 1.0),
        ("", 0.0, 0.0),
        ("。!", 0.0, 0.0),
        ("答案是 $\\frac{a}{b}$ `x`", 1 / 4, 3 / 4),
        ("答案：\n```python\nprint(total)\n```\n\\boxed{5}", 0.0, 1.0),
        ("Привет мир", 0.0, 0.0),
        ("これは答え", 0.0, 1 / 5),
        ("Ça va très bien", 1.0, 0.0),
    ],
)
def test_language_goes_by_script(said, english, chinese):
    assert score("language", said) == pytest.approx(english)
    assert score("language", said, language="zh") == pytest.approx(chinese)


def test_regex_is_searched_or_matched_whole():
    assert score("regex", "say yes!", pattern="yes|no") == 1.0
    assert score("regex", "say yes!", pattern="yes|no", whole=True) == 0.0
    assert score("regex", " yes\n", pattern="yes|no", whole=True) == 1.0
    with pytest.raises(LuthierError, match="not a regular expression"):
        SCORERS.build("regex", {"pattern": "("})


def test_a_pattern_that_searches_for_ever_cannot_say():
    assert score("regex", "a" * 60 + "b", pattern="(a|aa)+$") is None
    assert score("format", "a" * 60 + "b", regex="(a|aa)+") is None


@pytest.mark.parametrize(
    ("said", "whole", "within"),
    [
        ('{"cups": 2}', 1.0, 1.0),
        ('```json\n{"cups": 2}\n```', 1.0, 1.0),
        ('Here: {"cups": 2}', 0.0, 1.0),
        ('{"cups": 2} {"cups": 3}', 0.0, 1.0),
        ('{"cups": 0}', 0.0, 0.0),
        ('{"cups": 2.5}', 0.0, 0.0),
        ('{"cups": 2, "milk": true}', 0.0, 0.0),
        ('{"cups": 2', 0.0, 0.0),
        ('{"cups": NaN}', 0.0, 0.0),
        ("[" * 100_000, 0.0, 0.0),
        ("", 0.0, 0.0),
    ],
)
def test_json_schema(said, whole, within, tmp_path):
    (tmp_path / "cups.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    for schema in (SCHEMA, json.dumps(SCHEMA), str(tmp_path / "cups.json")):
        assert score("json_schema", said, schema=schema) == whole
        assert score("json_schema", said, schema=schema, whole=False) == within
    assert score("format", said, json=SCHEMA) == whole


def test_a_schema_that_is_none_is_named(tmp_path, monkeypatch):
    with pytest.raises(LuthierError, match=r"type: not a JSON schema: 'number of cups'"):
        SCORERS.build("json_schema", {"schema": {"type": "number of cups"}})
    with pytest.raises(LuthierError, match=r"nowhere\.json: the JSON schema cannot be read: No such file"):
        SCORERS.build("json_schema", {"schema": "nowhere.json"})
    (tmp_path / "bad.json").write_text("{'type'}", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"bad\.json: the schema is not JSON"):
        SCORERS.build("format", {"json": str(tmp_path / "bad.json")})
    monkeypatch.setattr(socket, "socket", None)  # whatever would be fetched
    with pytest.raises(LuthierError, match=r"refers to 'https://example.com/cup.json', which it does not hold"):
        score("json_schema", "5", schema={"$ref": "https://example.com/cup.json"})


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("48 + 24 = 72\n#### 72", 1.0),
        (r"So it is $\boxed{72}$.", 1.0),
        ("<answer>72</answer>", 1.0),
        ("<think>perhaps \\boxed{1}</think>\\boxed{72}", 1.0),
        ("#### Step 1\n48 + 24\n#### Step 2\nIt is \\boxed{72}", 1.0),
        ("It is 72.", 0.0),
        (r"\boxed{72} or \boxed{73}", 0.0),
        ("#### 71\n#### 72", 0.0),
        (r"\boxed{72} and now for something completely different, which goes on", 0.0),
        (r"\boxed{}", 0.0),
        ("####", 0.0),
        ("", 0.0),
    ],
)
def test_format_is_one_marked_answer_at_the_end(said, right):
    assert score("format", said) == score("format", said, style="answer") == right


@pytest.mark.parametrize(
    ("said", "right"),
    [
        ("<think>48 + 24</think> 72", 1.0),
        ("<think>\n48\n+ 24\n</think>\n\n<answer>72</answer>\n", 1.0),
        ("72", 0.0),
        ("<think>48 + 24</think>", 0.0),
        ("<think>48 + 24", 0.0),
        ("<think></think>72", 0.0),
        ("<think>1</think>2<think>3</think>4", 0.0),
        ("well <think>1</think>2", 0.0),
    ],
)
def test_format_of_thoughts(said, right):
    assert score("format", said, style="think") == right


def test_format_holds_all_that_is_asked():
    assert score("format", "[1]", json=True) == 1.0 and score("format", "see [1]", json=True) == 0.0
    assert score("format", '["5"]', json=True, style="answer") == 0.0
    assert score("format", "ab", regex="a.") == 1.0 and score("format", "abc", regex="a.") == 0.0
    assert score("format", '"ab"', regex='"a."', json=True) == 1.0
