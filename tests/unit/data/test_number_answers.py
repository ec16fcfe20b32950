"""A known answer that is a JSON number is an answer, in the spelling of JSON."""

import json

import pytest

from luthier.data import read
from luthier.data.ledger import Ledger
from luthier.recipe import Source

SPELT = [(42, "42"), (3.0, "3.0"), (-0.5, "-0.5"), (0, "0"), (10**20, "1" + "0" * 20), ("4", "4"), (" ", " ")]


def rows(tmp_path, *content):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    ledger = Ledger()
    return list(read((Source(path=str(path)),), ledger)), ledger


@pytest.mark.parametrize(("given", "spelt"), SPELT)
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "6*7?"},
        {"prompt": "6*7?", "completion": "So it is."},
        {"messages": [{"role": "user", "content": "6*7?"}]},
        {"messages": [{"role": "user", "content": "6*7?"}, {"role": "assistant", "content": "So it is."}]},
    ],
    ids=["task", "completion", "asked", "answered"],
)
def test_a_number_is_an_answer(tmp_path, row, given, spelt):
    (example,), _ = rows(tmp_path, {**row, "answer": given})
    assert example.answer == spelt


def test_a_number_answers_a_question(tmp_path):
    (example,), _ = rows(tmp_path, {"question": "6*7?", "answer": 42})
    assert example.responses[0].turns[0].text == "42"


@pytest.mark.parametrize("value", [True, False, [4], {"value": 4}])
def test_what_is_neither_text_nor_number_is_told_with_what_to_do(tmp_path, value):
    found, ledger = rows(tmp_path, {"prompt": "2>1?", "answer": value})
    ((reason, lost),) = ledger.main_reasons()
    assert not found and "'answer' is " in reason and "not text or a number" in reason
    assert lost.fix == "write the answer as the text that the model should give"


def test_no_answer_is_none_and_no_number_is_not(tmp_path):
    found, ledger = rows(tmp_path, {"prompt": "a?", "answer": None}, {"prompt": "b?", "answer": float("nan")})
    assert [example.answer for example in found] == [None]
    assert [reason for reason, _ in ledger.main_reasons()] == ["'answer' is not finite"]
