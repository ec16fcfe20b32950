"""Where a prompt meets what follows it: the tokens are those of inference, whatever white space stands there."""

from __future__ import annotations

from functools import cache

import chat_templates as ct
import numpy as np
import pytest
from test_template import END, Q1, chat, trained
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from luthier.data import Template
from luthier.errors import LuthierError
from luthier.types import RAW, Example, Response, Turn

# a colon, a space and "ASSISTANT" before an answer: the space becomes a part of its first word
SPACED = ct.VICUNA.replace("{{ m.content }}", "{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}")
LINED = SPACED.replace("ASSISTANT: ", "ASSISTANT:\n").replace(": {{", ":\n{{")


@cache
def _backend(stripped: bool) -> str:
    """SentencePiece's kind: a space before every text, a space and a letter one token, unknown letters as bytes."""
    letters = [chr(code) for code in range(33, 127)]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", *letters, *(f"▁{letter}" for letter in letters), "▁It", "▁▁"]
    vocabulary = {word: n for n, word in enumerate(["<unk>", "<s>", "</s>", *bytes_, *words, "It"])}
    merges = [("▁", letter) for letter in letters] + [("I", "t"), ("▁", "It"), ("▁", "▁")]
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True))
    steps = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    made.normalizer = normalizers.Sequence([normalizers.Strip(), *steps] if stripped else steps)
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in ("<s>", "</s>")])
    return made.to_str()


def sentencepiece(template: str | None = None, *, stripped: bool = False) -> PreTrainedTokenizerFast:
    backend = Tokenizer.from_str(_backend(stripped))
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


def metaspace(template: str | None = None) -> PreTrainedTokenizerFast:
    """The same as newer conversions have it: a pre-tokeniser in the place of the normaliser."""
    backend = Tokenizer.from_str(_backend(False))
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    return made


TOKENIZERS = {
    "sentencepiece": sentencepiece,
    "metaspace": metaspace,
    "bpe": lambda template=None: ct.tokenizer(template, **END),
    "gpt2": lambda template=None: ct.tokenizer(template, True, **END),
}
PROMPTS = ["Q: 2+2?\nA: ", "Q: 2+2?\nA:", "A:   ", "A:\n", "A:\n\n", "A: \n ", "A:\t", " ", "é: "]
SAID = ["It is 4.", "4", " It is", "\nIt", "  x", "It \n", "é 🙂"]


def raw(prompt: str, *said: str) -> Example:
    scores = (None,) if len(said) == 1 else tuple(float(-i) for i in range(len(said)))
    replies = tuple(Response((Turn(RAW, text),), score) for text, score in zip(said, scores, strict=True))
    return Example((Turn(RAW, prompt),), replies)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_plain_prompt_has_the_tokens_of_inference(name: str, prompt: str) -> None:
    tokenizer = TOKENIZERS[name]()
    template = Template(tokenizer)
    for said in SAID:
        example = raw(prompt, said)
        encoded = template.encode(example)
        ids = template.prompt_ids(example.prompt)
        assert encoded.ids[0][: len(ids)].tolist() == ids
        assert not encoded.weights[0][: len(ids)].any() and encoded.weights[0][len(ids) :].all()
        # the whole says what the row says, no space more and none less
        whole = tokenizer.decode(encoded.ids[0].tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        begun = tokenizer.decode(
            [*template._tokeniser.bos, *tokenizer(prompt + said, add_special_tokens=False).input_ids]
        )
        assert whole == begun.removeprefix("<s>").removeprefix(" " if begun.startswith("<s> ") else "")


@pytest.mark.parametrize("name", TOKENIZERS)
def test_responses_to_a_plain_prompt_share_it(name: str) -> None:
    template = Template(TOKENIZERS[name]())
    example = raw("Q: 2+2?\nA: ", "It is 4.", "5", " It")
    encoded, ids = template.encode(example), template.prompt_ids(example.prompt)
    assert encoded.shared >= len(ids)
    for sequence, weights in zip(encoded.ids, encoded.weights, strict=True):
        assert sequence[: len(ids)].tolist() == ids and np.flatnonzero(weights)[0] == len(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_turns_behind_a_generation_prompt_that_ends_with_a_space(name: str) -> None:
    tokenizer = TOKENIZERS[name](SPACED)
    template = Template(tokenizer)
    example = chat(Q1, "It is 4.", "And 3+3?", "6")
    encoded = template.encode(example)
    assert [text.strip() for text in trained(tokenizer, encoded)] == ["It is 4.</s>", "6</s>"]
    first = template.prompt_ids(example.prompt[:1])
    assert encoded.ids[0][: len(first)].tolist() == first
    assert np.flatnonzero(encoded.weights[0])[0] == len(first)


def test_no_row_of_a_prompt_that_ends_with_a_space_is_lost() -> None:
    """SentencePiece's "▁It" is one token; behind a prompt that holds the space, inference says "It"."""
    tokenizer = sentencepiece()
    encoded = Template(tokenizer).encode(raw("A: ", "It"))
    assert tokenizer.convert_ids_to_tokens(encoded.ids[0].tolist()) == ["▁A", ":", "▁", "It", "</s>"]


@pytest.mark.parametrize(
    ("example", "template", "advice"),
    [
        (raw("A:\n", "It"), None, "end the prompts without white space"),
        (raw("A:\n", "\nIt"), None, "begin and end the completions without white space"),
        (
            chat(Q1, "It"),
            LINED,
            "let the generation prompt of the model's chat template end without white space",
        ),
        (chat(Q1, "\nIt"), SPACED, "begin and end the assistant's texts without white space"),
    ],
)
def test_what_cannot_be_told_apart_names_the_side(example: Example, template: str | None, advice: str) -> None:
    """A tokenizer that takes white space off both ends of every text."""
    with pytest.raises(LuthierError, match=f"(?s)straddles the edge.*{advice}"):
        Template(sentencepiece(template, stripped=True)).encode(example)
