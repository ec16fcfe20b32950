"""In which form a model's template writes tool calls, how they are read again, and how they can be made certain.

The template tells it itself, once: it renders a call, and what stands around the name is the form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from luthier.data import Template
from luthier.data.encode.thinking import opening
from luthier.engines.grammar import JSON
from luthier.errors import LuthierError
from luthier.serve.faults import ApiFault
from luthier.serve.words.calls import Bare, Described, Listed, Parser, Plain, Tagged
from luthier.serve.words.schemas import beneath, parameters
from luthier.serve.words.thinking import Thinking
from luthier.types import Grammar, Turn

Form = Literal["tagged", "listed", "named", "bare", "described"]
NAME, KEY = "Zq7name7qZ", "Zq7key7qZ"
"""Stand for a tool and its argument in a trial rendering."""
TRIAL = {"id": "a12345678", "type": "function", "function": {"name": NAME, "arguments": {KEY: "b"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": "c",
        "parameters": {"type": "object", "properties": {KEY: {"type": "string"}}},
    },
}
Tools = tuple[Mapping[str, Any], ...]


def form_of(template: Template) -> Form | None:
    """How the template writes a call; None where it has no place for tools, or writes calls as nothing here reads."""
    result = Turn("tool", "d", extra={"tool_call_id": "a12345678", "name": NAME})
    turns = [Turn("user", "a"), Turn("assistant", "", calls=(TRIAL,)), result]
    try:
        if NAME not in template.prompt_text(turns[:1], (TOOL,)):
            return None
        if getattr(template.tokenizer, "response_template", None):  # transformers', from 5.20 on
            return "described"
        text = template.prompt_text(turns)
    except LuthierError:
        return None
    before, named, after = text.partition(NAME)
    if not named or KEY not in after:
        return None
    if before.rstrip(' {"name:\n').endswith(Tagged.OPEN) and '"arguments"' in after:
        return "tagged"
    if Listed.OPEN in before:
        return "named" if before.rstrip().endswith(Listed.OPEN) else "listed"
    return "bare" if before.endswith('{"name": "') and '"parameters"' in after.partition(KEY)[0] else None


def parser(form: Form | None, template: Template, tools: Tools, asked: str) -> Parser:
    """What reads the answers to a request with these tools; `asked` is the rendered prompt."""
    names = {tool["function"]["name"] for tool in tools}
    if form == "described":
        own: Any = template.tokenizer
        return Described(own.get_response_parser(prefix=asked, tools=[dict(tool) for tool in tools] or None), names)
    found: Parser = Plain()
    if tools and form is not None:
        found = Tagged(names) if form == "tagged" else Bare(names) if form == "bare" else Listed(names)
    thinks = opening(asked)
    return found if thinks is None else Thinking(thinks.close, found)


def chosen(choice: Any, tools: Tools) -> Tools | None:
    """The tools of which one must be called; () where none is to be, None where the model decides.

    Raises ApiFault for a choice that is none of OpenAI's, or names a tool that was not given.
    """
    if choice is None or choice == "auto":
        return None
    if choice == "none":
        return ()
    if choice == "required" and tools:
        return tools
    named = choice.get("function", {}) if isinstance(choice, dict) and choice.get("type") == "function" else {}
    name = named.get("name") if isinstance(named, dict) else None
    found = tuple(tool for tool in tools if tool["function"]["name"] == name)
    if not found:
        known = ", ".join(tool["function"]["name"] for tool in tools) or "none were given"
        raise ApiFault(
            400, f"tool_choice must be auto, none, required or one of the tools ({known})", param="tool_choice"
        )
    return found


def grammar(form: Form | None, template: Template, tools: Sequence[Mapping[str, Any]], parallel: bool) -> Grammar:
    """An answer that is a call of one of the tools, or several. Raises ApiFault where the form cannot be held to."""
    rules = [f"t{number}: %json {_schema(form, tool['function'])}" for number, tool in enumerate(tools)]
    one = " | ".join(f"t{number}" for number in range(len(tools)))
    if form == "tagged":
        more = ' ("\\n" call)*' if parallel else ""
        rules = [f"start: call{more}", f'call: "{Tagged.OPEN}\\n" body "\\n{Tagged.CLOSE}"', f"body: {one}", *rules]
    elif form == "listed":
        more = ' (", " body)*' if parallel else ""
        place = template.tokenizer.convert_tokens_to_ids(Listed.OPEN)
        special = Listed.OPEN in template.tokenizer.get_vocab()
        opened = f"<[{place}]>" if special else json.dumps(Listed.OPEN)
        rules = [f'start: {opened} "[" body{more} "]"', f"body: {one}", *rules]
    elif form == "bare":
        rules = [f"start: {one}", *rules]
    else:
        raise ApiFault(
            400,
            "tool_choice: the form in which this model writes calls cannot be held to; leave it at auto",
            param="tool_choice",
        )
    functions = [tool["function"] for tool in tools]
    parts = [(f"parameters of the tool {one['name']!r}", json.dumps(parameters(one))) for one in functions]
    return Grammar("lark", "\n".join(rules), tuple(parts))


def _schema(form: Form | None, function: Mapping[str, Any]) -> str:
    key = "parameters" if form == "bare" else "arguments"
    return json.dumps(
        {
            "x-guidance": JSON,
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: beneath(parameters(function), key)},
            "required": ["name", key],
            "additionalProperties": False,
        }
    )
