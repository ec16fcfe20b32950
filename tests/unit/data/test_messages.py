"""Messages as data have them and as templates take them: tool calls, reasoning by any name, weights, unknown keys."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import chat_templates as ct
import pytest
from rich.console import Console
from test_template import trained

from luthier.data import Template, read
from luthier.data.ledger import Ledger
from luthier.data.reading.formats.shape import BadRow
from luthier.data.reading.formats.turns import turn, turns
from luthier.recipe import Source
from luthier.types import Example, Response, Turn

WRITTEN = '{"city":  "Oslo, \\u00d8st"}'
GIVEN = {"city": "Oslo, Øst"}
DUMPED = '{"city": "Oslo, Øst"}'


def template(call: str, content: str = "{{ m.content or '' }}") -> str:
    """One that renders each call `c` as this."""
    return f"""
{{%- for m in messages -%}}
<|im_start|>{{{{ m.role }}}}
{content}{{% for c in m.tool_calls or [] %}}{call}{{% endfor %}}<|im_end|>
{{% endfor -%}}
{{%- if add_generation_prompt -%}}
<|im_start|>assistant
{{% endif -%}}
"""


JOINED = template("{{ c.function.name + ' ' + c.function.arguments }}")
SHOWN = template("{{ c.function.name }} {{ c.function.arguments }}")
DUMPS = template("{{ c.function.name }} {{ c.function.arguments | tojson }}")
EITHER = template(
    "{{ c.function.name }} {{ c.function.arguments if c.function.arguments is string "
    "else c.function.arguments | tojson }}"
)
LISTED = template("{{ c.function.name }}{% for k, v in c.function.arguments.items() %} {{ k }}: {{ v }}{% endfor %}")


def calling(arguments: Any) -> Example:
    call = {"id": "a1b2c3d4e", "type": "function", "function": {"name": "look_up", "arguments": arguments}}
    spoken = turns([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a1b2c3d4e", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ])  # fmt: skip
    return Example(spoken[:-1], (Response(spoken[-1:]),))


@pytest.mark.parametrize(
    ("source", "of_text", "of_object"),
    [
        (JOINED, f"look_up {WRITTEN}", f"look_up {DUMPED}"),
        (SHOWN, f"look_up {WRITTEN}", f"look_up {DUMPED}"),  # an object would come out as Python writes it
        (DUMPS, f"look_up {DUMPED}", f"look_up {DUMPED}"),  # text would come out as JSON within JSON
        (EITHER, f"look_up {WRITTEN}", f"look_up {DUMPED}"),
        (LISTED, "look_up city: Oslo, Øst", "look_up city: Oslo, Øst"),
    ],
)
def test_arguments_come_in_the_form_that_the_template_renders(source: str, of_text: str, of_object: str) -> None:
    tokenizer = ct.tokenizer(source)
    made = Template(tokenizer)
    for arguments, called in ((WRITTEN, of_text), (GIVEN, of_object)):
        example = calling(arguments)
        assert trained(tokenizer, made.encode(example)) == [f"{called}<|im_end|>", "Sunny.<|im_end|>"]
        # and so at serving: a call stands in what is asked with as it trained
        assert f"{called}<|im_end|>" in tokenizer.decode(made.prompt_ids(example.prompt))
        plain = tokenizer.apply_chat_template(made.messages(example.prompt), add_generation_prompt=True)
        assert plain["input_ids"] == made.prompt_ids(example.prompt)


def test_arguments_are_what_they_say_whatever_their_form() -> None:
    as_text, as_object = calling(WRITTEN).prompt[1], calling(GIVEN).prompt[1]
    assert as_text == as_object
    assert json.dumps(as_text.calls) == json.dumps(as_object.calls)


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"loss": False}, 0.0),
        ({"loss": True}, 1.0),
        ({"train": False}, 0.0),
        ({"train": "false"}, 0.0),
        ({"train": 1}, 1.0),
        ({"weight": 0}, 0.0),
        ({"loss_weight": 0.5}, 0.5),
        ({"loss": 0.5}, 0.5),
        ({"loss": False, "weight": 0, "train": None}, 0.0),
        ({"loss": None}, None),
        ({}, None),
    ],
)
def test_each_spelling_of_a_weight(keys: dict[str, Any], weight: float | None) -> None:
    made = turn({"role": "assistant", "content": "a", **keys})
    assert made.weight == weight and not made.unread


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"loss": False, "weight": 1}, "'weight' and 'loss' contradict each other"),
        ({"loss": -1}, "'loss' is not true, false or a finite number of at least 0"),
        ({"train": float("nan")}, "'train' is not true, false or a finite number"),
        ({"train": "perhaps"}, "'train' is another text, not true or false"),
        ({"weight": True}, "'weight' is not a finite number"),
        ({"reasoning": ["a"]}, "'reasoning' is a list, not text"),
        ({"reasoning": "a", "thinking": "b"}, "reasoning twice, and not the same: 'thinking' and 'reasoning'"),
    ],
)
def test_keys_that_say_nothing_sensible(keys: dict[str, Any], why: str) -> None:
    with pytest.raises(BadRow, match=why):
        turn({"role": "assistant", "content": "a", **keys})


@pytest.mark.parametrize("name", ["reasoning_content", "thinking", "reasoning"])
@pytest.mark.parametrize("reads", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_reaches_the_template_by_the_name_it_reads(name: str, reads: str) -> None:
    source = template("", "{% if m." + reads + " %}({{ m." + reads + " }}) {% endif %}{{ m.content }}")
    tokenizer = ct.tokenizer(source)
    spoken = turns([{"role": "user", "content": "q"}, {"role": "assistant", "content": "A.", name: "Long."}])
    encoded = Template(tokenizer).encode(Example(spoken[:1], (Response(spoken[1:]),)))
    assert trained(tokenizer, encoded) == ["(Long.) A.<|im_end|>"]


def test_a_variable_of_the_template_is_no_key_of_a_message() -> None:
    source = ct.CHATML + "{% if enable_thinking or thinking %}{% endif %}"
    message = Template(ct.tokenizer(source)).messages([Turn("assistant", "a", extra={"reasoning_content": "b"})])[0]
    assert message["reasoning_content"] == "b" and "thinking" not in message


@pytest.mark.parametrize("shape", ["messages", "conversations", "chosen"])
def test_unknown_keys_are_counted_in_the_ledger(shape: str, tmp_path: Path) -> None:
    said = ("from", "value", "human", "gpt") if shape == "conversations" else ("role", "content", "user", "assistant")
    role, content, user, assistant = said
    row: dict[str, Any] = {
        shape: [
            {role: user, content: "q?", "id": 7, "empty": None, "none": ""},
            {role: assistant, content: "a", "id": 8, "train_detail": [{"begin": 0}], "weight": 1},
        ]
    }
    if shape == "chosen":
        row["rejected"] = [row[shape][0], {role: assistant, content: "b"}]
    path = tmp_path / "rows.jsonl"
    path.write_text((json.dumps(row) + "\n") * 2)
    ledger = Ledger()
    assert len(list(read(str(path), ledger))) == 2
    assert ledger.unread == {"id": 4, "train_detail": 2}
    assert Ledger.from_json(ledger.to_json()).unread == ledger.unread


def test_a_pair_is_one_whatever_else_its_messages_hold(tmp_path: Path) -> None:
    asked = {"role": "user", "content": "q?"}
    better, worse = ([{**asked, "id": i}, {"role": "assistant", "content": t}] for i, t in enumerate("ab"))
    worse[0] = asked
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"chosen": better, "rejected": worse}) + "\n")
    ledger = Ledger()
    (example,) = read(str(path), ledger)
    assert len(example.responses) == 2 and not ledger.rows_dropped


def test_reasoning_is_not_lost_without_a_template(tmp_path: Path) -> None:
    """A plain text has no place for it beside the text itself."""
    path = tmp_path / "rows.jsonl"
    said = {"role": "assistant", "content": "a", "thinking": "Long."}
    path.write_text(json.dumps({"prompt": "q", "completion": said}) + "\n")
    ledger = Ledger()
    assert not list(read([Source(path=str(path), chat=False)], ledger))
    assert next(iter(ledger.reasons)) == "a message's reasoning cannot be read with `chat: false`"


def test_what_nobody_reads_and_what_is_shortened_stands_in_the_ledger() -> None:
    ledger = Ledger(shortened=2, unread={"id": 3}, remarks=["the template is odd"])
    console = Console(file=io.StringIO(), width=200)
    console.print(ledger.table())
    shown = console.file.getvalue()
    assert "shortened by the chat template: 2" in shown
    assert "keys of messages that nothing reads: 'id' (3)" in shown and "the template is odd" in shown
    assert Ledger.from_json(ledger.to_json()) == ledger
