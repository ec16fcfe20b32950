"""exact_match, contains and json_match, against answers worked out by hand."""

import pytest

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.types import Example, Response, Turn


def example(answer: str | None) -> Example:
    return Example(prompt=(Turn("user", "?"),), answer=answer)


def said(text: str) -> Response:
    return Response((Turn("assistant", text),))


def score(name: str, expected: str | None, answer: str, **keys: object) -> float | None:
    return SCORERS.build(name, keys)(example(expected), said(answer))


@pytest.mark.parametrize(
    ("keys", "expected", "answer", "right"),
    [
        ({}, "Paris", " Paris\n", 1.0),
        ({"strip": False}, "Paris", " Paris", 0.0),
        ({}, "Paris", "paris", 0.0),
        ({"casefold": True}, "Straße", "STRASSE", 1.0),
        ({}, "北京", "北京", 1.0),
        ({}, "", "", 1.0),
        ({"numeric": True}, "1,000", "1000.0", 1.0),
        ({"numeric": True}, "-3", "−3.", 1.0),
        ({"numeric": True}, "$5", "5 %", 1.0),
        ({"numeric": True}, "34", "3 4", 0.0),
        ({"numeric": True}, "yes", "yes", 1.0),
        ({"numeric": True}, "5", "nan", 0.0),
        ({"numeric": True}, "5", "1e999999999", 0.0),
        ({"numeric": True}, "5", "1e99999999999999999999999", 0.0),
        ({"numeric": True}, "5", "", 0.0),
    ],
)
def test_exact_match_compares_what_its_keys_leave_over(keys, expected, answer, right):
    assert score("exact_match", expected, answer, **keys) == right


GSM8K = r"####\s*(\S+)"


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Half of 144 is <<144/2=72>>72.\n#### 72", 1.0),
        ("#### 71 … no:\n#### 72.0", 1.0),  # the last one is meant
        ("The answer is 72", 0.0),  # asked for in this form, not given in it
        ("#### 73", 0.0),
        ("####", 0.0),
    ],
)
def test_gsm8k_number_after_the_mark(answer, right):
    assert score("exact_match", "48 + 24 = 72\n#### 72", answer, regex=GSM8K, numeric=True) == right
    assert score("exact_match", "72", answer, regex=GSM8K, numeric=True) == right


def test_broken_regex_is_named():
    with pytest.raises(LuthierError, match=r"regex.*not a regular expression"):
        SCORERS.build("exact_match", {"regex": "("})


def test_the_first_response_is_the_reference_when_there_is_no_answer():
    scorer = SCORERS.build("exact_match")
    assert scorer(Example(prompt=(), responses=(said("yes"), said("no"))), said("yes")) == 1.0
    assert scorer(Example(prompt=(), responses=(said("yes"), said("no")), answer="no"), said("yes")) == 0.0
    calls = ({"type": "function", "function": {"name": "f", "arguments": "{}"}},)
    assert scorer(Example(prompt=(), responses=(Response((Turn("assistant", "", calls=calls),)),)), said("")) is None


@pytest.mark.parametrize(
    ("keys", "expected", "answer", "right"),
    [
        ({}, "Paris", "It is paris, of course.", 1.0),
        ({"casefold": False}, "Paris", "It is paris.", 0.0),
        ({}, "5", "15", 1.0),
        ({"whole_words": True}, "5", "15", 0.0),
        ({"whole_words": True}, "5", "It is 5.", 1.0),
        ({"whole_words": True}, "C++", "use C++!", 1.0),
        ({}, "北京", "首都是北京。", 1.0),
        ({}, " ", "anything", None),
    ],
)
def test_contains_finds_the_expected_within_the_answer(keys, expected, answer, right):
    assert score("contains", expected, answer, **keys) == right


ORDER = '{"item": "tea", "count": 2, "milk": true}'


@pytest.mark.parametrize(
    ("expected", "answer", "right"),
    [
        (ORDER, '{"milk":true,"count":2,"item":"tea"}', 1.0),
        (ORDER, f"Sure! Here it is:\n```json\n{ORDER}\n```\nAnything else?", 1.0),
        (ORDER, f"As I read it {{sic}} [1]: {ORDER} — right?", 1.0),
        (ORDER, '{"item": "tea", "count": 2.0, "milk": true}', 1.0),
        (ORDER, '{"item": "tea", "count": 2, "milk": 1}', 0.0),  # true is not 1
        (ORDER, '{"item": "tea", "count": 2, "milk": true, "sugar": 0}', 0.0),
        (ORDER, '{"item": "tea", "count": 2, "milk": true', 0.0),  # cut off
        (ORDER, "two teas with milk", 0.0),
        (ORDER, "[" * 100_000, 0.0),
        (ORDER, "[{" * 100_000 + ORDER, 0.0),
        ("[1, 2]", "[2, 1]", 0.0),  # the order of a list matters
        ("[1, 2]", "I think [1,2]", 1.0),
        ("null", "null", 1.0),
        ("5", "5.0", 1.0),
        ("5", "true", 0.0),
        ('{"a": {"b": [1, {"c": null}]}}', '{"a": {"b": [1, {"c": null}]}}', 1.0),
        ('{"城市": "北京"}', '{"城市": "北京"}', 1.0),
        ("not json", "{}", None),
    ],
)
def test_json_match_compares_values_not_spelling(expected, answer, right):
    assert score("json_match", expected, answer) == right


def test_json_match_partial_credit():
    answer = '{"item": "tea", "count": 3, "sugar": 1}'
    # of item, count, milk, sugar only item is equal
    assert score("json_match", ORDER, answer, fields=True) == 1 / 4
    assert score("json_match", ORDER, answer, fields=["item", "count"]) == 1 / 2
    assert score("json_match", ORDER, "tea", fields=True) == 0.0
    assert score("json_match", "{}", "{}", fields=True) == 1.0
    assert score("json_match", '{"a": null}', "{}", fields=True) == 0.0  # a missing field is not null
