"""Everything is an Example, a prompt and n judged responses; and an Example as token ids."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier import columns

RAW = "text"
"""The role of a turn that is taken as it stands, without a chat template (continued pre-training)."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One message. `weight`: how much its tokens train (None = the objective and the role decide, 0 = not at all)."""

    role: str
    text: str
    weight: float | None = None
    media: tuple[str, ...] = ()
    calls: tuple[Mapping[str, Any], ...] = ()
    """Tool calls the assistant makes in this turn, in OpenAI's shape: {"type": "function", "function": {...}}."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Further message keys handed to the chat template: name, tool_call_id, reasoning_content."""
    unread: tuple[str, ...] = field(default=(), compare=False, repr=False)
    """Keys of the message that nothing reads; the ledger names them."""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer to a prompt, with what is known of its worth. `by` names who wrote it."""

    turns: tuple[Turn, ...]
    reward: float | None = None
    step_rewards: tuple[float, ...] | None = None
    logp: tuple[float, ...] | None = None
    """The log-probability of each of its tokens, under the model that is asked or that it was drawn from."""
    by: str | None = None
    ids: tuple[int, ...] | None = None
    """The tokens that its last turn was sampled as, and the stop token: its text, tokenised again, may be others."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where an example came from: the file (or data set) and its line or row number, counted from 1."""

    path: str
    row: int

    def __str__(self) -> str:
        return f"{self.path}:{self.row}"


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and n judged responses. Earlier assistant turns of a conversation stand in the prompt."""

    prompt: tuple[Turn, ...]
    responses: tuple[Response, ...] = ()
    answer: str | None = None
    tools: tuple[Mapping[str, Any], ...] = ()
    source: Source | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Media:
    """A picture or a sound among a response's tokens: `length` of them from `start` on stand for it."""

    key: str
    """Hash of its content."""
    start: int
    length: int


@dataclass(frozen=True)
class Encoded:
    """An example as token ids. `ids[i]` and `weights[i]` belong to response i and have equal length T_i.

    `weights[i][t]` is the weight of token t as a prediction target (0 = context only; `weights[i][0]` is always 0).
    The first `shared` ids of all sequences are equal and unscored: they are computed once.
    """

    ids: tuple[NDArray[np.int32], ...]
    weights: tuple[NDArray[np.float32], ...]
    shared: int = 0
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it, by the names declared in `luthier.columns`; what is absent has its column's fill."""
    source: Source | None = None
    """Where it came from: names it in error messages and events."""
    media: tuple[tuple[Media, ...], ...] = ()
    """For each response what stands for pictures or sound; () where there are none."""

    def __len__(self) -> int:
        """Tokens laid out whole, the shared ones counted once per response."""
        return sum(len(ids) for ids in self.ids)

    def column(self, name: str) -> Any:
        """A column's values in the form of its level, filled where nothing is known."""
        return columns.of(name).values(self.columns.get(name), self.ids, self.columns.get(columns.STEP_END))

    @cached_property
    def identity_ids(self) -> tuple[NDArray[np.int64], ...]:
        """For each response ids that are equal only where the model reads the same: a token that stands for a picture
        has a number of its own for each content and place in it."""
        if not any(self.media):
            return tuple(ids.astype(np.int64) for ids in self.ids)
        return tuple(_with_media(ids, media) for ids, media in zip(self.ids, self.media, strict=True))

    @cached_property
    def key(self) -> bytes:
        """What it is, whatever store it lies in: a hash of all that the model reads and of which tokens are scored."""
        made = hashlib.blake2b(digest_size=16)
        for ids, weights in zip(self.identity_ids, self.weights, strict=True):
            made.update(len(ids).to_bytes(4, "little"))
            made.update(ids.astype("<i8").tobytes())
            made.update(np.asarray(weights, "<f4").tobytes())
        return made.digest()

    @property
    def scored(self) -> int:
        """How many of its tokens are scored, all responses together."""
        return sum(int(np.count_nonzero(weights[1:])) for weights in self.weights)


def _with_media(ids: NDArray[np.int32], media: Sequence[Media]) -> NDArray[np.int64]:
    known = ids.astype(np.int64)
    for item in media:
        first = int.from_bytes(hashlib.blake2b(item.key.encode(), digest_size=5).digest(), "little")
        known[item.start : item.start + item.length] = -((first << 20) + np.arange(item.length) + 1)
    return known
