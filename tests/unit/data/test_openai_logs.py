"""Server logs in OpenAI's shape: each turn trains once; retries, edits, thumbs and cut answers are told apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from luthier.data import Ledger, read
from luthier.recipe import Source as Entry
from luthier.types import Example


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def line(*talk: dict[str, str], ended: str = "stop", **more: Any) -> dict[str, Any]:
    *asked, answer = talk
    choice = {"message": {**answer, "reasoning_content": "…"}, "finish_reason": ended}
    return {
        "request": {"messages": asked, "model": "m"},
        "response": {"id": more.pop("id", None), "choices": [choice]},
    } | more


def rows(tmp_path: Path, lines: list[dict[str, Any]], kind: str = "conversations") -> tuple[list[Example], Ledger]:
    path, ledger = tmp_path / "log.jsonl", Ledger()
    path.write_text("\n".join(json.dumps(each) for each in lines), encoding="utf-8")
    return list(read([Entry(path=str(path), format={"openai_log": {"rows": kind}})], ledger)), ledger


def talk(example: Example) -> list[tuple[str, float | None]]:
    return [(t.text, t.weight) for t in (*example.prompt, *example.responses[0].turns)]


def count(ledger: Ledger, words: str) -> int:
    return sum(reason.count for what, reason in ledger.notes.items() if words in what)


A = (user("a"), said("A"))
AB = (*A, user("b"), said("B"))


def test_a_growing_log_trains_each_turn_once(tmp_path: Path) -> None:
    found, _ = rows(tmp_path, [line(*A), line(*AB), line(*AB, user("c"), said("C")), line(user("x"), said("X"))])
    assert [talk(one) for one in found] == [
        [("a", None), ("A", None), ("b", None), ("B", None), ("c", None), ("C", None)],
        [("x", None), ("X", None)],
    ]


def test_a_conversation_that_forks_trains_its_trunk_once(tmp_path: Path) -> None:
    found, _ = rows(tmp_path, [line(*A), line(*AB), line(*A, user("b2"), said("B2"))])
    assert [talk(one)[1] for one in found] == [("A", None), ("A", 0.0)]
    assert [talk(one)[3] for one in found] == [("B", None), ("B2", None)]


def test_cut_refused_empty_and_disliked_answers_do_not_train(tmp_path: Path) -> None:
    found, ledger = rows(
        tmp_path,
        [
            line(*A),
            line(*A, user("long"), said("B and"), ended="length"),
            line(*A, user("long"), said("B and"), user("go on"), said("so on")),
            {"request": {"messages": [user("q")]}, "response": None, "status": 429},
            {"request": {"messages": [user("q")]}, "response": {"error": {"code": "rate_limit_exceeded"}}},
            line(user("e"), said(" ")),
            line(user("d"), said("D"), feedback={"thumb": "down"}),
        ],
    )
    assert [talk(one) for one in found] == [
        [("a", None), ("A", None), ("long", None), ("B and", 0.0), ("go on", None), ("so on", None)]
    ]
    for words in ("finish_reason: length", "(429)", "rate_limit_exceeded", "is empty", "thumb down"):
        assert count(ledger, words) == 1
    assert not ledger.rows_dropped


def test_retries_leave_the_answer_that_was_gone_on_with_and_make_pairs(tmp_path: Path) -> None:
    lines = [
        line(user("a"), said("bad")),
        line(*A),
        line(*AB),
        line(user("q"), said("one")),
        line(user("q"), said("two")),
    ]
    found, ledger = rows(tmp_path, lines)
    assert [talk(one) for one in found] == [
        [("a", None), ("A", None), ("b", None), ("B", None)],
        [("q", None), ("two", None)],
    ]
    assert count(ledger, "was retried") == 2
    (pair,), ledger = rows(tmp_path, lines, "pairs")
    assert [one.turns[0].text for one in pair.responses] == ["A", "bad"] and pair.prompt[0].text == "a"
    assert count(ledger, "no pair") == 1  # nobody said which of the two was better


def test_edits_are_pairs_and_their_words_train(tmp_path: Path) -> None:
    lines = [line(*A), line(user("a"), said("A, by me"), user("b"), said("B"))]
    (talked,), ledger = rows(tmp_path, lines)
    assert talk(talked) == [("a", None), ("A, by me", None), ("b", None), ("B", None)]
    assert count(ledger, "was edited") == 1
    (pair,), _ = rows(tmp_path, lines, "pairs")
    assert [one.turns[0].text for one in pair.responses] == ["A, by me", "A"]


def test_thumbs_are_labels_also_when_they_come_later(tmp_path: Path) -> None:
    lines = [
        line(*A, id="r1"),
        line(*AB, thumb="thumbs_down"),
        {"response_id": "r1", "feedback": "thumbs_up"},
        line(user("x"), said("X")),
        line(user("y"), said("Y"), id="r2", rating=1),
        {"response_id": "r2", "rating": -1},
        {"response_id": "r9", "rating": -1},
        {"response_id": "r1", "rating": "so-so"},
    ]
    found, ledger = rows(tmp_path, lines, "labels")
    assert [(talk(one)[-1][0], one.responses[0].reward) for one in found] == [("A", 1.0), ("B", 0.0)]
    assert count(ledger, "no thumb") == count(ledger, "both ways") == count(ledger, "does not hold") == 1
    assert ledger.rows_dropped == 1 and "so-so" in next(iter(ledger.reasons))


def test_batches_streams_and_plain_rows_are_read(tmp_path: Path) -> None:
    def chunk(text: str, ended: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": ended}]}

    whole = {"choices": [{"message": said("A"), "finish_reason": "stop"}]}
    lines = [
        {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [user("batch")]}},
        {"id": "x", "custom_id": "1", "response": {"status_code": 200, "body": whole}, "error": None},
        {"request": {"messages": [user("s")]}, "response": [chunk("St"), chunk("ream", "stop")]},
        {"request": {"messages": [user("t")]}, "response": 'data: {"choices": [{"delta": {"content": "cut"}}]}\n\n'},
        {"messages": [user("flat"), said("few"), user("shot")], **whole},
        {"messages": [user("p")], "response": "plain"},
        {"custom_id": "2", "body": {"messages": [user("never answered")]}},
        {"request": {}, "response": whole},
    ]
    found, ledger = rows(tmp_path, lines)
    assert [talk(one)[-1][0] for one in found] == ["A", "Stream", "A", "plain"]
    assert talk(found[2])[1] == ("few", 0.0) and count(ledger, "no answer of this log") == 1
    assert count(ledger, "broke off") == count(ledger, "no response in the log") == 1
    assert list(ledger.reasons) == ["the request has no messages"] and found[0].source is not None
    assert found[0].source.row == 2


def test_a_log_in_several_files_is_one(tmp_path: Path) -> None:
    (tmp_path / "1.jsonl").write_text(json.dumps(line(*A)))
    (tmp_path / "2.jsonl").write_text("\n" + json.dumps(line(*AB)))
    (found,) = read([Entry(path=str(tmp_path), format="openai_log")])
    assert len(talk(found)) == 4 and str(found.source) == f"{tmp_path}/2.jsonl:2"
