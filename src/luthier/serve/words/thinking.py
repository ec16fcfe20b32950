"""Answers that go on within a thinking block which the prompt has opened: told apart from what is said after it."""

from __future__ import annotations

from luthier.serve.words.calls import Parser, Reasoning, Said, may_begin


class Thinking:
    """The text up to the block's end is reasoning; what follows is another parser's."""

    def __init__(self, close: str, rest: Parser) -> None:
        self._close, self._rest = close, rest
        self._held, self._inside, self._begun = "", True, False

    def feed(self, text: str) -> list[Said]:
        """As `Parser.feed`."""
        if not self._inside:
            return self._after(text)
        self._held += text
        before, closed, rest = self._held.partition(self._close)
        if closed:
            self._inside, self._held = False, ""
            words = before.rstrip()
            return [*([Reasoning(words)] if words else []), *self._after(rest)]
        hold = may_begin(before, self._close)
        self._held = before[hold:]
        return [Reasoning(before[:hold])] if before[:hold] else []

    def end(self) -> list[Said]:
        """As `Parser.end`."""
        if self._inside and self._held.strip():
            return [Reasoning(self._held)]
        return self._rest.end()

    def _after(self, text: str) -> list[Said]:
        if not self._begun:  # blank lines after the block are the block's
            text = text.lstrip()
            self._begun = bool(text)
        return self._rest.feed(text)
