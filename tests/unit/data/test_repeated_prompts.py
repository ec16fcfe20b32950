"""Pairs whose prompt stands in a column and in the responses: it is taken once, and a contradiction is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from luthier.data import read
from luthier.data.ledger import Ledger
from luthier.recipe import Source as Entry
from luthier.types import Example


def told(tmp_path: Path, rows: list[dict[str, Any]], **entry: Any) -> tuple[list[Example], Ledger]:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ledger = Ledger()
    return list(read([Entry(path=str(path), **entry)], ledger)), ledger


def spoken(example: Example) -> list[tuple[str, str]]:
    """The prompt's turns, then the better and the worse response."""
    turns = [*example.prompt, *(turn for response in example.responses for turn in response.turns)]
    return [(turn.role, turn.text) for turn in turns]


def chat(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    said = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 9, texts, strict=False)]
    return [{"role": "system", "content": system}, *said] if system else said


def shape(ledger: Ledger) -> str:
    return next(iter(ledger.sources.values())).shape


ASKED = {"prompt": "What is 2+2?", "chosen": "What is 2+2? It is 4.", "rejected": "What is 2+2?\n\nIt is 5."}
PLAIN = [("user", "What is 2+2?"), ("assistant", "It is 4."), ("assistant", "It is 5.")]


def test_texts_that_begin_with_their_prompt_lose_it(tmp_path: Path) -> None:
    (example,), ledger = told(tmp_path, [ASKED])
    assert spoken(example) == PLAIN
    assert shape(ledger) == "preference (prompt repeated)"


def test_a_response_may_begin_with_the_words_of_its_prompt(tmp_path: Path) -> None:
    other = {"prompt": "Hi", "chosen": "Hello", "rejected": "Go away"}
    rows = [{**other, "chosen": "Hi there", "rejected": "Hi you"}, other, other]
    examples, ledger = told(tmp_path, rows)
    assert spoken(examples[0]) == [("user", "Hi"), ("assistant", "Hi there"), ("assistant", "Hi you")]
    assert shape(ledger) == "preference"
    (example,), _ = told(tmp_path, [{**other, "chosen": "Hive", "rejected": "Hip"}])
    assert spoken(example)[1] == ("assistant", "Hive"), "a prompt does not end inside a word"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ASKED, "rejected": "It is 5."}, "only one of 'chosen' and 'rejected' begins with the prompt"),
        ({**ASKED, "prompt": "And 3+3?"}, "neither 'chosen' nor 'rejected' begins with the prompt"),
        ({**ASKED, "rejected": "What is 2+2?"}, "only one of 'chosen' and 'rejected' begins with the prompt"),
        ({**ASKED, "rejected": " "}, "'rejected' is empty"),
        ({**ASKED, "chosen": 3}, "'chosen' is a number, not text"),
    ],
)
def test_a_row_unlike_its_source_is_told(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    examples, ledger = told(tmp_path, [row, ASKED, ASKED])
    assert [spoken(example) for example in examples] == [PLAIN, PLAIN]
    ((told_reason, entry),) = ledger.reasons.items()
    assert told_reason.startswith(reason)
    assert entry.rows == [f"{tmp_path / 'pairs.jsonl'}:1"]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected"),
    [
        ("q", chat("q", "a"), chat("q", "b")),  # UltraFeedback, binarised
        (" q\n", chat("q", "a"), chat("q", "b")),
        ("q", "\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"),  # HH-RLHF with a column of its own
        ("\n\nHuman: q\n\nAssistant:", "\n\nHuman: q\n\nAssistant: a", "\n\nHuman: q\n\nAssistant: b"),
        (chat("q"), chat("q", "a"), chat("q", "b")),
        ("", chat("q", "a"), chat("q", "b")),
        (None, chat("q", "a"), chat("q", "b")),
    ],
)
def test_whole_conversations_beside_their_prompt_hold_it_once(
    tmp_path: Path, prompt: Any, chosen: Any, rejected: Any
) -> None:
    (example,), _ = told(tmp_path, [{"prompt": prompt, "chosen": chosen, "rejected": rejected}])
    assert spoken(example) == [("user", "q"), ("assistant", "a"), ("assistant", "b")]


def test_the_fuller_prompt_is_taken(tmp_path: Path) -> None:
    long = [("user", "q"), ("assistant", "a"), ("user", "r")]
    replies = [("assistant", "x"), ("assistant", "y")]
    pair = {"chosen": chat("q", "a", "r", "x"), "rejected": chat("q", "a", "r", "y")}
    for prompt in ("q", "r", chat("q", "a", "r")):
        (example,), _ = told(tmp_path, [{"prompt": prompt, **pair}])
        assert spoken(example) == long + replies, "one question of several, or all of it"
    short = {"chosen": chat("r", "x"), "rejected": chat("r", "y")}
    (example,), _ = told(tmp_path, [{"prompt": chat("q", "a", "r", system="Be brief."), **short}])
    assert spoken(example) == [("system", "Be brief."), *long, *replies], "what was said before is no contradiction"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "r", "chosen": chat("q", "a"), "rejected": chat("q", "b")}, "another prompt than 'prompt'"),
        (
            {"instruction": "r", "chosen": "Human: q\n\nAssistant: a", "rejected": "Human: q\n\nAssistant: b"},
            "begin with another prompt than 'instruction'",
        ),
        (
            {
                "prompt": chat("q", system="Be brief."),
                "chosen": chat("q", "a", system="Be long."),
                "rejected": chat("q", "b", system="Be long."),
            },
            "begin with another prompt than 'prompt'",
        ),
        ({"prompt": "q", "chosen": chat("q", "a"), "rejected": "b"}, "only one of 'chosen' and 'rejected' is a whole"),
        ({"prompt": "q", "chosen": chat("q", "a"), "rejected": [*chat("q", "b")[1:]]}, "only one of 'chosen' and"),
        ({"chosen": chat("q", "a"), "rejected": "b"}, "only one of 'chosen' and 'rejected' is a whole conversation"),
        ({"chosen": chat("q", "a")[1:], "rejected": chat("q", "b")[1:]}, "there is no prompt"),
        (
            {"chosen": chat("q", "a"), "rejected": [*chat("q"), {"role": "asistant", "content": "b"}]},
            "'rejected' ends with the role 'asistant', not with 'assistant'",
        ),
    ],
)  # fmt: skip
def test_contradictions_are_told_row_by_row(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    examples, ledger = told(tmp_path, [row])
    assert not examples
    ((found, entry),) = ledger.reasons.items()
    assert reason in found
    assert entry.rows == [f"{tmp_path / 'pairs.jsonl'}:1"]
    assert ("columns: {other:" in (entry.fix or "")) == ("another prompt" in reason)


def test_a_column_that_is_no_prompt_is_left_out_as_the_error_says(tmp_path: Path) -> None:
    row = {"prompt": "row 7", "chosen": chat("q", "a"), "rejected": chat("q", "b")}
    (example,), _ = told(tmp_path, [row], columns={"other": "prompt"})
    assert spoken(example) == [("user", "q"), ("assistant", "a"), ("assistant", "b")]
