"""What is read out of requests and answers, without a server: tool calls, tokens, settings, bodies."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from serving import HERMES
from tiny_tokenizers import CHATML, letters

from luthier.data import Template
from luthier.errors import LuthierError
from luthier.serve.faults import ApiFault
from luthier.serve.settings import Settings, parse, read_keys
from luthier.serve.words import schemas, tools
from luthier.serve.words.answers import Answer, Logprobs
from luthier.serve.words.bodies import Chat, Completions
from luthier.serve.words.bodies import parse as read
from luthier.serve.words.calls import Bare, Call, Described, Listed, Parser, Plain, Reasoning, Tagged
from luthier.serve.words.tokens import LEAST, Told, for_completions, text_and_bytes
from luthier.types import Completion, Piece

NAMES = {"add", "look"}
ADD = Call("add", '{"a": 1, "b": "<tool_call>"}')
LOOK = Call("look", "{}")
ADDED = '{"name": "add", "arguments": {"a": 1, "b": "<tool_call>"}}'
CLOSED = Call("add", json.dumps({"a": 'as "this\\"</tool_call>" \\', "b": "</tool_call>"}))
SHUT = f'{{"name": "add", "arguments": {CLOSED.arguments}}}'
MARKS = Call("add", '{"a": "[TOOL_CALLS]look[ARGS]"}')
MARKED = f'{{"name": "add", "arguments": {MARKS.arguments}}}'
SPOKEN: list[tuple[type, str, str, list[Call]]] = [
    (Plain, "no call <tool_call>", "no call <tool_call>", []),
    (Tagged, "Let me see.\n<tool_call>\n{\"name\": \"look\", \"arguments\": {}}\n</tool_call>", "Let me see.", [LOOK]),
    (Tagged, f'<tool_call>{ADDED}</tool_call>\n<tool_call>\n{{"name": "look"}}</tool_call>\n', "", [ADD, LOOK]),
    (Tagged, 'a <tool_call>{"name": "look", "arguments": {}}</tool_call> b', "a b", [LOOK]),
    (Tagged, "a  <tool_call>\n{no json}</tool_call> b", "a  <tool_call>\n{no json}</tool_call> b", []),
    (Tagged, 'x <tool_call>{"name": "what"}</tool_call>', 'x <tool_call>{"name": "what"}</tool_call>', []),
    (Tagged, 'cut <tool_call>{"name": "look", "argum', 'cut <tool_call>{"name": "look", "argum', []),
    (Tagged, '<tool_call>{"name": "look", "arguments": {}}', "", [LOOK]),
    (Tagged, f'<tool_call>{SHUT}</tool_call>\n<tool_call>{ADDED}</tool_call>', "", [CLOSED, ADD]),
    (Tagged, f'<tool_call>{SHUT}', "", [CLOSED]),
    (Tagged, f'<tool_call>"w</tool_call> <tool_call>{SHUT}</tool_call> b', '<tool_call>"w</tool_call> b', [CLOSED]),
    (Tagged, '<tool_call>"what</tool_call> it "says"', '<tool_call>"what</tool_call> it "says"', []),
    (Tagged, '<tool_call>"a</tool_call> "b</tool_call>', '<tool_call>"a</tool_call> "b</tool_call>', []),
    (Listed, f"[TOOL_CALLS][{MARKED}]", "", [MARKS]),
    (Listed, '[TOOL_CALLS]add[ARGS]{"a": "[TOOL_CALLS]look[ARGS]"} [TOOL_CALLS]look[ARGS]{}', "", [MARKS, LOOK]),
    (Listed, "[TOOL_CALLS]look[ARGS]{} and", "[TOOL_CALLS]look[ARGS]{} and", []),
    (Tagged, "less < than <tool and \n\n", "less < than <tool and \n\n", []),
    (Listed, f'Well. [TOOL_CALLS][{{"name": "look", "arguments": {{}}}}, {ADDED}]', "Well.", [LOOK, ADD]),
    (Listed, '[TOOL_CALLS]look[ARGS]{}[TOOL_CALLS]add[ARGS]{"a": 1, "b": "<tool_call>"}', "", [LOOK, ADD]),
    (Listed, "[TOOL_CALLS] oh no", "[TOOL_CALLS] oh no", []),
    (Listed, "a list [1, 2] and [TOOL", "a list [1, 2] and [TOOL", []),
    (Bare, '{"name": "look", "parameters": {}}', "", [LOOK]),
    (Bare, f'<|python_tag|>{{"name": "look", "parameters": {{}}}}; {ADDED}', "", [LOOK, ADD]),
    (Bare, ' {"some": "json"} and text', ' {"some": "json"} and text', []),
    (Bare, 'say {"name": "look", "parameters": {}}', 'say {"name": "look", "parameters": {}}', []),
    (Bare, '{"name": "look", "param', '{"name": "look", "param', []),
]  # fmt: skip


def heard(parser: Parser, pieces: list[str]) -> tuple[str, list[Call]]:
    said = [one for piece in pieces for one in parser.feed(piece)] + parser.end()
    return "".join(one for one in said if isinstance(one, str)), [one for one in said if isinstance(one, Call)]


@pytest.mark.parametrize("kind,text,words,calls", SPOKEN, ids=range(len(SPOKEN)))
def test_calls_are_found_however_the_text_is_cut(kind: type, text: str, words: str, calls: list[Call]) -> None:
    def made() -> Parser:
        return Plain() if kind is Plain else kind(NAMES)

    assert heard(made(), [text]) == (words, calls)
    assert heard(made(), list(text)) == (words, calls)
    for cut in range(1, len(text)):
        assert heard(made(), [text[:cut], text[cut:]]) == (words, calls), text[:cut]


def test_a_thinking_block_that_the_prompt_opened() -> None:
    made = template("tagged")
    for text, thought, words, calls in (
        ("hm </thin or\nso\n</think>\n\nYes. ", "hm </thin or\nso", "Yes. ", []),
        ('a</think><tool_call>{"name": "look", "arguments": {}}</tool_call>', "a", "", [LOOK]),
        ("cut in the mid", "cut in the mid", "", []),
        ("</think>x", "", "x", []),
    ):
        for pieces in ([text], list(text)):
            parser = tools.parser("tagged", made, (OTHER,), "<|im_start|>assistant\n<think>\n")
            said = [one for piece in pieces for one in parser.feed(piece)] + parser.end()
            assert "".join(one.text for one in said if isinstance(one, Reasoning)) == thought
            assert "".join(one for one in said if isinstance(one, str)) == words
            assert [one for one in said if isinstance(one, Call)] == calls


def test_a_tokenizers_own_response_template() -> None:
    from transformers.utils.chat_parsing import ResponseParser

    template = {
        "start_anchor": "<|im_start|>assistant\n",
        "fields": {
            "reasoning_content": {"open": "<think>", "close": "</think>"},
            "tool_calls": {"open": "<tool_call>", "close": "</tool_call>", "content": "json", "repeats": True},
            "content": {},
        },
    }
    text = '<think>hm</think>So: <tool_call>{"name": "look", "arguments": {}}</tool_call>'
    for pieces in ([text], list(text)):
        said = Described(ResponseParser(template, prefix=""), NAMES)
        found = [one for piece in pieces for one in said.feed(piece)] + said.end()
        assert "".join(one for one in found if isinstance(one, str)).strip() == "So:"
        assert [one for one in found if isinstance(one, Call)] == [LOOK]
        assert "".join(getattr(one, "text", "") for one in found) == "hm"
    broken = Described(ResponseParser(template, prefix=""), NAMES)
    assert "{no json" in heard(broken, ["a <tool_call>{no json</tool_call> b"])[0]


# what templates write
LLAMA = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|s|>{{ m.role }}\n"
    "{% if m.tool_calls %}{\"name\": \"{{ m.tool_calls[0].function.name }}\", \"parameters\": "
    "{{ m.tool_calls[0].function.arguments | tojson }}}{% else %}{{ m.content }}{% endif %}<|e|>{% endfor %}"
    "{% if add_generation_prompt %}<|s|>assistant\n{% endif %}"
)  # fmt: skip
MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}{% endif %}{% for m in messages %}<|s|>{% if m.tool_calls %}"
    "[TOOL_CALLS][{% for c in m.tool_calls %}{{ c.function | tojson }}{% endfor %}]{% else %}{{ m.content }}{% endif %}"
    "<|e|>{% endfor %}{% if add_generation_prompt %}<|s|>{% endif %}"
)
FORMS = {"tagged": HERMES, "bare": LLAMA, "listed": MISTRAL, None: CHATML}
TOOL = {
    "type": "function",
    "function": {
        "name": "add",
        "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
    },
}
OTHER = {"type": "function", "function": {"name": "look", "description": "looks"}}
WRITTEN = {
    "tagged": '<tool_call>\n{"name": "add", "arguments": {"a": 5}}\n</tool_call>',
    "bare": '{"name": "add", "parameters": {"a": 5}}',
    "listed": '[TOOL_CALLS][{"name": "add", "arguments": {"a": 5}}]',
}


def template(form: str | None) -> Template:
    special = ("<|s|>", "<|e|>", "<|im_start|>", "<|im_end|>", "[TOOL_CALLS]")
    return Template(letters(*special, eos_token="<|e|>", chat_template=FORMS[form]))


@pytest.mark.parametrize("form", FORMS)
def test_a_template_tells_its_form(form: str | None) -> None:
    assert tools.form_of(template(form)) == form


@pytest.mark.parametrize("form", WRITTEN)
def test_a_call_that_must_come_is_held_to_a_grammar(form: Any) -> None:
    llguidance = pytest.importorskip("llguidance")
    made = template(form)
    grammar = tools.grammar(form, made, [TOOL, OTHER], parallel=True)
    text = llguidance.LLMatcher.grammar_from_lark(grammar.text)
    from llguidance.hf import from_tokenizer

    known = from_tokenizer(made.tokenizer)
    assert llguidance.LLMatcher.validate_grammar(text, known) == ""
    for words, holds in ((WRITTEN[form], True), (WRITTEN[form].replace("5", '"x"'), False), ("hello", False)):
        matcher, ids = llguidance.LLMatcher(known, text), made.ids_of(words)
        assert (matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()) == holds, words
    parser = tools.parser(form, made, (TOOL, OTHER), "")
    assert heard(parser, [WRITTEN[form]]) == ("", [Call("add", '{"a": 5}')])


def test_which_tool_is_chosen() -> None:
    given = (TOOL, OTHER)
    assert tools.chosen(None, given) is None and tools.chosen("auto", given) is None
    assert tools.chosen("none", given) == () and tools.chosen("required", given) == given
    assert tools.chosen({"type": "function", "function": {"name": "look"}}, given) == (OTHER,)
    for wrong in ("always", {"type": "function"}, {"type": "function", "function": {"name": "no"}}, 5):
        with pytest.raises(ApiFault, match="tool_choice must be"):
            tools.chosen(wrong, given)


# what engines say
def pieces(texts: list[str], tokens: list[int], finish: Any) -> list[Piece]:
    done = Completion(tuple(tokens), "".join(texts), finish, tuple(tokens), (0.0,) * len(tokens))
    made = [Piece(text, token, -1.0) for text, token in zip(texts, tokens, strict=True)]
    return [*made[:-1], Piece(texts[-1], tokens[-1], -1.0, completion=done)]


def test_special_tokens_mark_calls_though_they_are_no_text() -> None:
    made = template("listed")
    mark = made.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]")
    said = '[{"name": "look", "arguments": {}}]'
    answer = Answer(
        (0, 0),
        made.tokenizer,
        tools.parser("listed", made, (OTHER,), ""),
        logprobs=Logprobs(made.tokenizer, asked=False, stops=False),
    )
    for piece in pieces(["", *said], [mark, *made.ids_of(said)], "stop"):
        answer.add(piece)
    part = answer.take()
    assert (part.calls, part.text, part.finish, part.tokens) == ([LOOK], "", "tool_calls", [])


def test_tokens_as_bytes() -> None:
    tokenizer = letters("<s>", "</s>")
    ids = tokenizer("aß")["input_ids"]
    assert [text_and_bytes(tokenizer, token)[1] for token in ids] == [b"a", b"\xc3", b"\x9f"]
    assert text_and_bytes(tokenizer, ids[1])[0] == "bytes:\\xc3"
    told = [Told(ids[0], None), Told(ids[1], float("-inf"), ((ids[2], -0.5), (ids[0], -2.0)))]
    made = for_completions(tokenizer, told, 2, 0)
    assert made["token_logprobs"] == [None, LEAST] and made["top_logprobs"][0] is None
    assert made["top_logprobs"][1] == {"bytes:\\x9f": -0.5, "a": -2.0, "bytes:\\xc3": LEAST}


# what clients send
def test_bodies_that_are_none() -> None:
    asked = '"messages": [{"role": "user", "content": "a"}]'
    for raw, message in (
        (b"", "no JSON"),
        (b"[]", "no object"),
        (b"{" + asked.encode() + b', "temperature": NaN}', "NaN is no number"),
        (b"{" + asked.encode() + b', "temperature": 1e999}', "temperature"),
        (b'{"messages": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "100 levels"),
        (b'{"messages": ' + b'[{"a":' * 60 + b"1" + b"}]" * 60 + b"}", "100 levels"),
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "half a character"),
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "no JSON"),
        (b"{" + asked.encode() + b', "seed": ' + b"9" * 5000 + b"}", "no JSON"),
        (b"{" + asked.encode() + b', "n": true}', "n: "),
        (b"{" + asked.encode() + b', "n": 1.5}', "n: "),
    ):
        with pytest.raises(ApiFault, match=message) as fault:
            read(raw, Chat)
        assert fault.value.status == 400
    whole = read(b'{"messages": [{"role": "user", "content": "\\ud83d\\ude00"}], "user": "me", "store": false}', Chat)
    assert whole.messages[0]["content"] == "😀"
    with pytest.raises(ApiFault, match="'tools'"):
        read(b'{"prompt": "a", "tools": []}', Completions)


def test_settings_of_the_command_line() -> None:
    assert parse(["serve.queue=64k", "serve.seconds=1.5", "serve.log_prompts=true"]) == Settings(
        queue=65536, seconds=1.5, log_prompts=True
    )
    for word, message in (
        ("serve.qeue=1", "did you mean serve.queue"),
        ("serve.queue=-1", "greater than 0"),
        ("serve.queue=many", "integer"),
        ("serve.seconds=inf", "finite"),
    ):
        with pytest.raises(LuthierError, match=message):
            parse([word])


def test_the_page_of_the_docs_has_each_setting_with_its_default() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith("| `")]
    told = {}
    for line in lines:
        names, values, *_ = (cell.strip() for cell in line.strip("|").split("|"))
        keys = [name.strip(" `") for name in names.split(",")]
        if len(keys) == len(values.split(", ")):
            told |= dict(zip(keys, values.split(", "), strict=True))
    for field in fields(Settings):
        assert field.name in told, field.name
        assert parse([f"serve.{field.name}={told[field.name].replace(',', '')}"]) == Settings(), field.name


def test_files_of_keys(tmp_path: Any) -> None:
    path = tmp_path / "keys.txt"
    path.write_text("# ours\nfirst-key\n\nadmin second-key\n")
    assert read_keys("third-key", path) == ["third-key", "first-key", "admin second-key"]
    path.write_text("# none\n")
    with pytest.raises(LuthierError, match="holds no key"):
        read_keys(None, path)
    with pytest.raises(LuthierError, match="cannot be read"):
        read_keys(None, tmp_path / "no such")


def test_what_a_tool_must_be_is_json() -> None:
    made = tools.grammar("bare", template("bare"), [TOOL], parallel=False)
    assert json.loads(made.text.partition("%json ")[2])["properties"]["name"] == {"const": "add"}


def test_pointers_of_parameters_are_moved_with_them_and_nothing_else_is() -> None:
    given = {
        "properties": {
            "$ref": {"type": "string"},
            "const": {"$ref": "#/$defs/A"},
            "any": {"anyOf": [{"$ref": "#"}, {"$ref": "#named"}, {"$ref": "https://x.org/y#/$defs/A"}]},
            "said": {"default": {"$ref": "#/$defs/A"}, "enum": [{"$ref": "#"}], "$comment": "#/$defs/A"},
        },
        "$defs": {"A": {"items": {"$ref": "#/properties/a~1b"}}, "B": {"$id": "b", "items": {"$ref": "#/$defs/A"}}},
    }
    assert schemas.beneath(given, "arguments") == {
        "properties": {
            "$ref": {"type": "string"},
            "const": {"$ref": "#/properties/arguments/$defs/A"},
            "any": {
                "anyOf": [
                    {"$ref": "#/properties/arguments"},
                    {"$ref": "#named"},
                    {"$ref": "https://x.org/y#/$defs/A"},
                ]
            },
            "said": given["properties"]["said"],
        },
        "$defs": {
            "A": {"items": {"$ref": "#/properties/arguments/properties/a~1b"}},
            "B": given["$defs"]["B"],
        },
    }
