"""Templates that ignore `add_generation_prompt`: answers are asked for as the template begins them."""

from __future__ import annotations

import chat_templates as ct
import pytest
from test_template import GEMMA, Q1, Q2, TEMPLATES, chat, trained

from luthier.data import Template
from luthier.errors import LuthierError
from luthier.types import RAW, Example, Response, Turn

HEADER = "<|im_start|>assistant\n"
ASK = "{%- if add_generation_prompt -%}\n<|im_start|>assistant\n{% endif -%}\n"
CHATML = ct.CHATML.replace(ASK, "")
QWEN3 = ct.QWEN3.replace(ASK, "")
MARKED = ct.MARKED.replace(ASK, "")
GEMMA3 = ct.GEMMA3.replace("{%- if add_generation_prompt -%}\n<start_of_turn>model\n{% endif -%}\n", "")
# Phi 3's end of text behind the last turn: the beginning of an answer does not go on from what is asked
PHI3 = ct.PHI3.replace("{%- if add_generation_prompt -%}\n<|assistant|>\n{% else %}{{ eos_token }}{% endif -%}", "")
ENDED = PHI3.rstrip() + "{{ eos_token }}"
ALWAYS = CHATML + HEADER + "\n"


@pytest.mark.parametrize(
    ("source", "special", "header", "end"),
    [
        (CHATML, {}, HEADER, "<|im_end|>"),
        (CHATML.strip(), {}, HEADER, "<|im_end|>"),
        (QWEN3, {}, HEADER, "<|im_end|>"),
        (MARKED, {}, HEADER, "<|im_end|>"),
        (GEMMA3, GEMMA, "<start_of_turn>model\n", "<end_of_turn>"),
        (PHI3, {"eos_token": "<|endoftext|>"}, "<|assistant|>\n", "<|end|>"),
    ],
)
def test_the_header_is_asked_with_and_does_not_train(
    source: str, special: dict[str, str], header: str, end: str
) -> None:
    tokenizer = ct.tokenizer(source, **special)
    template = Template(tokenizer)
    example = chat(Q1, "It is 4.", Q2, "Paris.")
    encoded = template.encode(example)
    runs = [run for i in range(len(encoded.ids)) for run in trained(tokenizer, encoded, i)]
    block = "<think>\n\n</think>\n\n" if source is QWEN3 else ""
    assert sorted(runs) == sorted([f"{block}It is 4.{end}", f"{block}Paris.{end}"])
    for i, turns in ((0, example.prompt), (-1, example.prompt[:1])):
        prompt = template.prompt_ids(turns)
        assert tokenizer.decode(prompt).endswith(header)
        assert encoded.ids[i][: len(prompt)].tolist() == prompt
    # others ask so too, once the template is exported
    assert template.remark is not None and repr(header) in template.remark
    assert isinstance(template.completed, str)
    asked = template.prompt_ids(example.prompt[:1])
    tokenizer.chat_template = template.completed
    plain = tokenizer.apply_chat_template([{"role": "user", "content": Q1}], add_generation_prompt=True)
    assert plain["input_ids"] == asked
    mended = Template(tokenizer)
    assert mended.completed is None and mended.remark is None
    assert mended.encode(example).ids[0].tolist() == encoded.ids[0].tolist()


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_that_ask_are_left_as_they_are(name: str) -> None:
    source, special, _, _ = TEMPLATES[name]
    template = Template(ct.tokenizer(source, **special))
    assert template.completed is None and template.remark is None


def test_a_header_that_always_stands_last_is_no_second_one() -> None:
    tokenizer = ct.tokenizer(ALWAYS)
    template = Template(tokenizer)
    assert template.completed is None
    assert tokenizer.decode(template.prompt_ids([Turn("user", Q1)])).count(HEADER) == 1
    assert trained(tokenizer, template.encode(chat(Q1, "It is 4."))) == ["It is 4.<|im_end|>"]


def test_two_named_templates_are_both_completed() -> None:
    tokenizer = ct.tokenizer(CHATML)
    tokenizer.chat_template = {"default": CHATML, "tool_use": CHATML}
    template = Template(tokenizer)
    assert tokenizer.decode(template.prompt_ids([Turn("user", Q1)])).endswith(HEADER)
    assert isinstance(template.completed, dict) and set(template.completed) == {"default", "tool_use"}


def test_a_header_that_cannot_be_told_is_an_error_before_anything_is_asked() -> None:
    template = Template(ct.tokenizer(ENDED, eos_token="<|endoftext|>"))
    with pytest.raises(LuthierError, match=r"(?s)no generation prompt.*end the model's chat template"):
        template.prompt_ids([Turn("user", Q1)])
    with pytest.raises(LuthierError, match=r"no generation prompt"):
        template.encode(chat(Q1, "It is 4."))
    text = Example((), (Response((Turn(RAW, "It is 4."),)),))
    assert template.encode(text).weights[0].any()  # a plain text needs no template
