"""Through the whole server: answers held to a schema, tools that must be called, biases, likeliest tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from serving import Served, byte_model, serving

pytest.importorskip("llguidance")
ASKED: Any = [{"role": "user", "content": "hello"}]
SCHEMA: Any = {
    "type": "object",
    "properties": {"name": {"enum": ["ann", "bob"]}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
LOOKED: Any = {"name": "look", "arguments": "{}"}
TOOLS: Any = [
    {"type": "function", "function": {"name": "look", "parameters": SCHEMA}},
    {"type": "function", "function": {"name": "wait", "parameters": {"type": "object", "additionalProperties": False}}},
]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("form") / "base"
    byte_model(folder, context=2048)
    with serving([str(folder)]) as made:
        yield made


@pytest.mark.parametrize("seed", range(3))
def test_a_schema(served: Served, seed: int) -> None:
    form: Any = {"type": "json_schema", "json_schema": {"name": "who", "schema": SCHEMA, "strict": True}}
    made = served.client().chat.completions.create(
        model="base", messages=ASKED, max_tokens=200, seed=seed, response_format=form
    )
    jsonschema.validate(json.loads(made.choices[0].message.content or ""), SCHEMA)
    assert made.choices[0].finish_reason == "stop"


def test_a_regular_expression_and_a_grammar(served: Served) -> None:
    for more, wanted in (({"guided_regex": "[ab]{3}c"}, "abc"), ({"grammar": 'start: "yes" | "no"'}, "yesno")):
        made = served.post("/v1/completions", {"prompt": "a", "max_tokens": 20, "seed": 1, **more}).json()["choices"][0]
        assert set(made["text"]) <= set(wanted) and made["finish_reason"] == "stop"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
def test_a_tool_that_must_be_called(served: Served, streamed: bool, choice: Any) -> None:
    client = served.client()
    made: Any = client.chat.completions.create(
        model="base",
        messages=ASKED,
        tools=TOOLS,
        tool_choice=choice,
        max_tokens=300,
        seed=4,
        parallel_tool_calls=False,
        stream=streamed,
    )
    if streamed:
        parts = [chunk.choices[0] for chunk in made]
        calls = [call for part in parts for call in part.delta.tool_calls or []]
        finish, text = parts[-1].finish_reason, "".join(part.delta.content or "" for part in parts)
    else:
        calls, text = made.choices[0].message.tool_calls, made.choices[0].message.content or ""
        finish = made.choices[0].finish_reason
    assert (len(calls), finish, text) == (1, "tool_calls", "")
    arguments = json.loads(calls[0].function.arguments)
    if calls[0].function.name == "look":
        jsonschema.validate(arguments, SCHEMA)
    assert calls[0].function.name == "look" or (choice == "required" and arguments == {})
    # what it called, and what came of it, is said back
    again = client.chat.completions.create(
        model="base",
        messages=[
            *ASKED,
            {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function", "function": LOOKED}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "done"},
        ],
        tools=TOOLS,
        max_tokens=4,
    )
    assert again.choices[0].message.content is not None


def test_biases_and_the_likeliest_tokens(served: Served) -> None:
    client = served.client()
    made = client.chat.completions.create(
        model="base", messages=ASKED, max_tokens=5, temperature=1, logit_bias={"68": 100}, logprobs=True, top_logprobs=4
    )
    text = made.choices[0].message.content
    assert text and len(set(text)) == 1 and len(text) == 5
    assert made.choices[0].logprobs and made.choices[0].logprobs.content
    for one in made.choices[0].logprobs.content:
        numbers = [each.logprob for each in one.top_logprobs]
        assert len(numbers) == 4 and numbers == sorted(numbers, reverse=True) and one.logprob <= numbers[0] + 1e-6
    answer = served.post("/v1/completions", {"prompt": "a", "logit_bias": {"9999": 1}})
    assert answer.status_code == 400 and "9999" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no such"}}}},
        {"guided_regex": "("},
        {"guided_regex": "((a{1000}){1000}){1000}"},
        {"grammar": "start: nowhere"},
        {"grammar": "start: " + "(" * 5000},
        {"guided_json": {"allOf": [{"$ref": "#"}]}},
        {"guided_json": {"enum": ["x" * 100] * 3000}},
    ],
    ids=["type", "regex", "large", "lark", "deep", "endless", "long"],
)
def test_forms_that_cannot_be_kept_to(served: Served, body: Any) -> None:
    answer = served.post("/v1/chat/completions", {"messages": ASKED, "max_tokens": 8, **body})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert served.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


ADDRESS: Any = {
    "type": "object",
    "properties": {"town": {"enum": ["ulm", "bonn"]}},
    "required": ["town"],
    "additionalProperties": False,
}
TREE: Any = {
    "type": "object",
    "properties": {"name": {"enum": ["a", "b"]}, "under": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
    "required": ["name", "under"],
    "additionalProperties": False,
}


def holding(ref: str, **more: Any) -> Any:
    """Parameters of which one points elsewhere."""
    to = {"type": "object", "properties": {"to": {"$ref": ref}}, "required": ["to"], "additionalProperties": False}
    return {**to, **more}


@pytest.mark.parametrize(
    "parameters",
    [
        holding("#/$defs/Address", **{"$defs": {"Address": ADDRESS}}),
        holding("#/definitions/Address", definitions={"Address": ADDRESS}),
        holding("#/$defs/Outer", **{"$defs": {"Outer": holding("#/$defs/Address"), "Address": ADDRESS}}),
        {"$ref": "#/definitions/Address", "definitions": {"Address": ADDRESS}},
        TREE,
        holding("#/$defs/Tree", **{"$id": "https://example.org/tree", "$defs": {"Tree": ADDRESS}}),
    ],
    ids=["defs", "definitions", "defs of defs", "all of it", "recursion", "id"],
)
def test_parameters_that_point_to_one_another(served: Served, parameters: Any) -> None:
    tools: Any = [{"type": "function", "function": {"name": "send", "parameters": parameters}}]
    for seed in range(2):
        made = served.client().chat.completions.create(
            model="base", messages=ASKED, tools=tools, tool_choice="required", max_tokens=400, seed=seed,
            parallel_tool_calls=False,
        )  # fmt: skip
        if made.choices[0].finish_reason != "length":
            calls: Any = made.choices[0].message.tool_calls
            jsonschema.validate(json.loads(calls[0].function.arguments), parameters)


@pytest.mark.parametrize("chosen", ["required", {"type": "function", "function": {"name": "send"}}])
def test_of_parameters_that_cannot_be_held_to_the_tool_is_told(served: Served, chosen: Any) -> None:
    tools: Any = [*TOOLS, {"type": "function", "function": {"name": "send", "parameters": holding("#/$defs/Nowhere")}}]
    body = {"messages": ASKED, "tools": tools, "tool_choice": chosen, "max_tokens": 8}
    answer = served.post("/v1/chat/completions", body)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 400 and "tool 'send'" in message and "'/$defs/Nowhere'" in message
    assert not any(word in message for word in ("Lark", "properties", "'look'"))
