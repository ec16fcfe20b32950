"""Reasoning models: a generation prompt that opens a thinking block, and markers around a shortened turn."""

from __future__ import annotations

import chat_templates as ct
import numpy as np
import pytest
from test_template import END, Q1, Q2, chat, trained

from luthier.data import Template
from luthier.data.encode.thinking import Opening, opening
from luthier.errors import LuthierError
from luthier.types import Encoded, Example, Response, Turn

ASKED = "<|im_start|>assistant\n<think>\n{% endif -%}\n"
CHATML = ct.CHATML.replace("<|im_start|>assistant\n{% endif -%}\n", ASKED)
# QwQ: whatever was thought is taken out of every turn, the last one too
QWQ = CHATML.replace(
    "{{ m.content }}", "{{ m.content.split('</think>')[-1].lstrip('\\n') if m.role == 'assistant' else m.content }}"
)
# Qwen 3 thinking: the last turn has a thinking block, even an empty one
QWEN3 = ct.QWEN3.replace("<|im_start|>assistant\n{% endif -%}\n", ASKED)
TEMPLATES = {"chatml": (CHATML, {}), "qwq": (QWQ, {}), "qwen3": (QWEN3, {}), "r1": (ct.R1, END)}
THOUGHT = "<think>\nTwo and two.\n</think>\n\n4"


def reply(text: str, **extra: str) -> Example:
    return Example((Turn("user", Q1),), (Response((Turn("assistant", text, extra=extra),)),))


def behind_prompt(template: Template, example: Example, encoded: Encoded, i: int = 0) -> str:
    """What trains, once it is sure that all before it is the prompt that inference has."""
    prompt = template.prompt_ids(example.prompt, example.tools)
    assert encoded.ids[i][: len(prompt)].tolist() == prompt
    assert not encoded.weights[i][: len(prompt)].any() and encoded.weights[i][len(prompt) :].all()
    return str(template.tokenizer.decode(encoded.ids[i][len(prompt) :].tolist()))


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize(
    ("example", "said"),
    [
        (reply(THOUGHT), "Two and two.\n</think>\n\n4"),
        (reply("Two and two.\n</think>\n\n4"), "Two and two.\n</think>\n\n4"),
        (reply("4", reasoning_content="Two and two."), "Two and two.\n</think>\n\n4"),
        (reply("4"), "\n</think>\n\n4"),
        (reply("<think>\n\n</think>\n\n4"), "\n</think>\n\n4"),
        (reply("  2 = <think>\n"), "\n</think>\n\n  2 = <think>\n"),
    ],
)
def test_the_opening_stands_in_the_prompt_once(name: str, example: Example, said: str) -> None:
    source, special = TEMPLATES[name]
    template = Template(ct.tokenizer(source, **special))
    end = template.tokenizer.eos_token
    found = behind_prompt(template, example, template.encode(example))
    assert found in (said + end, said.replace("\n\n  2", "\n\n2") + end)  # white space before an answer


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_turn_is_what_it_is_when_it_is_served(name: str) -> None:
    source, special = TEMPLATES[name]
    template = Template(ct.tokenizer(source, **special))
    example = chat(Q1, THOUGHT, Q2, "<think>\nFrance.\n</think>\n\nParis.")
    encoded = template.encode(example)
    runs = [run for i in range(len(encoded.ids)) for run in trained(template.tokenizer, encoded, i)]
    end = template.tokenizer.eos_token
    assert sorted(runs) == [f"France.\n</think>\n\nParis.{end}", f"Two and two.\n</think>\n\n4{end}"]
    prompt = template.prompt_ids(example.prompt)
    assert encoded.ids[0][: len(prompt)].tolist() == prompt
    first = template.prompt_ids(example.prompt[:1])
    assert encoded.ids[-1][: len(first)].tolist() == first
    # what the model says to the prompt is, as the next turn, the turn of the row
    assert template.answered(example.prompt[:1], "Two and two.\n</think>\n\n4").text == THOUGHT


def test_tool_calls_behind_a_thought() -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ '\\n<call>' + c.function.name + '</call>' }}{% endfor %}"
    template = Template(ct.tokenizer(QWQ.replace("<|im_end|>", calls + "<|im_end|>", 1)))
    call = {"type": "function", "function": {"name": "add", "arguments": {}}}
    turn = Turn("assistant", "<think>\nAdd.\n</think>", calls=(call,))
    example = Example((Turn("user", Q1),), (Response((turn,)),))
    assert behind_prompt(template, example, template.encode(example)) == ("Add.\n</think>\n<call>add</call><|im_end|>")


def test_a_pair_shares_the_prompt_with_the_opening() -> None:
    template = Template(ct.tokenizer(QWQ))
    replies = (Response((Turn("assistant", THOUGHT),), 1.0), Response((Turn("assistant", "5"),), 0.0))
    example = Example((Turn("user", Q1),), replies)
    encoded = template.encode(example)
    assert [behind_prompt(template, example, encoded, i) for i in range(2)] == [
        "Two and two.\n</think>\n\n4<|im_end|>", "\n</think>\n\n5<|im_end|>",
    ]  # fmt: skip
    assert encoded.shared >= len(template.prompt_ids(example.prompt))


@pytest.mark.parametrize("opened", ["<think>", "<think>\n", "<think>\n\n"])
def test_an_empty_block_is_written_as_qwen_writes_it(opened: str) -> None:
    found = opening(f"<|im_start|>assistant\n{opened}")
    assert found is not None
    assert opened + found.continued("4", None, "4<|im_end|>") == "<think>\n\n</think>\n\n4<|im_end|>"
    assert opened + found.continued("4", "Two.", "4<|im_end|>") in (
        "<think>\nTwo.\n</think>\n\n4<|im_end|>", "<think>\n\nTwo.\n</think>\n\n4<|im_end|>",
    )  # fmt: skip


def test_what_opens_a_block_and_what_does_not() -> None:
    assert opening("a <|begin_of_thought|>\n") == Opening("<|begin_of_thought|>", "\n")
    assert Opening("<|begin_of_thought|>", "").close == "<|end_of_thought|>"
    assert Opening("[THINK]", "").close == "[/THINK]"
    for asked in ("<|im_start|>assistant\n", "<think>\n\n</think>\n\n", "<|assistant|>", "think", "<think>\nWell"):
        assert opening(asked) is None


MARKED = """
{%- set ns = namespace(last=-1) -%}
{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}{%- endfor -%}
{%- for m in messages -%}
<|im_start|>{{ m.role }}
{% if m.role == 'assistant' -%}
{%- set said = m.content if loop.index0 == ns.last else m.content.split('</think>')[-1].strip() -%}
{%- generation -%}{{ said }}<|im_end|>{%- endgeneration -%}
{%- else -%}{{ m.content }}<|im_end|>{%- endif %}
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def test_markers_train_what_they_mark_of_a_shortened_turn() -> None:
    tokenizer = ct.tokenizer(MARKED)
    last = "<think>\nFrance.\n</think>\n\nParis."
    example = chat(Q1, THOUGHT, Q2, last)
    assert trained(tokenizer, Template(tokenizer).encode(example)) == ["4<|im_end|>", last + "<|im_end|>"]
    tokenised, whole = Template(tokenizer).encode_batch([example, chat(Q1, "4", Q2, last)])
    assert not isinstance(tokenised, LuthierError) and not isinstance(whole, LuthierError)
    assert (tokenised.shortened, whole.shortened) == (1, 0)
    assert np.array_equal(tokenised.sequences[0].ids_T, whole.sequences[0].ids_T)


def test_markers_around_nothing_of_a_turn_are_still_a_fault() -> None:
    emptied = Template(ct.tokenizer(MARKED.replace("m.content.split('</think>')[-1].strip()", "''")))
    with pytest.raises(LuthierError, match="leaves out what the assistant says"):
        emptied.encode(chat(Q1, THOUGHT, Q2, "Paris."))
    never = Template(ct.tokenizer(MARKED.replace("loop.index0 == ns.last", "false")))
    with pytest.raises(LuthierError, match="leaves out what the assistant says"):
        never.encode(chat(Q1, THOUGHT))
