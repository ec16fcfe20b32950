"""What each client asks, all of it drawn from its number: so that the same can be asked of the engine afterwards."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SUBJECTS = (
    *("a lighthouse", "copper", "the sea at night", "a slow train", "bread", "snow in April", "an old map", "chess"),
    *("a small garden", "rivers", "a paper boat", "the moon", "tea", "a broken clock", "bees", "a long bridge"),
)
NONCE = re.compile(r"n\d{4}x[0-9a-f]{8}")
CHAT, ECHO, LOGPROBS, BASE, STREAM, LEAVES = 0.7, 0.4, 0.3, 0.1, 0.6, 0.2
"""Shares: conversations; of the others those that are told again; of all those with log-probabilities, without an
adapter, streamed, given up."""
RARE = 0.15
"""Of those that are told again with log-probabilities, so many are kept: each has the model to itself for a while."""
SKEW = 1.1
"""Of Zipf's law: the adapter at place k is asked for in proportion to k^-SKEW."""
SHORTEST, LONGEST = 8, 24
"""Tokens of an answer."""
WAYS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0},
    {"temperature": 0.7, "top_p": 0.9},
    {"temperature": 1.0, "top_k": 40},
    {"temperature": 0.8, "min_p": 0.05, "repetition_penalty": 1.2},
    {"temperature": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.3, "logit_bias": {"28": -5.0}},
    {"temperature": 0.0, "stop": ["\n"]},
)


def nonce(seed: int, client: int) -> str:
    """A number that only this client has."""
    return f"n{client:04d}x{random.Random(f'{seed}/{client}').getrandbits(32):08x}"


@dataclass(frozen=True)
class Plan:
    """One request of one client."""

    client: int
    number: int
    nonce: str
    chat: bool
    body: dict[str, Any]
    seed: int = 0
    leaves: float | None = None
    """Where the client gives up, between 0 (has just asked) and 1 (has nearly all of it); None: it stays."""

    def foreign(self, text: str) -> set[str]:
        """The numbers in a text that are another client's. A model that copies its own badly has said nobody's."""
        return {one for one in NONCE.findall(text) if one != self.nonce and one == nonce(self.seed, int(one[1:5]))}

    @property
    def path(self) -> str:
        """Where it is asked."""
        return "/v1/chat/completions" if self.chat else "/v1/completions"


@dataclass
class Mix:
    """Who is asked for how often, and how many give up."""

    base: str
    adapters: Sequence[str]
    leaves: float = LEAVES
    seed: int = 0
    weights: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.weights = [(place + 1) ** -SKEW for place in range(len(self.adapters))]

    def plan(self, client: int, number: int) -> Plan:
        """The request of this number."""
        drawn = random.Random(f"{self.seed}/{client}/{number}")
        own = nonce(self.seed, client)
        chat = drawn.random() < CHAT
        words = f"Write a line about {drawn.choice(SUBJECTS)} for guest {number}. My number is {own}."
        body: dict[str, Any] = {"messages": [{"role": "user", "content": words}]} if chat else {"prompt": words}
        body["model"] = self.base
        if self.adapters and drawn.random() >= BASE:
            body["model"] = drawn.choices(self.adapters, self.weights)[0]
        body |= drawn.choice(WAYS)
        body |= {"max_tokens": drawn.randint(SHORTEST, LONGEST), "seed": drawn.getrandbits(40)}
        body["stream"] = drawn.random() < STREAM
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        if not chat and drawn.random() < ECHO:
            body["echo"] = True
        if drawn.random() < LOGPROBS * (RARE if "echo" in body else 1):
            body |= {"logprobs": True, "top_logprobs": 2} if chat else {"logprobs": 1}
        leaves = drawn.random() if drawn.random() < self.leaves else None
        return Plan(client, number, own, chat, body, self.seed, leaves)
