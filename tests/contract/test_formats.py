"""Every row shape: recognised by its columns, read, checked, and left out with a reason where a row is broken."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from luthier.data import FORMATS, Ledger, formats_table, read
from luthier.data.reading.formats import recognise
from luthier.data.reading.formats.shape import BadRow
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import Example, Format

USER, REPLY = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
DEEP = {"function": {"name": "f", "arguments": "[" * 100_000}}
GOOD: dict[str, list[dict[str, Any]]] = {
    "alpaca": [
        {"instruction": "Add", "output": "4"},
        {"instruction": "Add", "input": "2+2", "output": "4", "history": [["Hi", "Hello"]], "system": "Sum"},
        {"instruction": "Add", "input": None, "response": "4"},
    ],
    "messages": [{"messages": [USER, REPLY]}, {"messages": [USER, REPLY], "tools": [{"name": "f"}]}],
    "sharegpt": [{"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]}],
    "prompt_completion": [
        {"prompt": "2+2?", "completion": "4"},
        {"prompt": "2+2?", "response": "4"},
        {"question": "2+2?", "answer": "4"},
        {"prompt": [USER], "completion": [REPLY]},
        {"prompt": "2+2?", "completion": "4", "answer": "four"},
    ],
    "text": [{"text": "Once upon a time"}],
    "preference": [
        {"prompt": "2+2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [REPLY], "rejected": [{"role": "assistant", "content": "5"}]},
        {"chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "5"}]},
        {"chosen": "\n\nHuman: 2+2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2+2?\n\nAssistant: 5"},
        {"chosen": "2+2 is 4", "rejected": "2+2 is 5"},
        {"instruction": "Add", "input": "2+2", "chosen": "4", "rejected": "5"},
        {
            "conversations": [{"from": "human", "value": "2+2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
        {"prompt": "\n\nHuman: 2+2?\n\nAssistant:", "chosen": "4", "rejected": "5"},
        {"prompt": "2+2?", "chosen": [USER, REPLY], "rejected": [USER, {"role": "assistant", "content": "5"}]},
        {"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": 2},
    ],
    "ranked": [
        {"prompt": "2+2?", "responses": ["4", "5", "22"], "scores": [0.9, 0.1, 0.1]},
        {"prompt": [USER], "responses": [REPLY, [{"role": "assistant", "content": "5"}]], "ranks": [1, 2]},
        {"messages": [USER], "responses": ["4", "5"], "scores": "[1, 0]"},
    ],
    "unpaired": [
        {"prompt": "2+2?", "completion": "4", "label": True},
        {"prompt": "2+2?", "completion": "4", "label": 1},
        {"prompt": "2+2?", "completion": "4", "label": "true"},
        {"messages": [USER, REPLY], "label": True},
        {"instruction": "Add", "output": "4", "kto_tag": True},
        {"prompt": "2+2?", "completion": "4", "label": "1.0"},
    ],
    "stepwise": [{"prompt": "2+2?", "completions": ["two", "4"], "labels": [True, False]}],
    "theorem": [
        {"prompt": "2+2?", "statement": "2 + 2 = 4", "proof": "4"},
        {"prompt": [USER], "statement": "2 + 2 = 4", "header": "Require Import Arith.", "proof": "4", "system": "Sum"},
    ],
    "mbpp": [
        {"text": "2+2?", "code": "4", "test_list": ["assert 4"], "test_setup_code": ""},
        {"text": "2+2?", "code": "4", "task_id": 1, "test_list": '["assert 4"]', "challenge_test_list": []},
        {"prompt": "2+2?", "code": "4", "test_list": ["assert 4"], "test_imports": ["import math"]},
    ],
    "human_eval": [
        {"prompt": "2+2?", "entry_point": "f", "test": "def check(f): pass", "canonical_solution": "4"},
    ],
    "tested": [
        {"prompt": "2+2?", "tests": ["assert 4"], "solution": "4"},
        {"prompt": "2+2?", "tests": "assert 4\nassert 5", "solution": "4", "setup": "import math"},
        {"prompt": [USER], "tests": [{"input": "2 2", "output": "4"}], "solution": "4"},
        {"question": "2+2?", "tests": {"inputs": ["2 2"], "outputs": ["4"]}, "solution": "4"},
    ],
    "curated": [
        {"example": {"prompt": [USER], "responses": [{"turns": [REPLY], "reward": 1.0}]}, "source": ["a.jsonl", 3]},
        {"example": {"prompt": [USER], "responses": [{"turns": [REPLY]}], "meta": {"margin": 1}}},
    ],
    "task": [{"prompt": "2+2?"}, {"prompt": "2+2?", "answer": "4"}, {"prompt": [USER], "answer": "4"}],
    "shp": [{"history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": 1, "score_ratio": 3.0}],
    "ultrafeedback": [
        {
            "instruction": "Add",
            "models": ["a", "b"],
            "completions": [{"response": "4", "fine-grained_score": 4.5}, {"response": "5", "fine-grained_score": 1}],
        },
    ],
    "camel": [
        {"role_1": "Sum_RoleType.ASSISTANT", "topic;": "sums", "message_1": "2+2?", "message_2": "4"},
        {
            "role_1": "a", "role_2": "b",
            "message_1": {"role_type": "USER", "content": "2+2?"},
            "message_2": {"role_type": "ASSISTANT", "content": "4"},
        },
    ],
    "wikihow": [{"headline": "Add.", "title": "How to Add1", "text": "4"}],
}  # fmt: skip
BY_NAME = ("wikihow",)
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "curated": [
        ({"example": "2+2?"}, "'example' is text, not an object"),
        ({"example": {"prompt": "2+2?"}}, "'example' is not what"),
        ({"example": {"prompt": [USER], "responses": [REPLY]}}, "'example' is not what"),
    ],
    "alpaca": [
        ({"instruction": "Add", "output": None}, "'output' is null, not text"),
        ({"instruction": "Add", "output": 4}, "'output' is a number, not text"),
        ({"instruction": "Add", "output": " "}, "'output' is empty"),
        ({"instruction": "", "input": "", "output": "4"}, "'instruction' and 'input' are empty"),
        ({"instruction": "Add", "output": "4", "history": ["Hi"]}, "'history' is not a list of"),
        ({"instruction": "Add", "output": "4", "history": 4}, "'history' is a number, not a list"),
    ],
    "mbpp": [
        ({"text": "2+2?", "code": "4", "test_list": []}, "'test_list' is an empty list"),
        ({"text": "2+2?", "code": "4", "test_list": "assert"}, "'test_list' is text, but not JSON"),
        ({"text": "2+2?", "code": "4", "test_list": [4]}, "'test_list' holds a number, not text"),
        ({"text": "2+2?", "code": "4", "test_list": ["assert assert"]}, "'test_list' is no Python"),
        ({"text": " ", "code": "4", "test_list": ["assert 4"]}, "'text' is empty"),
        ({"text": "2+2?", "code": "4", "test_list": ["assert 4"], "test_setup_code": "("}, "'test_setup_code' is no"),
    ],
    "human_eval": [
        ({"prompt": "2+2?", "entry_point": "f", "test": "def check("}, "'test' is no Python"),
        ({"prompt": "2+2?", "entry_point": "", "test": "assert 4"}, "'entry_point' is empty"),
    ],
    "tested": [
        ({"prompt": "2+2?", "tests": "assert ("}, "'tests' is no Python"),
        ({"prompt": "2+2?", "tests": []}, "'tests' is an empty list"),
        ({"prompt": "2+2?", "tests": 4}, "'tests' is a number, not a list"),
        ({"prompt": "2+2?", "tests": [{"input": "2"}]}, "'tests' holds a pair without the texts"),
        ({"prompt": "2+2?", "tests": {"inputs": ["2"], "outputs": []}}, "`inputs` and `outputs` of one length"),
        ({"prompt": "2+2?", "tests": {"inputs": [], "outputs": []}}, "'tests' is empty"),
    ],
    "messages": [
        ({"messages": None}, "'messages' is null, not a list"),
        ({"messages": []}, "'messages' is an empty list"),
        ({"messages": "hello"}, "'messages' is text, but not JSON"),
        ({"messages": ["hello"]}, "a message is text, not an object"),
        ({"messages": [{"content": "x"}]}, "a message has no 'role'"),
        ({"messages": [USER, {"role": "assistant", "content": None}]}, "'content' is null, not text"),
        ({"messages": [USER, {**REPLY, "weight": "much"}]}, "'weight' is not a finite number"),
        ({"messages": [USER, {**REPLY, "weight": math.nan}]}, "'weight' is not a finite number"),
        ({"messages": [USER, {**REPLY, "weight": math.inf}]}, "'weight' is not a finite number"),
        ({"messages": [USER, {**REPLY, "tool_calls": [{}]}]}, "a tool call has no 'name'"),
        ({"messages": [USER, {**REPLY, "tool_calls": [DEEP]}]}, "'arguments' are JSON that is nested too deeply"),
        ({"messages": [USER, REPLY], "tools": "{"}, "'tools' is text, but not JSON"),
        ({"messages": [USER, {"role": "assistant", "content": " "}]}, "an assistant message is empty"),
        ({"messages": [USER, {"role": "Assistant", "content": "4"}]}, "role is 'Assistant': write 'assistant'"),
    ],
    "sharegpt": [
        ({"conversations": [{"from": "human", "value": 4}]}, "'value' is a number, not text"),
        ({"conversations": [{"value": "x"}]}, "a message has no 'from'"),
        ({"conversations": [{"from": "Human", "value": "x"}]}, "role is 'Human': write 'human'"),
        ({"conversations": [{"from": "function_call", "value": "f()"}]}, "'function_call' is text, but not JSON"),
    ],
    "prompt_completion": [
        ({"prompt": None, "completion": "4"}, "'prompt' is null"),
        ({"prompt": "2+2?", "completion": ""}, "'completion' is empty"),
        ({"question": "2+2?", "answer": True}, "'answer' is true or false, not text"),
        ({"question": "2+2?", "answer": None}, "'answer' is null, not text"),
        ({"prompt": "2+2?", "completion": [USER]}, "not the assistant's"),
    ],
    "text": [({"text": None}, "'text' is null"), ({"text": "\n"}, "'text' is empty")],
    "preference": [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "4"}, "are the same"),
        ({"prompt": "2+2?", "chosen": "4", "rejected": None}, "'rejected' is null"),
        ({"chosen": "4", "rejected": "5"}, "do not begin alike"),
        ({"chosen": [USER, REPLY], "rejected": [{**USER, "content": "3+3?"}, REPLY]}, "do not share a prompt"),
        ({"prompt": "2+2?", "chosen": None, "rejected": "5"}, "'chosen' is null"),
        ({"prompt": "2+2?", "chosen": "", "rejected": "5"}, "'chosen' is empty"),
        ({"prompt": "2+2?", "chosen": REPLY, "rejected": {**REPLY, "content": "\n"}}, "'rejected' is empty"),
        ({"chosen": "\n\nHuman: 2?\n\nAssistant: ", "rejected": "\n\nHuman: 2?\n\nAssistant: 2"}, "'chosen' is empty"),
        (
            {"chosen": "\n\nHuman: 2?\n\nAssistant: 2", "rejected": "\n\nHuman: 3?\n\nAssistant: 2"},
            "not share a prompt",
        ),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": -1}, "'margin' is negative"),
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5", "margin": "much"}, "'margin' is text, not a number"),
    ],
    "ranked": [
        ({"prompt": "2+2?", "responses": ["4", "5"], "scores": [1, 1]}, "all responses have the same score"),
        ({"prompt": "2+2?", "responses": ["4", "5"], "ranks": [1, 1]}, "all responses have the same score"),
        ({"prompt": "2+2?", "responses": ["4", "5"], "scores": [1]}, "differ in length: 2 responses, 1 scores"),
        ({"prompt": "2+2?", "responses": ["4"], "scores": [1]}, "only one response"),
        ({"prompt": "2+2?", "responses": ["4", "4"], "scores": [1, 0]}, "the same, but have different scores"),
        ({"prompt": "2+2?", "responses": ["4", " "], "scores": [1, 0]}, "'responses' is empty"),
        ({"prompt": "2+2?", "responses": ["4", "5"], "scores": [1, None]}, "'scores' is null, not a number"),
        ({"prompt": None, "responses": ["4", "5"], "scores": [1, 0]}, "'prompt' is null"),
    ],
    "unpaired": [
        ({"prompt": "2+2?", "completion": "4", "label": "good"}, "'label' is another text, not true or false"),
        ({"prompt": "2+2?", "completion": "4", "label": None}, "'label' is null, not true or false"),
        ({"messages": [USER], "label": True}, "does not end with the assistant"),
        ({"prompt": "2+2?", "completion": "4", "label": "good"}, r"allowed: true, false, 1, 0"),
        ({"prompt": "2+2?", "completion": "", "label": True}, "'completion' is empty"),
    ],
    "stepwise": [
        ({"prompt": "2+2?", "completions": ["two"], "labels": [True, False]}, "differ in length: 1 steps, 2 labels"),
        ({"prompt": "2+2?", "completions": ["two", " "], "labels": [True, False]}, "a step in 'completions' is empty"),
        ({"prompt": "2+2?", "completions": ["two"], "labels": ["good"]}, "'labels' is another text, not true or false"),
        ({"prompt": "2+2?", "completions": "two", "labels": [True]}, "'completions' is text, but not JSON"),
        ({"prompt": "2+2?", "completions": [2], "labels": [True]}, "'completions' is not a list of texts"),
    ],
    "theorem": [
        ({"prompt": "2+2?", "statement": None}, "'statement' is null, not text"),
        ({"prompt": "2+2?", "statement": " "}, "'statement' is empty"),
        ({"prompt": "2+2?", "statement": "2 + 2 = 4", "header": 4}, "'header' is a number, not text"),
        ({"prompt": "2+2?", "statement": "2 + 2 = 4", "proof": ["4"]}, "'proof' is a list, not text"),
    ],
    "task": [({"prompt": ""}, "'prompt' is empty"), ({"prompt": 4}, "'prompt' is a number")],
    "shp": [
        ({"history": "2+2?", "human_ref_A": "4", "human_ref_B": "4", "labels": 1}, "are the same"),
        ({"history": "2+2?", "human_ref_A": "4", "human_ref_B": "5", "labels": "A"}, "'labels' is another text"),
        ({"history": " ", "human_ref_A": "4", "human_ref_B": "5", "labels": 0}, "'history' is empty"),
    ],
    "ultrafeedback": [
        ({"instruction": "Add", "models": [], "completions": [{"response": "4"}]}, "fewer than two completions"),
        ({"instruction": "Add", "models": [], "completions": ["4"]}, "a completion is text, not an object"),
        ({"instruction": " ", "models": [], "completions": []}, "'instruction' is empty"),
    ],
    "camel": [
        ({"role_1": "a", "message_1": "2+2?", "message_2": ""}, "no message of the assistant"),
        ({"role_1": "a", "message_1": {"content": "2+2?"}, "message_2": "4"}, "no role_type of user or assistant"),
    ],
    "wikihow": [({"headline": "Add.", "title": "How to Add", "text": "\n"}, "'text' is empty")],
}


def rows(cases: dict[str, list[Any]]) -> list[Any]:
    return [pytest.param(name, case, id=f"{name}-{i}") for name, many in cases.items() for i, case in enumerate(many)]


@pytest.mark.parametrize("name", FORMATS.names())
def test_a_format_keeps_its_contract(name: str) -> None:
    shape = FORMATS.build(name)
    assert isinstance(shape, Format)
    assert not shape.matches(frozenset({"colour", "size"}))
    assert type(shape).__doc__
    assert name in GOOD and name in BAD and f"`{name}`" in formats_table()


@pytest.mark.parametrize(("name", "row"), rows(GOOD))
def test_a_good_row_is_recognised_and_read(name: str, row: dict[str, Any]) -> None:
    found = recognise(row)
    assert (found is not None and found[0] == name) != (name in BY_NAME)
    example = FORMATS.build(name).read(row)
    assert isinstance(example, Example)
    counts = {"ranked": len(row.get("responses", ())), "preference": 2, "shp": 2, "ultrafeedback": 2, "task": 0}
    assert len(example.responses) == counts.get(name, 1)
    if name != "text":
        assert example.prompt[-1].role == "user" and example.prompt[-1].text in (
            *("2+2?", "2+2 is", "Add", "Add\n2+2", "How to Add"),
            "2+2?\nYour code should pass this test:\nassert 4",
        )
        assert all(response.turns[-1].role == "assistant" for response in example.responses)
        said = {"mbpp": "```python\n4\n```", "tested": "```python\n4\n```", "human_eval": "```python\n2+2?4\n```"}
        assert name in ("task", "stepwise") or example.responses[0].turns[-1].text == said.get(name, "4")


@pytest.mark.parametrize(("name", "case"), rows(BAD))
def test_a_bad_row_is_dropped_with_its_reason_and_line(
    name: str, case: tuple[dict[str, Any], str], tmp_path: Path
) -> None:
    row, reason = case
    with pytest.raises(BadRow, match=reason):
        FORMATS.build(name).read(row)
    path = tmp_path / "rows.jsonl"
    good = next(one for one in GOOD[name] if recognise(one) == recognise(row))
    path.write_text(json.dumps(good) + "\n\n" + json.dumps(row) + "\n" + json.dumps(good) + "\n")
    ledger = Ledger()
    examples = list(read([Entry(path=str(path), format=name if name in BY_NAME else None)], ledger))
    assert [example.source.row for example in examples if example.source] == [1, 4]
    (dropped,) = ledger.reasons.values()
    assert dropped.count == 1 and dropped.rows == [f"{path}:3"]


def test_each_shape_is_read_to_the_turn() -> None:
    def example(row: dict[str, Any]) -> Example:
        found = recognise(row)
        assert found is not None
        return found[1].read(row)

    alpaca = example(GOOD["alpaca"][1])
    assert [(turn.role, turn.text) for turn in alpaca.prompt] == [
        ("system", "Sum"),
        ("user", "Hi"),
        ("assistant", "Hello"),
        ("user", "Add\n2+2"),
    ]
    for row in GOOD["preference"]:
        pair = example(row)
        assert [response.reward for response in pair.responses] == [1.0, 0.0]
        assert [response.turns[0].text for response in pair.responses] == ["4", "5"]
    assert example({"prompt": "2+2?", "completion": "4", "label": 0}).responses[0].reward == 0.0
    assert example(GOOD["preference"][-1]).meta == {"margin": 2.0}
    asked = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: 2+2?\n\nAssistant:"
    turns = example({"prompt": asked, "chosen": "4", "rejected": "5"}).prompt
    assert [(turn.role, turn.text) for turn in turns] == [("user", "Hi"), ("assistant", "Hello"), ("user", "2+2?")]
    assert example(GOOD["stepwise"][0]).responses[0].step_rewards == (1.0, -1.0)
    assert example(GOOD["task"][1]).answer == "4" == example(GOOD["task"][1]).answer
    assert example(GOOD["prompt_completion"][4]).answer == "four"
    unfinished = example({"messages": [USER, REPLY, USER]})
    assert not unfinished.responses and len(unfinished.prompt) == 3


def test_ranked_responses_keep_their_scores_and_ranks_become_scores() -> None:
    read_ranked = FORMATS.build("ranked").read
    scored = read_ranked(GOOD["ranked"][0])
    assert [response.reward for response in scored.responses] == [0.9, 0.1, 0.1]
    ranked = read_ranked({"prompt": "2+2?", "responses": ["a", "b", "c", "d"], "ranks": [2, 1, 3, 3]})
    assert [response.reward for response in ranked.responses] == [0.5, 1.0, 0.0, 0.0]
    assert [response.turns[0].text for response in ranked.responses] == ["a", "b", "c", "d"]


@pytest.mark.parametrize("row", [{"prompt": "2+2?", "rejected": "5"}, {"messages": [USER], "rejected": REPLY}])
def test_half_a_pair_is_named(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(LuthierError, match=r"(?s)the columns are .*, rejected; .*lacks 'chosen'.*chosen: YOUR_COLUMN"):
        list(read([str(path)]))


def test_steps_are_joined_by_a_newline_unless_they_bring_their_own() -> None:
    def text(steps: list[str]) -> str:
        row = {"prompt": "2+2?", "completions": steps, "labels": [1] * len(steps)}
        return FORMATS.build("stepwise").read(row).responses[0].turns[0].text

    assert text(["two", "4"]) == "two\n4"
    assert text(["two\n\n", "4", "\n\nend"]) == "two\n\n4\n\nend"


def test_tools_in_their_dialects() -> None:
    wanted = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
    openai = FORMATS.build("messages").read(
        {
            "messages": [
                USER,
                {
                    "role": "assistant",
                    "content": None,
                    "reasoning_content": "hm",
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
                    ],
                },
                {"role": "tool", "content": "4", "tool_call_id": "c1", "name": "add"},
                {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "text", "text": "4"}]},
            ]
        }
    )
    _, calling, result = openai.prompt
    assert calling.calls == ({**wanted, "id": "c1"},) and calling.extra == {"reasoning_content": "hm"}
    assert result.extra == {"tool_call_id": "c1", "name": "add"}
    assert openai.responses[0].turns[0].text == "It is 4"
    sharegpt = FORMATS.build("sharegpt").read(
        {
            "conversations": [
                {"from": "human", "value": "2+2?"},
                {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2}}'},
                {"from": "observation", "value": "4"},
                {"from": "gpt", "value": "4"},
            ],
            "tools": '[{"name": "add"}]',
            "system": "Sum",
        }
    )
    assert [turn.role for turn in sharegpt.prompt] == ["system", "user", "assistant", "tool"]
    assert sharegpt.prompt[2].calls == (wanted,)
    assert sharegpt.tools == ({"type": "function", "function": {"name": "add"}},)
