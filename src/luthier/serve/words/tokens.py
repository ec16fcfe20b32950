"""Single tokens as text and as bytes, and their log-probabilities in OpenAI's two shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BROKEN = "�"
LEAST = -9999.0
"""Stands for minus infinity, which JSON does not have."""


@lru_cache(maxsize=1)
def _byte_letters() -> dict[str, int]:
    """The letters that byte-level tokenizers write bytes as."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + number): byte for number, byte in enumerate(rest)}


def text_and_bytes(tokenizer: Any, token: int) -> tuple[str, bytes]:
    """A token by itself. Its bytes may be a part of a character; its text then says so, as OpenAI writes it."""
    text: str = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if BROKEN not in text:
        return text, text.encode()
    written = str(tokenizer.convert_ids_to_tokens(token))
    if BYTE.fullmatch(written):
        raw = bytes([int(written[3:5], 16)])
    elif all(letter in _byte_letters() for letter in written):
        raw = bytes(_byte_letters()[letter] for letter in written)
    else:
        raw = text.encode()
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw


@dataclass(frozen=True)
class Told:
    """A token at its place, and what might have stood there."""

    token: int
    logp: float | None
    """None for the first token of a prompt: nothing precedes it."""
    top: Sequence[tuple[int, float]] = ()


def _number(logp: float) -> float:
    return logp if math.isfinite(logp) else LEAST


def for_chat(tokenizer: Any, told: Sequence[Told]) -> dict[str, Any]:
    """The `logprobs` of a chat choice."""

    def entry(token: int, logp: float | None) -> dict[str, Any]:
        text, raw = text_and_bytes(tokenizer, token)
        return {"token": text, "logprob": _number(logp or 0.0), "bytes": list(raw)}

    content = [
        {**entry(one.token, one.logp), "top_logprobs": [entry(token, logp) for token, logp in one.top]} for one in told
    ]
    return {"content": content, "refusal": None}


def for_completions(tokenizer: Any, told: Sequence[Told], count: int, offset: int) -> dict[str, Any]:
    """The `logprobs` of a completion; `offset` is where its first token's text begins, in characters.

    Of two tokens with one text the likelier one is told. The token that stands there is always among the likeliest.
    """
    tokens, tops, offsets = [], [], []
    for one in told:
        text, _ = text_and_bytes(tokenizer, one.token)
        tokens.append(text)
        offsets.append(offset)
        offset += len(text)
        top: dict[str, float] = {}
        for token, logp in one.top:
            top.setdefault(text_and_bytes(tokenizer, token)[0], _number(logp))
        if one.logp is not None and count:
            top.setdefault(text, _number(one.logp))
        tops.append(top if one.logp is not None and count else None)
    numbers = [None if one.logp is None else _number(one.logp) for one in told]
    return {"tokens": tokens, "token_logprobs": numbers, "top_logprobs": tops, "text_offset": offsets}
