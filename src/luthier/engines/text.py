"""From tokens to text piece by piece: only whole characters, and nothing that may still become a stop string.

The text of an answer is what these pieces make together, streamed or not, however its tokens came. An answer that ends
within a character leaves that character out; bytes that no character has become U+FFFD, as everywhere.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

from tokenizers.decoders import ByteLevel
from tokenizers.pre_tokenizers import ByteLevel as Alphabet

BROKEN = "�"
"""What a tokenizer writes for bytes that are no character, or none yet."""
LONGEST_CHARACTER = 8
"""Tokens after which what is broken stays broken: four bytes are a character, and its neighbour may be read with it."""


class Text:
    """The text of one growing sequence of tokens, special ones left out."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(stop)
        bytes_of = _bytes_of(tokenizer)
        self._reader: _Reader = _Window(tokenizer) if bytes_of is None else _Bytes(bytes_of)
        self._held = ""
        self.stopped = False
        """Has a stop string come up? Nothing follows it."""

    def add(self, token: int) -> str:
        """The new text that this token settles; may be empty."""
        return self._release(self._reader.add(token))

    def end(self) -> str:
        """The rest, once no token follows."""
        rest = self._release(self._reader.end()) + self._held
        self._held = ""
        return rest

    def _release(self, new: str) -> str:
        """The first stop string to be complete ends the text, whatever came with it in one piece: so the text does not
        hang on where the pieces are cut."""
        if self.stopped:
            return ""
        text = self._held + new
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stop if stop in text]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        hold = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]


def whole(tokenizer: Any, ids: Iterable[int], stop: Sequence[str] = ()) -> str:
    """The text of an answer that is there."""
    text = Text(tokenizer, stop)
    return "".join([*map(text.add, ids), text.end()])


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    place = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while place >= 0 and not stop.startswith(text[place:]):
        place = text.find(stop[0], place + 1)
    return len(text) - place if place >= 0 else 0


class _Reader(Protocol):
    def add(self, token: int) -> str:
        """The new text that is settled."""
        ...

    def end(self) -> str:
        """Text that was not settled yet."""
        ...


class _Bytes:
    """Of tokenizers whose tokens are bytes, wherever they stand."""

    def __init__(self, bytes_of: _TokenBytes) -> None:
        self._bytes_of = bytes_of
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(self._bytes_of(token))

    def end(self) -> str:
        left = self._decoder.getstate()[0].decode(errors="replace")
        self._decoder.reset()
        return left if len(left) > 1 else ""  # half a surrogate pair is held as if it began a character


class _TokenBytes:
    """The bytes of each token, as the byte-level decoder of `tokenizers` reads it."""

    def __init__(self, tokenizer: Any) -> None:
        self._token = tokenizer.backend_tokenizer.id_to_token  # a tokenizer that is dropped is to be dropped
        self._special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._known: dict[int, bytes] = {}

    def __call__(self, token: int) -> bytes:
        if token not in self._known:
            self._known[token] = self._read(token)
        return self._known[token]

    def _read(self, token: int) -> bytes:
        written = None if token in self._special else self._token(token)
        if written is None:  # models may have more tokens than their tokenizers
            return b""
        if all(letter in BYTES for letter in written):
            return bytes(BYTES[letter] for letter in written)
        return str(written).encode()


def _alphabet() -> dict[str, int]:
    """The letter that stands for each byte: the byte itself where it can be seen, else the next one from 256 on."""
    letters = set(Alphabet.alphabet())
    found = {chr(byte): byte for byte in range(256) if chr(byte) in letters}
    hidden = [byte for byte in range(256) if chr(byte) not in letters]
    return found | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _alphabet()
_KNOWN: WeakKeyDictionary[Any, _TokenBytes] = WeakKeyDictionary()


def _bytes_of(tokenizer: Any) -> _TokenBytes | None:
    """What reads this tokenizer's tokens one by one, where that can be done."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not isinstance(backend.decoder, ByteLevel):
        return None
    if tokenizer not in _KNOWN:
        _KNOWN[tokenizer] = _TokenBytes(tokenizer)
    return _KNOWN[tokenizer]


class _Window:
    """Of any other: tokens are decoded together with those before them, as how a token reads can depend on them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._new: list[int] = []

    def add(self, token: int) -> str:
        before, was = self._decode(self._context), self._decode([*self._context, *self._new])
        now = self._decode([*self._context, *self._new, token])
        if now == was:  # it says nothing; kept, many of them would be read again and again
            return ""
        self._new.append(token)
        if now.endswith(BROKEN) and len(self._new) < LONGEST_CHARACTER:
            return ""
        self._context, self._new = self._new, []
        return now[len(before) :]

    def end(self) -> str:
        """A character that may still have become one is left out; there is no telling it from bytes that are none."""
        now = self._decode([*self._context, *self._new])[len(self._decode(self._context)) :]
        self._context, self._new = self._new, []
        return now.rstrip(BROKEN)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text
