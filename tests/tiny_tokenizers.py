"""Tiny real tokenizers: one token a word, one token a byte."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def words(count: int) -> PreTrainedTokenizerFast:
    """The words w0, w1, …: w0 stands for any other, w1 ends a text and w2 pads."""
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(count)}, unk_token="w0"))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="w0", eos_token="w1", pad_token="w2")


def letters(*special: str, **roles: Any) -> PreTrainedTokenizerFast:
    """One token a byte, after the special ones: a character of several bytes is several tokens.

    `roles` says what the special ones are for (`eos_token="</s>"`) and the `chat_template`.
    """
    vocabulary = {token: n for n, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=backend, **roles)
