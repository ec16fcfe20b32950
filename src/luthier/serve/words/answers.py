"""From the engine's pieces to what a client is told: text, tool calls, log-probabilities, and why it ended.

A stream takes what is new from time to time, a whole answer takes all at the end: both are made here, and alike.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from luthier.serve.words.calls import Call, Parser, Plain, Reasoning, Said
from luthier.serve.words.tokens import Told, text_and_bytes
from luthier.types import Completion, Piece


@dataclass
class Part:
    """What has come of one answer since the last time."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[Told] = field(default_factory=list)
    finish: str | None = None

    @property
    def empty(self) -> bool:
        """Is there nothing to tell?"""
        return not (self.text or self.reasoning or self.calls or self.tokens or self.finish)


class Answer:
    """One answer under way."""

    def __init__(
        self, place: tuple[int, int], tokenizer: Any, parser: Parser, *, logprobs: bool, one_call: bool = False
    ) -> None:
        """`place`: which prompt it answers, and its number among the answers. `one_call`: of several calls the first
        alone is told."""
        self.place, self.number = place
        self._tokenizer, self._parser, self._logprobs, self._one_call = tokenizer, parser, logprobs, one_call
        self._special = frozenset() if isinstance(parser, Plain) else frozenset(tokenizer.all_special_ids)
        self._waiting: deque[tuple[Told, int]] = deque()
        self._token_bytes, self._text_bytes = 0, 0
        self.part = Part()
        self.calls = 0
        """Calls found so far, told or not."""
        self.begun, self.characters = False, 0
        """Has a part of it been told, and how long is what was?"""
        self.completion: Completion | None = None

    def add(self, piece: Piece) -> None:
        """One more piece from the engine."""
        done = piece.completion
        stopped = done is not None and len(done.sampled) > len(done.ids)  # by a token that is no part of the answer
        marker = ""
        if piece.token in self._special and not stopped:  # marks a call, and is no text to the engine
            marker = str(self._tokenizer.convert_ids_to_tokens(piece.token))
        if self._logprobs and not stopped:
            told = Told(piece.token, piece.logp, piece.top)
            self._waiting.append((told, self._token_bytes))
            self._token_bytes += len(text_and_bytes(self._tokenizer, piece.token)[1])
        self._text_bytes += len(piece.text.encode()) + len(marker)
        self._say(self._parser.feed(marker + piece.text))
        if done is not None:
            self._say(self._parser.end())
            self.completion = done
            self.part.finish = "tool_calls" if self.calls and done.finish == "stop" else done.finish
            # what was held for a stop string that did come is not told, token for token
            cut = done.finish == "stop" and not stopped
            self._release(lambda begin, end: begin < self._text_bytes if cut else True)
        else:
            self._release(lambda begin, end: end <= self._text_bytes)

    def take(self) -> Part:
        """What has come since this was last asked."""
        part, self.part = self.part, Part()
        return part

    def _release(self, settled: Callable[[int, int], bool]) -> None:
        while self._waiting:
            told, begin = self._waiting[0]
            end = self._waiting[1][1] if len(self._waiting) > 1 else self._token_bytes
            if not settled(begin, end):
                return
            self._waiting.popleft()
            self.part.tokens.append(told)

    def _say(self, said: list[Said]) -> None:
        for one in said:
            if isinstance(one, Call):
                if not (self._one_call and self.calls):
                    self.part.calls.append(one)
                    self.calls += 1
            elif isinstance(one, Reasoning):
                self.part.reasoning += one.text
            elif not (self._one_call and self.calls):
                self.part.text += one
