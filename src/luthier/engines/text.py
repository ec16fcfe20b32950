"""From tokens to text piece by piece: only whole characters, and nothing that may still become a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BROKEN = "�"
"""What a tokenizer writes for bytes that are no character yet."""


class Text:
    """The text of one growing sequence of tokens."""

    def __init__(self, tokenizer: Any, stop: Sequence[str] = ()) -> None:
        self._tokenizer, self._stop = tokenizer, tuple(stop)
        self._ids: list[int] = []
        self._context, self._read = 0, 0
        self._held = ""
        self.stopped = False
        """Has a stop string come up? Nothing follows it."""

    def add(self, token: int) -> str:
        """The new text that this token settles; may be empty."""
        self._ids.append(token)
        # Tokens are decoded together with those before them: how a token reads can depend on its neighbour.
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        if now.endswith(BROKEN) or len(now) <= len(before):
            return ""
        self._context, self._read = self._read, len(self._ids)
        return self._release(now[len(before) :], last=False)

    def end(self) -> str:
        """The rest, once no token follows: also bytes that never became a character."""
        before = self._decode(self._ids[self._context : self._read])
        now = self._decode(self._ids[self._context :])
        self._context = self._read = len(self._ids)
        return self._release(now[len(before) :], last=True)

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _release(self, new: str, last: bool) -> str:
        if self.stopped:
            return ""
        text = self._held + new
        ends = [place for place in (text.find(stop) for stop in self._stop) if place >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        hold = 0 if last else max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` with which `stop` begins."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
