"""Messages that hold a prompt with one of its answers beside judged responses, and answers that are numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from luthier.data import FORMATS, Ledger, read
from luthier.data.reading.formats.shape import BadRow
from luthier.types import Example


def told(path: Path, rows: list[dict[str, Any]]) -> tuple[list[Example], Ledger]:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    return list(read([str(path)], ledger)), ledger


def said(example: Example) -> list[tuple[str, str]]:
    turns = [*example.prompt, *(turn for response in example.responses for turn in response.turns)]
    return [(turn.role, turn.text) for turn in turns]


def message(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


ASKED, GOOD, BAD = message("user", "2+2?"), message("assistant", "4"), message("assistant", "5")
PAIR = [("user", "2+2?"), ("assistant", "4"), ("assistant", "5")]
SHAREGPT = [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]
ROWS: dict[str, dict[str, Any]] = {
    "UltraFeedback": {"prompt": "2+2?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, GOOD]},
    "no prompt column": {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, GOOD]},
    "the worse one": {"prompt": "2+2?", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "messages": [ASKED, BAD]},
    "responses as messages": {"chosen": GOOD, "rejected": BAD, "messages": [ASKED, GOOD]},
    "lists of one": {"chosen": [GOOD], "rejected": [BAD], "messages": [ASKED, GOOD]},
    "responses as texts": {"chosen": "4", "rejected": "5", "messages": [ASKED, {**GOOD, "content": " 4\n"}]},
    "the answer alone": {"prompt": "2+2?", "chosen": "4", "rejected": "5", "messages": [GOOD]},
    "transcripts": {
        "chosen": "\n\nHuman: 2+2?\n\nAssistant: 4",
        "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5",
        "messages": [ASKED, GOOD],
    },
    "ShareGPT": {"chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "5"}, "conversations": SHAREGPT},
    "as JSON text": {"prompt": "2+2?", "chosen": "4", "rejected": "5", "messages": json.dumps([ASKED, GOOD])},
    "the prompt alone": {"prompt": "2+2?", "chosen": "4", "rejected": "5", "messages": [ASKED]},
}


@pytest.mark.parametrize("case", ROWS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_messages_may_hold_one_of_the_answers(case: str, name: str, tmp_path: Path) -> None:
    extra = {"prompt_id": "x", "score_chosen": 8.0, "score_rejected": 3.0}
    examples, ledger = told(tmp_path / name, [{**ROWS[case], **extra}] * 3)
    assert not ledger.reasons
    assert [said(example) for example in examples] == [PAIR] * 3


def test_what_was_said_before_and_a_system_message_stay(tmp_path: Path) -> None:
    before = [message("system", "Sum"), message("user", "Hi"), message("assistant", "Hello"), ASKED]
    row = {"prompt": "2+2?", "chosen": [*before, GOOD], "rejected": [*before, BAD], "messages": [*before, GOOD]}
    ((example,), _) = told(tmp_path / "a.jsonl", [row])
    assert said(example) == [(one["role"], one["content"]) for one in before] + PAIR[1:]


def test_messages_with_another_answer_are_told(tmp_path: Path) -> None:
    row = {**ROWS["UltraFeedback"], "messages": [ASKED, message("assistant", "22")]}
    examples, ledger = told(tmp_path / "a.jsonl", [row])
    assert not examples and list(ledger.reasons) == [
        "'chosen' and 'rejected' begin with another prompt than 'messages' holds"
    ]


def test_ranked_responses_too(tmp_path: Path) -> None:
    row = {"messages": [ASKED, GOOD], "responses": ["5", "4", "22"], "scores": [0, 1, 0]}
    ((example,), _) = told(tmp_path / "a.jsonl", [row])
    assert said(example) == [("user", "2+2?"), ("assistant", "5"), ("assistant", "4"), ("assistant", "22")]


@pytest.mark.parametrize(
    ("answer", "text"),
    [(4, "4"), (-17, "-17"), (0.5, "0.5"), (4.0, "4.0"), (10**20, str(10**20)), ("4.0", "4.0"), (None, None)],
)
def test_a_known_answer_may_be_a_number(answer: Any, text: str | None, tmp_path: Path) -> None:
    for more in ({}, {"completion": "It is."}):
        ((example,), _) = told(tmp_path / "a.jsonl", [{"prompt": "2+2?", "answer": answer, **more}])
        assert example.answer == text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "2+2?", "answer": True}, "'answer' is true or false, not text or a number"),
        ({"prompt": "2+2?", "answer": float("nan")}, "'answer' is not finite"),
        ({"prompt": "2+2?", "answer": ["4"]}, "'answer' is a list, not text or a number"),
        ({"prompt": "2+2?", "completion": 4}, "'completion' is a number, not text"),
        ({"prompt": 4, "completion": "4"}, "'prompt' is a number, not text"),
        ({"instruction": "Add", "output": 4.5}, "'output' is a number, not text"),
        ({"instruction": "Add", "input": 4, "output": "4"}, "'input' is a number, not text"),
        ({"prompt": "2+2?", "chosen": 4, "rejected": "5"}, "'chosen' is a number, not text"),
        ({"prompt": "2+2?", "chosen": "4", "rejected": False}, "'rejected' is true or false, not text"),
        ({"chosen": 4, "rejected": 5}, "'chosen' is a number, not text"),
        ({"prompt": "2+2?", "responses": [4, 5], "scores": [1, 0]}, "'responses' is a number, not text"),
        ({"prompt": "2+2?", "completion": 4, "label": True}, "'completion' is a number, not text"),
        ({"text": 4}, "'text' is a number, not text"),
    ],
)
def test_numbers_that_would_train_are_refused_in_words(row: dict[str, Any], reason: str, tmp_path: Path) -> None:
    examples, ledger = told(tmp_path / "a.jsonl", [row])
    ((found, entry),) = ledger.reasons.items()
    assert not examples and found == reason
    assert "finite" in reason or "answer" in reason or entry.fix == "write it as text, as it is to be said"


def test_steps_that_are_numbers() -> None:
    with pytest.raises(BadRow, match="not a list of texts"):
        FORMATS.build("stepwise").read({"prompt": "2+2?", "completions": [2, 4], "labels": [1, 1]})
