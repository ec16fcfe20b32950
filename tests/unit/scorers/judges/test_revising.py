"""Critique and revision: the chain of each row, its principles, what is left out, and rows that train."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoints import apart, endpoint, said

from luthier.data import read
from luthier.errors import LuthierError
from luthier.recipe.schema import Plugin
from luthier.scorers.judges import asking, revising
from luthier.scorers.judges.constitution import constitution
from luthier.types import Example, Response, Turn

assert apart  # a cache of its own, no key


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    asking._opened.cache_clear()
    yield
    asking._opened.cache_clear()


def speak(path: str, body: dict[str, Any]) -> Any:
    """First answers end in 0, each revision counts one up; criticism is of the answer that is shown."""
    question = body["messages"][-1]["content"]
    shown = re.search(r"<answer (\w+)>\n(.*?)\n</answer", question, re.S)
    if shown is None:
        return said(
            "answer 0" if "cut" not in question else "answ", finish="stop" if "cut" not in question else "length"
        )
    if "<critique" not in question:
        return said(f"{shown[2]} is weak" if "mute" not in question else "  ")
    assert f"{shown[2]} is weak" in question
    return said(f"answer {int(shown[2][-1]) + 1}")


def by(url: str) -> asking.Voice:
    return asking.voice(None, Plugin(name="openai", args={"url": url, "model": "m", "retries": 0}))


def asked(text: str, *responses: str) -> Example:
    return Example((Turn("user", text),), tuple(Response((Turn("assistant", one),)) for one in responses))


def test_each_round_criticises_the_last_answer_by_another_principle_and_keeps_the_chain():
    ours = constitution("en")
    with endpoint(speak) as server:
        (one,) = revising.revised([asked("tea?")], by(server.url), ours, rounds=3)
        assert isinstance(one, revising.Revised) and one.first == "answer 0"
        assert [each.revision for each in one.revisions] == ["answer 1", "answer 2", "answer 3"]
        assert [each.critique for each in one.revisions] == [f"answer {n} is weak" for n in range(3)]
        rules = ours.drawn(asked("tea?"), (), 3)
        assert [each.principle for each in one.revisions] == [rule.name for rule in rules] and len(set(rules)) == 3
        told = [body["messages"][-1]["content"] for _, body in server.asked]
        assert len(told) == 7 and all(rules[n].critique in told[1 + 2 * n] for n in range(3))
        assert all(rules[n].revise in told[2 + 2 * n] for n in range(3))
        row = one.row()
    assert row["messages"] == [{"role": "user", "content": "tea?"}, {"role": "assistant", "content": "answer 3"}]
    assert len(row["revisions"]) == 3 and not any("weak" in turn["content"] for turn in row["messages"])


def test_a_given_answer_is_where_it_begins_and_a_conversation_is_gone_on_with():
    talk = Example((Turn("system", "s"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")))
    with endpoint(speak) as server:
        first, second = revising.revised([asked("tea?", "mine 7"), talk], by(server.url), constitution("en"), rounds=1)
        assert isinstance(first, revising.Revised) and isinstance(second, revising.Revised)
        assert first.first == "mine 7" and first.revisions[0].revision == "answer 8"
        assert [turn["content"] for turn in second.row()["messages"]] == [
            "s",
            "a",
            "b",
            "c",
            "answer 1",
        ]
        assert [turn["content"] for turn in server.asked[0][1]["messages"]] == ["s", "a", "b", "c"]


def test_what_was_cut_off_or_left_unsaid_gives_no_row_and_says_where_and_why():
    with endpoint(speak) as server:
        rows = [asked("cut"), asked("tea?"), asked("mute")]
        cut, whole, mute = revising.revised(rows, by(server.url), constitution("en"))
        assert isinstance(whole, revising.Revised)
        assert (str(cut), str(mute)) == ("first answer cut off", "critique 1 empty")
        assert revising.revised([], by(server.url), constitution("en")) == []


@pytest.mark.parametrize("rounds", [0, 17])
def test_more_rounds_than_principles_are_refused(rounds: int):
    with endpoint(speak) as server, pytest.raises(LuthierError, match="principles"):
        revising.revised([asked("a")], by(server.url), constitution("en"), rounds)


def test_a_row_that_asks_nothing_is_named():
    with endpoint(speak) as server, pytest.raises(LuthierError, match="question"):
        revising.revised([Example((), (Response((Turn("text", "once"),)),))], by(server.url), constitution("en"))


def test_the_command_writes_rows_that_train(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    prompts, out = tmp_path / "prompts.jsonl", tmp_path / "revised.jsonl"
    prompts.write_text('{"prompt": "tea?"}\n{"prompt": "cut"}\n{"prompt": "milk?"}\n')
    with endpoint(speak) as server:
        engine = json.dumps({"openai": {"url": server.url, "model": "m"}})
        revising.main([str(prompts), str(out), "--engine", engine])
    assert capsys.readouterr().out.startswith("2 rows") and "1 left out" not in out.read_text()
    made = list(read(str(out)))
    assert [example.prompt[-1].text for example in made] == ["tea?", "milk?"]
    assert all(example.responses[0].turns[-1].text == "answer 2" for example in made)
    for given in (["--engine", "local"], ["--engine", "[1"], ["--engine", engine, "--constitution", "nowhere"]):
        with pytest.raises(SystemExit) as stopped:
            revising.main([str(prompts), str(out), *given])
        assert isinstance(stopped.value.code, str) and "Traceback" not in stopped.value.code
