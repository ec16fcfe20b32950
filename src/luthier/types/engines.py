"""Tokens out: what is asked of an engine, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from luthier.types.examples import Encoded, Turn


@dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must be a sentence of: a JSON schema, a regular expression, or a grammar in Lark's notation."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    parts: tuple[tuple[str, str], ...] = ()
    """Where it was made of JSON schemas: what each is called, and its text. A fault is told of them."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. temperature 0 is greedy. `seed` makes sampled decoding repeatable.

    In this order: bias and penalties change the logits, a grammar rules tokens out, temperature divides, top_k, top_p
    and min_p cut off.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    min_p: float = 0.0
    """Tokens less likely than this share of the likeliest are left out."""
    presence_penalty: float = 0.0
    """Taken off the logit of every token that was generated before."""
    frequency_penalty: float = 0.0
    """The same, as many times as it was generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""
    stop_ids: tuple[int, ...] = ()
    """End a sequence beside the engine's own."""
    top_logprobs: int = 0
    """So many of the likeliest tokens are told at each place."""
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt to answer `n` times. What comes of it depends on nothing that is asked beside it, nor on the order.

    The answers to one request differ where they are drawn; two requests that are equal but for their id are answered
    alike.
    """

    prompt: tuple[int, ...]
    sampling: Sampling = Sampling()
    n: int = 1
    adapter: str | None = None
    """Which of the adapters that were loaded answers; None: the model as it stands."""
    id: int | str = 0
    """Comes back with each completion."""
    turns: tuple[Turn, ...] = field(default=(), compare=False)
    """What the prompt says, before the template: an endpoint that renders messages itself is given these. () where it
    is no conversation."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), compare=False)
    """What the turns may call."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Generated tokens (the stop token left out) and why generation ended: "stop", "length", or "filtered" where an
    endpoint held the rest back.

    Two are equal that say the same; who asked, and how likely it was, does not count. From an endpoint that tells its
    text alone, `ids`, `sampled` and `logprobs` are empty: it may be judged and may fill rows, but no ratio of
    probabilities can be taken of it.
    """

    ids: tuple[int, ...]
    text: str
    finish: Literal["stop", "length", "filtered"]
    sampled: tuple[int, ...] = field(default=(), compare=False)
    """All tokens that were drawn: `ids`, and the stop token if one ended it."""
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    """Of each token of `sampled` under the model itself (temperature 1, nothing cut off, no penalty), in fp32."""
    drawn: tuple[float, ...] = field(default=(), compare=False)
    """The same under the distribution that it was drawn from; 0 where decoding is greedy."""
    top: tuple[tuple[tuple[int, float], ...], ...] = field(default=(), compare=False)
    """For each token of `sampled` the likeliest (token, log-probability under the model itself), if asked for."""
    top_texts: tuple[tuple[tuple[str, float], ...], ...] = field(default=(), compare=False)
    """The same of an endpoint that tells its tokens as text alone."""
    cached: int = field(default=0, compare=False)
    """So many tokens of the prompt had been read before."""
    length: int | None = field(default=None, compare=False)
    """How many tokens were generated, where `sampled` does not say it."""
    read: int | None = field(default=None, compare=False)
    """How many tokens the prompt has, as an endpoint counts them."""
    request: int | str = field(default=0, compare=False)
    """The id of the request."""
    index: int = field(default=0, compare=False)
    """Its number among the request's `n`."""
    adapter: str | None = None
    version: int = 0
    """The version of the weights when it was begun."""


@dataclass(frozen=True, slots=True)
class Piece:
    """One more token of an answer, and the text that it settled (which may be empty, or that of several tokens)."""

    text: str
    token: int
    logp: float
    top: tuple[tuple[int, float], ...] = ()
    index: int = 0
    """Which of the request's answers."""
    completion: Completion | None = None
    """With the last piece of an answer, the whole."""


@runtime_checkable
class Engine(Protocol):
    """Tokens out. One engine holds one model; prompts are token ids rendered by the chat template."""

    @property
    def context(self) -> int | None:
        """The longest sequence that its model can read, in tokens; None where that is not known."""
        ...

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """All completions of the requests, each as it ends.

        Raises LuthierError, before any is begun, for a prompt that cannot be answered and for an adapter that is not
        loaded.
        """
        ...

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """One completion for each prompt, in order; equal prompts are drawn for apart."""
        ...

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece."""
        ...

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """For each row, the log-probability of each scored token of its responses, one response after the other."""
        ...

    def load_adapter(self, name: str, folder: str) -> None:
        """Make an adapter in PEFT's format answer the requests that name it.

        Raises LuthierError where the folder holds none that fits, or the name is taken.
        """
        ...

    def drop_adapter(self, name: str) -> None:
        """Forget an adapter that was loaded. Raises LuthierError, naming those loaded, where there is none such."""
        ...

    def sync(self, version: int) -> None:
        """Take over the weights that training has come to; completions begun from now on carry this version."""
        ...
