"""From the engine's pieces to what a client is told: text, tool calls, log-probabilities, and why it ended.

A stream takes what is new from time to time, a whole answer takes all at the end: both are made here, and alike.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from luthier.engines.text import Text
from luthier.serve.words.calls import Call, Parser, Plain, Reasoning, Said
from luthier.serve.words.tokens import Told
from luthier.types import Completion, Piece


@dataclass
class Part:
    """What has come of one answer since the last time."""

    text: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    tokens: list[Told] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    """All that were drawn, whether they are told as text or not."""
    finish: str | None = None

    @property
    def empty(self) -> bool:
        """Is there nothing to tell?"""
        return not (self.text or self.reasoning or self.calls or self.tokens or self.finish)


class Answer:
    """One answer under way."""

    def __init__(
        self, place: tuple[int, int], tokenizer: Any, parser: Parser, *, logprobs: Logprobs, one_call: bool = False
    ) -> None:
        """`place`: which prompt it answers, and its number among the answers. `one_call`: of several calls the first
        alone is told."""
        self.place, self.number = place
        self._tokenizer, self._parser, self._logprobs, self._one_call = tokenizer, parser, logprobs, one_call
        self._special: frozenset[int] = frozenset() if isinstance(parser, Plain) else _special(tokenizer)
        self.part = Part()
        self.calls = 0
        """Calls found so far, told or not."""
        self.begun, self.characters = False, 0
        """Has a part of it been told, and how long is what was?"""
        self.completion: Completion | None = None

    def add(self, piece: Piece) -> None:
        """One more piece from the engine."""
        done = piece.completion
        ended = done is not None and len(done.sampled) > len(done.ids)  # by a token that is no part of the answer
        marker = ""
        if piece.token in self._special and not ended:  # marks a call, and is no text to the engine
            marker = str(self._tokenizer.convert_ids_to_tokens(piece.token))
        self._say(self._parser.feed(marker + piece.text))
        if done is not None:
            self._say(self._parser.end())
            self.completion = done
            self.part.finish = "tool_calls" if self.calls and done.finish == "stop" else done.finish
        told = None if ended and not self._logprobs.all else Told(piece.token, piece.logp, piece.top)
        self.part.ids.append(piece.token)
        self.part.tokens += self._logprobs.add(told, len(piece.text), last=done is not None)

    def take(self) -> Part:
        """What has come since this was last asked."""
        part, self.part = self.part, Part()
        return part

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


class Logprobs:
    """Tokens that are told with their log-probabilities: none whose text is held back, for it may become a stop string.

    Whoever asks for none is told none.
    """

    def __init__(self, tokenizer: Any, *, asked: bool, stops: bool, all_drawn: bool = False) -> None:
        """`all_drawn`: those of stop tokens and stop strings, too."""
        self._asked, self.all = asked, all_drawn
        self._text = Text(tokenizer) if asked and stops and not all_drawn else None
        self._waiting: deque[tuple[Told, int | None]] = deque()
        """With where each one's text ends; None: its bytes are no whole character yet."""
        self._begin, self._seen, self._settled = 0, 0, 0

    def add(self, told: Told | None, characters: int, *, last: bool) -> list[Told]:
        """The tokens that can be told now. `told`: the newest, of which (and before) so much text was settled."""
        if not self._asked:
            return []
        if self._text is None:
            return [] if told is None else [told]
        self._settled += characters
        if told is not None:
            self._waiting.append((told, None))
            self._saw(len(self._text.add(told.token)))
        if last:
            self._saw(len(self._text.end()) or None)
        found: list[Told] = []
        while self._waiting:
            first, end = self._waiting[0]
            if end is None or (end > self._settled and not (last and self._begin < self._settled)):
                break
            self._waiting.popleft()
            self._begin = end
            found.append(first)
        return found

    def _saw(self, characters: int | None) -> None:
        """So many characters more are whole: they are those of the tokens that had none yet."""
        if characters:
            self._seen += characters
            self._waiting = deque((told, self._seen if end is None else end) for told, end in self._waiting)


def _special(tokenizer: Any) -> frozenset[int]:
    """Tokens that are no text to the engine."""
    return frozenset(token for token, added in tokenizer.added_tokens_decoder.items() if added.special)
