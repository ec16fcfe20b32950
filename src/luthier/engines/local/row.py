"""One answer under way."""

from __future__ import annotations

from collections.abc import Collection, Hashable
from dataclasses import dataclass, field
from typing import Any, Literal

from luthier.engines.choice import Choice, Drawn
from luthier.engines.local.pages import Node
from luthier.engines.text import Text, whole
from luthier.errors import LuthierError
from luthier.models.decode.step import OWN
from luthier.types import Completion, Piece, Request


@dataclass(eq=False)
class Row:
    """One of a request's answers: its tokens, how far they have been read, and where their keys and values lie."""

    request: Request
    index: int
    limit: int
    """The most tokens that may follow the prompt."""
    choice: Choice
    text: Text | None
    """Only where somebody listens, or a stop string may come up."""
    version: int
    kin: Hashable
    """Who may read each other's pages: rows of the same adapter."""
    root: Node = 0
    first: int = 0
    """Virtual tokens before the prompt."""
    adapter: int = OWN
    arrival: int = 0
    ids: list[int] = field(default_factory=list)
    """Everything so far: virtual tokens, prompt, answer."""
    read: int = 0
    """So many of them have been read, or are being read in this step."""
    pages: list[int] = field(default_factory=list)
    node: Node = 0
    """What the pages published so far hold; 0 where they are not to be found by others."""
    published: int = 0
    cached: int | None = None
    """So many tokens of the prompt had been read before when it was first let in."""
    drawn: list[Drawn] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None
    cancelled: bool = False
    error: LuthierError | None = None
    """Why it cannot go on."""

    @property
    def prompt(self) -> int:
        """Length of what is read before the first token is drawn."""
        return self.first + len(self.request.prompt)

    @property
    def rest(self) -> int:
        """Tokens that are still to be read."""
        return len(self.ids) - self.read

    def add(self, drawn: Drawn, stop: Collection[int]) -> Piece:
        """One more token was drawn."""
        self.drawn.append(drawn)
        piece = ""
        if drawn.token in stop or drawn.token in self.request.sampling.stop_ids:
            self.finish = "stop"
        else:
            self.ids.append(drawn.token)
            if self.text is not None:
                piece = self.text.add(drawn.token)
                if self.text.stopped:
                    self.finish = "stop"
            if self.finish is None and self.choice.grammar is not None and self.choice.grammar.ended:
                self.finish = "stop"
            if self.finish is None and len(self.ids) - self.prompt >= self.limit:
                self.finish = "length"
        if self.finish is not None and self.text is not None:
            piece += self.text.end()
        if piece:
            self.pieces.append(piece)
        return Piece(piece, drawn.token, drawn.logp, drawn.top, self.index)

    def completion(self, tokenizer: Any) -> Completion:
        """What it came to."""
        assert self.finish is not None
        ids = self.ids[self.prompt :]
        text = whole(tokenizer, ids) if self.text is None else "".join(self.pieces)
        top = tuple(one.top for one in self.drawn) if self.request.sampling.top_logprobs else ()
        return Completion(
            ids=tuple(ids),
            text=text,
            finish=self.finish,
            sampled=tuple(one.token for one in self.drawn),
            logprobs=tuple(one.logp for one in self.drawn),
            drawn=tuple(one.drawn for one in self.drawn),
            top=top,
            cached=self.cached or 0,
            request=self.request.id,
            index=self.index,
            adapter=self.request.adapter,
            version=self.version,
        )
