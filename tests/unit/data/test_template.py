"""What trains, decoded back to text, is what the assistant says and its end token; for any template, or an error."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import chat_templates as ct
import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data import Template
from luthier.errors import LuthierError
from luthier.types import RAW, Encoded, Example, Response, Source, Turn

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
GEMMA = {"bos_token": "<bos>", "eos_token": "<end_of_turn>"}
LLAMA = {"eos_token": "<|eot_id|>"}
END = {"eos_token": "</s>"}

# template, special tokens, end of turn, what the template puts before the words of an answer
TEMPLATES = {
    "chatml": (ct.CHATML, {}, "<|im_end|>", ""),
    "smollm2": (ct.SMOLLM2, {"bos_token": "<|im_start|>", "pad_token": "<|im_end|>"}, "<|im_end|>", ""),
    "qwen2.5": (ct.QWEN25, {}, "<|im_end|>", ""),
    "qwen3": (ct.QWEN3, {}, "<|im_end|>", "<think>\n\n</think>\n\n"),
    "llama3": (ct.LLAMA3, LLAMA, "<|eot_id|>", ""),
    "gemma3": (ct.GEMMA3, GEMMA, "<end_of_turn>", ""),
    "mistral": (ct.MISTRAL, END, "</s>", " "),
    "phi3": (ct.PHI3, {"eos_token": "<|endoftext|>"}, "<|end|>", ""),
    "marked": (ct.MARKED, {}, "<|im_end|>", ""),
    "marked-without-end": (ct.MARKED_WITHOUT_END, {}, "<|im_end|>", ""),
}
Q1, A1, Q2, A2 = "What is 2+2?", "It is 4.", "Where is Paris?", "Paris is  large.\n\nIt is é 🙂."


def chat(*texts: str, weights: tuple[float | None, ...] = (), **more: object) -> Example:
    """user, assistant, user, assistant, … with the last turn as the response."""
    weights = weights or (None,) * len(texts)
    turns = [Turn(("user", "assistant")[i % 2], text, weights[i]) for i, text in enumerate(texts)]
    return Example(tuple(turns[:-1]), (Response((turns[-1],)),), source=Source("rows.jsonl", 7), **more)  # type: ignore[arg-type]


def trained(tokenizer: PreTrainedTokenizerFast, encoded: Encoded, i: int = 0) -> list[str]:
    """The runs of tokens that train, as texts."""
    ids, on = encoded.ids[i], encoded.weights[i] > 0
    edges = np.flatnonzero(np.diff(np.concatenate([[False], on, [False]]).astype(int)))
    return [tokenizer.decode(ids[a:b].tolist()) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_single_turn_trains_the_answer_and_its_end(name: str) -> None:
    source, special, end, before = TEMPLATES[name]
    tokenizer = ct.tokenizer(source, **special)
    encoded = Template(tokenizer).encode(chat(Q1, A2))
    assert trained(tokenizer, encoded) == [before + A2 + end]
    # the tokens are the template's own, up to the last one that trains
    whole = tokenizer.apply_chat_template(
        [{"role": "user", "content": Q1}, {"role": "assistant", "content": A2}], return_dict=False
    )
    assert encoded.ids[0].tolist() == whole[: len(encoded.ids[0])]
    assert encoded.weights[0][-1] == 1 and encoded.weights[0][0] == 0


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_prompt_is_what_serving_gives(name: str) -> None:
    source, special, _, _ = TEMPLATES[name]
    template = Template(ct.tokenizer(source, **special))
    for example in (chat(Q1, A1), chat(Q1, A1, Q2, A2)):
        encoded = template.encode(example)
        prompt = template.prompt_ids(example.prompt)
        last = np.flatnonzero(encoded.weights[0] == 0)[-1] + 1  # where the last answer begins
        assert encoded.ids[0][:last].tolist() == prompt


@pytest.mark.parametrize("name", [name for name in TEMPLATES if name != "qwen3"])
def test_every_answer_of_a_conversation_trains(name: str) -> None:
    source, special, end, before = TEMPLATES[name]
    tokenizer = ct.tokenizer(source, **special)
    encoded = Template(tokenizer).encode(chat(Q1, A1, Q2, A2))
    assert len(encoded.ids) == 1
    assert trained(tokenizer, encoded) == [before + A1 + end, before + A2 + end]


PIECES = (
    "a",
    "It",
    " ",
    "  ",
    "\n",
    "\n\n",
    "\t",
    "é",
    "🙂",
    "中",
    ".",
    "2",
    "<",
    "|",
    "user",
    "assistant\n",
    "</s",
    "'",
)


@pytest.mark.parametrize("gpt2", [False, True])
@pytest.mark.parametrize("name", TEMPLATES)
def test_whatever_is_said_trains_exactly(name: str, gpt2: bool) -> None:
    """Random texts of awkward pieces, in batches: the mask never takes a letter too many or too few."""
    source, special, end, before = TEMPLATES[name]
    tokenizer = ct.tokenizer(source, gpt2, **special)
    template, random = Template(tokenizer), np.random.default_rng(0)
    said = ["".join(random.choice(PIECES, random.integers(1, 9))) for _ in range(300)]
    asked = ["".join(random.choice(PIECES, random.integers(1, 9))) for _ in said]
    examples = [chat(question, answer) for question, answer in zip(asked, said, strict=True)]
    for example, answer, tokenised in zip(examples, said, template.encode_batch(examples), strict=True):
        assert not isinstance(tokenised, LuthierError)
        answer = answer.strip() if name in ("llama3", "gemma3") else answer
        answer = answer.lstrip("\n") if name == "qwen3" else answer
        encoded = tokenised.encoded()
        assert trained(tokenizer, encoded) == [before + answer + end]
        prompt = template.prompt_ids(example.prompt)
        assert encoded.ids[0][: len(prompt)].tolist() == prompt


def test_qwen3_trains_each_turn_as_it_is_served() -> None:
    """Earlier turns lose their thinking, so each turn is a sequence of its own in the context it was said in."""
    tokenizer = ct.tokenizer(ct.QWEN3)
    thought = "<think>\ntwo and two\n</think>\n\nIt is 4."
    encoded = Template(tokenizer).encode(chat(Q1, thought, Q2, A2))
    assert [trained(tokenizer, encoded, i) for i in range(2)] == [
        ["<think>\n\n</think>\n\n" + A2 + "<|im_end|>"],
        [thought + "<|im_end|>"],
    ]
    whole = tokenizer.decode(encoded.ids[0].tolist())
    assert "two and two" not in whole and "It is 4." in whole
    first = Template(tokenizer).prompt_ids([Turn("user", Q1)])
    assert encoded.ids[1][: len(first)].tolist() == first
    assert encoded.shared == len(first)
    assert encoded.ids[0][: encoded.shared].tolist() == encoded.ids[1][: encoded.shared].tolist()


def test_qwen3_reasoning_content_trains() -> None:
    tokenizer = ct.tokenizer(ct.QWEN3)
    turn = Turn("assistant", "It is 4.", extra={"reasoning_content": "two and two"})
    encoded = Template(tokenizer).encode(Example((Turn("user", Q1),), (Response((turn,)),)))
    assert trained(tokenizer, encoded) == ["<think>\ntwo and two\n</think>\n\nIt is 4.<|im_end|>"]


def test_reasoning_is_never_lost_silently() -> None:
    turn = Turn("assistant", "It is 4.", extra={"reasoning_content": "two and two"})
    with pytest.raises(LuthierError, match="leaves out the assistant's reasoning"):
        Template(ct.tokenizer(ct.CHATML)).encode(Example((Turn("user", Q1),), (Response((turn,)),)))


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 2}}}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds"}}
CALLING = Example(
    (Turn("user", Q1), Turn("assistant", "", calls=(CALL,)), Turn("tool", "4")),
    (Response((Turn("assistant", A1),)),),
    tools=(TOOL,),
)


def test_tool_calls_train_and_tool_results_do_not() -> None:
    tokenizer = ct.tokenizer(ct.QWEN25)
    encoded = Template(tokenizer).encode(CALLING)
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call><|im_end|>'
    assert trained(tokenizer, encoded) == [call, A1 + "<|im_end|>"]
    assert '"description": "adds"' in tokenizer.decode(encoded.ids[0].tolist())


def test_tool_calls_are_never_lost_silently() -> None:
    with pytest.raises(LuthierError, match="leaves out the assistant's tool calls"):
        Template(ct.tokenizer(ct.CHATML)).encode(replace(CALLING, tools=()))
    with pytest.raises(LuthierError, match="leaves out the tools"):
        Template(ct.tokenizer(ct.CHATML)).encode(CALLING)


@pytest.mark.parametrize(
    "special", [{"pad_token": "<|im_end|>"}, {"pad_token": "<|im_end|>", "bos_token": "<|im_end|>"}]
)
def test_pad_equal_to_eos_never_hides_eos(special: dict[str, str]) -> None:
    tokenizer = ct.tokenizer(ct.CHATML, **special)
    encoded = Template(tokenizer).encode(chat(Q1, A1, Q2, A2))
    eos = encoded.ids[0] == tokenizer.eos_token_id
    assert encoded.weights[0][eos].tolist() == [0, 1, 0, 1]


def test_a_turns_weight_is_its_tokens_weight() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    template = Template(tokenizer)
    assert trained(tokenizer, template.encode(chat(Q1, A1, Q2, A2, weights=(None, 0, None, None)))) == [
        A2 + "<|im_end|>"
    ]
    half = template.encode(chat(Q1, A1, Q2, A2, weights=(None, 0.5, None, 2.0)))
    assert set(half.weights[0].tolist()) == {0.0, 0.5, 2.0}
    assert not template.encode(chat(Q1, A1, weights=(None, 0))).weights[0].any()
    with pytest.raises(LuthierError, match="not the assistant's has a weight"):
        template.encode(chat(Q1, A1, weights=(1.0, None)))


def test_the_last_answer_or_everything_is_scored_on_demand() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    template = Template(tokenizer)
    assert trained(tokenizer, template.encode(chat(Q1, A1, Q2, A2), "last")) == [A2 + "<|im_end|>"]
    everything = template.encode(chat(Q1, A1, Q2, A2), "all")
    assert everything.weights[0].tolist() == [0.0] + [1.0] * (len(everything.ids[0]) - 1)
    without = template.encode(chat(Q1, A1, Q2, A2, weights=(None, 0, None, None)), "all")
    assert trained(tokenizer, without)[0].endswith("assistant\n")  # the prompt trains, the first answer does not


def test_an_answer_that_begins_with_a_newline() -> None:
    """The prompt's newline and the answer's would be one token; serving has them apart, so training has too."""
    tokenizer = ct.tokenizer(ct.CHATML)
    template = Template(tokenizer)
    assert tokenizer.encode("assistant\n\nIt", add_special_tokens=False) != (
        tokenizer.encode("assistant\n", add_special_tokens=False) + tokenizer.encode("\nIt", add_special_tokens=False)
    )
    encoded = template.encode(chat(Q1, "\nIt is 4.", Q2, A2))
    assert trained(tokenizer, encoded) == ["\nIt is 4.<|im_end|>", A2 + "<|im_end|>"]
    prompt = template.prompt_ids([Turn("user", Q1)])
    assert encoded.ids[0][: len(prompt)].tolist() == prompt


def test_a_prompt_whose_tokens_look_at_what_follows() -> None:
    """GPT-2's way of cutting takes the last of several newlines to what follows; a served prompt has nothing there."""
    tokenizer = ct.tokenizer(ct.LLAMA3, gpt2=True, **LLAMA)
    template = Template(tokenizer)
    encoded, prompt = template.encode(chat(Q1, A1)), template.prompt_ids([Turn("user", Q1)])
    whole = tokenizer.apply_chat_template([{"role": "user", "content": Q1}, {"role": "assistant", "content": A1}])
    assert whole["input_ids"][: len(prompt)] != prompt
    assert encoded.ids[0][: len(prompt)].tolist() == prompt
    assert trained(tokenizer, encoded) == [A1 + "<|eot_id|>"]


def test_special_tokens_inside_the_words_do_not_end_the_turn() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    said = "a <|im_end|> b"
    assert trained(tokenizer, Template(tokenizer).encode(chat(Q1, said))) == [said + "<|im_end|>"]


def test_a_conversation_may_begin_with_the_assistant() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    example = Example((Turn("assistant", "Hello"), Turn("user", Q1)), (Response((Turn("assistant", A1),)),))
    assert trained(tokenizer, Template(tokenizer).encode(example)) == ["Hello<|im_end|>", A1 + "<|im_end|>"]


def test_a_template_that_asks_otherwise_than_it_renders_is_an_error() -> None:
    with pytest.raises(LuthierError, match=r"(?s)does not render an answer as it asks.*generation %\} markers"):
        Template(ct.tokenizer(ct.R1.replace("<think>", "<answer>"), **END)).encode(chat(Q1, A1))


def test_a_template_without_end_token_is_an_error() -> None:
    with pytest.raises(LuthierError, match="generation could not stop"):
        Template(ct.tokenizer(ct.VICUNA, **END)).encode(chat(Q1, A1))


@pytest.mark.parametrize(
    ("source", "special", "role"),
    [
        (ct.CHATML, {}, "asistant"),
        (ct.MISTRAL, END, "system"),
        (ct.TWO_ROLES, END, "tool"),
        (ct.TWO_ROLES, END, "narrator"),
    ],
)
def test_an_unknown_role_is_named_with_its_row(source: str, special: dict[str, str], role: str) -> None:
    example = Example(
        (Turn(role, "Hm"), Turn("user", Q1)), (Response((Turn("assistant", A1),)),), source=Source("d.jsonl", 3)
    )
    with pytest.raises(LuthierError, match=f"d.jsonl:3: .*does not know the role '{role}'"):
        Template(ct.tokenizer(source, **special)).encode(example)


def test_a_refusal_of_the_template_names_the_row() -> None:
    turns = (Turn("user", "a"), Turn("user", "b"))
    example = Example(turns, (Response((Turn("assistant", A1),)),), source=Source("d.jsonl", 3))
    with pytest.raises(LuthierError, match=r"d.jsonl:3: .*roles must alternate"):
        Template(ct.tokenizer(ct.GEMMA3, **GEMMA)).encode(example)


def test_faults_stand_in_the_place_of_their_rows() -> None:
    bad = Example((Turn("user", "a"), Turn("user", "b")), (Response((Turn("assistant", A1),)),))
    results = Template(ct.tokenizer(ct.GEMMA3, **GEMMA)).encode_batch([chat(Q1, A1), bad, chat(Q2, A2)])
    assert [isinstance(result, LuthierError) for result in results] == [False, True, False]


@pytest.mark.parametrize("name", TEMPLATES)
def test_never_two_bos(name: str) -> None:
    source, special, _, _ = TEMPLATES[name]
    tokenizer = ct.tokenizer(source, **special)
    tokenizer._tokenizer.post_processor = _adding(tokenizer, tokenizer.bos_token)
    assert tokenizer("a").input_ids[0] == tokenizer.bos_token_id
    template = Template(tokenizer)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": Q1}], tokenize=False, add_generation_prompt=True
    )
    expected = rendered.count(tokenizer.bos_token)
    assert template.prompt_ids([Turn("user", Q1)]).count(tokenizer.bos_token_id) == expected
    text = Example((), (Response((Turn(RAW, "It is 4."),)),))
    assert template.encode(text).ids[0].tolist().count(tokenizer.bos_token_id) == 1
    own = Example((), (Response((Turn(RAW, tokenizer.bos_token + "It is 4."),)),))
    assert template.encode(own).ids[0].tolist() == template.encode(text).ids[0].tolist()


def _adding(tokenizer: PreTrainedTokenizerFast, token: str) -> object:
    from tokenizers.processors import TemplateProcessing

    return TemplateProcessing(single=f"{token} $A", special_tokens=[(token, tokenizer.convert_tokens_to_ids(token))])


def test_plain_text_trains_whole_and_ends() -> None:
    tokenizer = ct.tokenizer(None, **END)
    encoded = Template(tokenizer).encode(Example((), (Response((Turn(RAW, "It is 4."),)),)))
    assert tokenizer.decode(encoded.ids[0].tolist()) == "It is 4.</s>"
    assert encoded.weights[0].tolist() == [0.0] + [1.0] * (len(encoded.ids[0]) - 1)
    ended = Template(tokenizer).encode(Example((), (Response((Turn(RAW, "It is 4.</s>"),)),)))
    assert ended.ids[0].tolist() == encoded.ids[0].tolist()


def test_plain_prompt_and_completion() -> None:
    tokenizer = ct.tokenizer(None, **END)
    template = Template(tokenizer)
    example = Example((Turn(RAW, "Q: 2+2?\nA: "),), (Response((Turn(RAW, "It is 4."),)),))
    encoded = template.encode(example)
    assert trained(tokenizer, encoded) == ["It is 4.</s>"]
    prompt = template.prompt_ids(example.prompt)
    assert encoded.ids[0][: len(prompt)].tolist() == prompt


def test_no_chat_template_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(LuthierError, match=r"(?s)no chat template.*chat: false"):
        Template(ct.tokenizer(None)).encode(chat(Q1, A1))


def test_two_responses_share_their_prompt() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    template = Template(tokenizer)
    replies = (Response((Turn("assistant", "It is 4."),), 1.0), Response((Turn("assistant", "It is 5."),), 0.0))
    example = Example((Turn("user", Q1), Turn("assistant", A1), Turn("user", Q2)), replies)
    encoded = template.encode(example)
    assert [trained(tokenizer, encoded, i) for i in range(2)] == [["It is 4.<|im_end|>"], ["It is 5.<|im_end|>"]]
    assert encoded.shared == len(template.prompt_ids(example.prompt))


def test_a_judged_response_alone_trains() -> None:
    tokenizer = ct.tokenizer(ct.CHATML)
    turns = (Turn("user", Q1), Turn("assistant", A1), Turn("user", Q2))
    encoded = Template(tokenizer).encode(Example(turns, (Response((Turn("assistant", A2),), 1.0),)))
    assert trained(tokenizer, encoded) == [A2 + "<|im_end|>"]


def test_a_task_has_nothing_to_train_on() -> None:
    with pytest.raises(LuthierError, match="no response"):
        Template(ct.tokenizer()).encode(Example((Turn("user", Q1),), source=Source("d.jsonl", 3)))


def test_stop_ids_are_the_template_s_and_the_model_s(tmp_path: Path) -> None:
    tokenizer = ct.tokenizer(ct.PHI3, eos_token="<|endoftext|>")
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in ("<|end|>", "<|endoftext|>", "</s>")}
    assert Template(tokenizer).stop_ids == {ids["<|end|>"], ids["<|endoftext|>"]}
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").write_text(f'{{"eos_token_id": [{ids["</s>"]}]}}')
    saved = Template(AutoTokenizer.from_pretrained(tmp_path))
    assert saved.stop_ids == set(ids.values())
    assert set(saved.stop_texts) == set(ids)


def test_the_digest_tells_templates_apart() -> None:
    digests = [Template(ct.tokenizer(source)).digest for source in (ct.CHATML, ct.CHATML, ct.SMOLLM2)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.skipif(not SHARED.joinpath("models/stories260k").is_dir(), reason="no shared models")
@pytest.mark.parametrize("said", [A1, A2, " leading", "\nnewline", "中文 é"])
def test_a_sentencepiece_tokenizer(said: str) -> None:
    """Llama 2's kind: a space is put before every text, unknown letters become bytes."""
    tokenizer = AutoTokenizer.from_pretrained(SHARED / "models/stories260k")
    tokenizer.chat_template = ct.MISTRAL
    encoded = Template(tokenizer).encode(chat(Q1, A1, Q2, said))
    # its decoder takes the first space of a text away
    assert trained(tokenizer, encoded) == [A1 + "</s>", said + "</s>"]
    raw = Template(tokenizer).encode(Example((), (Response((Turn(RAW, "Once upon a time"),)),)))
    assert tokenizer.decode(raw.ids[0].tolist()) == "<s> Once upon a time</s>"
    assert raw.weights[0].tolist() == [0.0] + [1.0] * (len(raw.ids[0]) - 1)
