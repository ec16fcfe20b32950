"""Masks and pseudonyms: one value is one person in all its spellings, and code still parses."""

from __future__ import annotations

import ast
import json

import planted_pii
import pytest

from luthier.data.cleaning import apply, inverse
from luthier.data.pii import find, masked, pseudonyms

KEY = b"a key of the user's"


def mask(text: str) -> str:
    return apply(text, masked(text, find(text)))


def hide(text: str, key: bytes = KEY) -> str:
    return apply(text, pseudonyms(text, find(text), key))


def test_a_mask_says_what_was_there() -> None:
    assert mask("Call +49 30 12345678 or write to a@b.de.") == "Call [PHONE] or write to [EMAIL]."
    assert mask("身份证11010519491231002X，电话13812345678") == "身份证[NATIONAL_ID]，电话[PHONE]"


@pytest.mark.parametrize(
    "spellings",
    [
        ["电话+86 138 1234 5678", "电话13812345678", "电话138-1234-5678", "电话008613812345678"],
        ["tel +44 20 7946 0958", "tel 020 7946 0958", "tel (020) 7946 0958", "tel +44 (0)20 7946 0958"],
        ["tel +1 (212) 555-0123", "tel 212-555-0123", "tel 1-212-555-0123", "tel (212) 555-0123 x45"],
        ["Anna@Example.com", "anna@example.com", "anna (at) example (dot) com"],
        ["4111 1111 1111 1111", "4111111111111111", "4111-1111-1111-1111"],
        ["GB82 WEST 1234 5698 7654 32", "GB82WEST12345698765432", "gb82west12345698765432"],
        ["SSN 123-12-1234", "SSN 123 12 1234", "SSN 123121234"],
        ["aa:bb:cc:dd:ee:4f", "AA-BB-CC-DD-EE-4F"],
    ],
)
def test_one_value_has_one_stand_in(spellings: list[str]) -> None:
    hidden = {hide(text) for text in spellings}
    assert len(hidden) == 1 and "-" in hidden.pop()


def test_stand_ins_hang_on_the_value_and_the_key() -> None:
    assert hide("a@b.de") != hide("c@b.de")
    assert hide("a@b.de") != hide("a@b.de", b"another")
    assert hide("a@b.de") == hide("a@b.de")


def test_done_twice_is_done_once_and_can_be_taken_back() -> None:
    for row in planted_pii.rows(400, seed=11):
        found = find(row.text)
        for edits in (masked(row.text, found), pseudonyms(row.text, found, KEY)):
            done = apply(row.text, edits)
            assert find(done) == [], done
            assert apply(done, inverse(edits)) == row.text


def test_code_and_json_parse_as_before() -> None:
    code = "def f():\n    phone = 13812345678\n    card = 4111111111111111\n    mail = 'a@b.de'\n    return "
    "g(13812345678, [4111111111111111])\n"
    for change in (mask, hide):
        fenced = change(f"```python\n{code}```\n").split("\n", 1)[1].rsplit("```", 1)[0]
        for text in (change(code), fenced):
            ast.parse(text)
            assert "13812345678" not in text and "4111111111111111" not in text and "a@b.de" not in text
    body = json.dumps({"to": "a@b.de", "phone": 13812345678, "cards": [4111111111111111, "4111111111111111"]})
    told = json.loads(mask(body))
    assert (
        told["to"] == "[EMAIL]"
        and isinstance(told["phone"], int)
        and isinstance(told["cards"][0], int)
        and told["cards"][1] == "[CARD]"
    )
    assert hide(hide(code)) == hide(code)
    assert mask("I wrote 13812345678, and so on") == "I wrote [PHONE], and so on"
