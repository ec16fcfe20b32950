"""The core types: everything is an Example, a prompt and n judged responses.

Zero responses is a task; one is SFT; a better and a worse one are DPO; one with a label is KTO; one with step
scores is a process reward; n scored samples are GRPO. This module never imports torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

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
class Unit:
    """What a loss is a mean over, the whole optimiser step long: one of the units below, or a constant."""

    name: str
    divisor: float | None = None
    """The constant that the sum over a step is divided by, whatever the step holds."""


TOKEN = Unit("token")
"""Scored tokens, each by its weight."""
ROW = Unit("row")
"""Responses."""
PAIR = Unit("pair")
"""Two responses to one prompt, of which one is better."""
STEP = Unit("step")
"""Judged steps of responses."""
DECIDED_STEP = Unit("decided step")
"""Judged steps that are right or wrong: those labelled 0 do not count."""
GROUP = Unit("group")
"""Examples: all responses to one prompt together."""


def constant(divisor: float) -> Unit:
    """A unit that does not look at the step: its sum is divided by `divisor` (Dr.GRPO's constant)."""
    return Unit("constant", divisor)


Reads = Literal["token", "row", "step"]
"""Where a scalar head is read: at every scored token, at the end of each response, or of each of its steps."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What an objective asks of the house: the recipe check, the loop and the documentation read nothing else."""

    responses: int = 1
    """How many responses to a prompt it compares, at least."""
    readouts: tuple[str, ...] = ("logp",)
    """What it reads of each scored token, by the names of `luthier.forward.readouts`: logp, mean_logp, entropy, …"""
    roles: tuple[str, ...] = ()
    """Models beside the one that trains: "reference" (log-probabilities of the same tokens under the model as it was,
    `Rows.ref_S`), "teacher" (its distribution, for the readouts that compare with one)."""
    heads: tuple[tuple[str, Reads], ...] = ()
    """Scalar heads beside the model, by role, and where each is read: ("reward", "row")."""
    rollouts: bool = False
    """Its rows are prompts; the responses are made by the model while it trains."""
    labels: bool = False
    """A reward for each response, above 0.5 good, else bad."""
    kl_baseline: bool = False
    """The step's mean log-ratio on mismatched pairs of prompt and response (`Rows.kl_baseline`)."""
    row_weights: bool = False
    """A weight for each row by where its prompt comes from (`Rows.weight_N`)."""
    whole_step: bool = False
    """Its values cannot be had from parts of a step: the whole step is laid out as one micro-batch."""
    loss_on: Literal["assistant", "last", "all"] | None = None
    """Which tokens train, whatever the recipe says; None: as the recipe says."""
    unit: Unit = TOKEN
    """What the loss is a mean over."""

    @property
    def reference(self) -> bool:
        """Does it compare with the model as it was?"""
        return "reference" in self.roles

    @property
    def reward_head(self) -> Reads | None:
        """Where it reads the head of a reward model; None where it reads none."""
        return dict(self.heads).get("reward")


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


@runtime_checkable
class StepSource(Protocol):
    """Where each optimiser step's examples come from: a file's rows in an order, or a model that writes them.

    Steps count from 0. The loop asks for each step once, in order, and asks again after it went back to a checkpoint.
    """

    @property
    def identity(self) -> str:
        """What it draws from, by content: a checkpoint goes on only where it finds the same again."""
        ...

    @property
    def total(self) -> int:
        """Optimiser steps of the run."""
        ...

    @property
    def may_prefetch(self) -> bool:
        """May step t + 1 be asked for before step t has changed the weights?"""
        ...

    def next(self, step: int, version: int) -> Sequence[Encoded]:
        """The examples of one step. `version`: how many steps the weights of the model have behind them."""
        ...

    def epoch(self, step: int) -> float:
        """Passes over its rows once step `step` is done."""
        ...

    def every(self) -> Sequence[Encoded] | TokenStore | None:
        """All examples that will come, each once; None where they are made on the way."""
        ...

    def heaviest(self, budget: int) -> Sequence[Encoded]:
        """The examples of a step that needs the most memory in micro-batches of `budget` tokens; () if not known."""
        ...

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it: plain JSON values."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Put back what `state()` gave."""
        ...


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to decode. temperature 0 is greedy. `seed` makes sampled decoding repeatable."""

    max_new_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Completion:
    """Generated tokens (the stop token left out) and why generation ended: "stop" or "length".

    Two are equal that say the same; who asked, and how likely it was, does not count.
    """

    ids: tuple[int, ...]
    text: str
    finish: Literal["stop", "length"]
    sampled: tuple[int, ...] = field(default=(), compare=False)
    """All tokens that were drawn: `ids`, and the stop token if one ended it."""
    logprobs: tuple[float, ...] = field(default=(), compare=False)
    """Of each token of `sampled` under the model itself (temperature 1, nothing cut off, no penalty), in fp32."""
    request: int | str = field(default=0, compare=False)
    """The id of the request."""
    index: int = field(default=0, compare=False)
    """Its number among the request's `n`."""
    adapter: str | None = None
    version: int = 0
    """The version of the weights when it was begun."""


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


@runtime_checkable
class Scorer(Protocol):
    """A metric, a reward and a filter in one: how good is this response to this example? None = cannot say."""

    def __call__(self, example: Example, response: Response) -> float | None: ...


@runtime_checkable
class GroupScorer(Protocol):
    """A scorer that judges the responses to one prompt beside one another: by rank, by agreement, by majority."""

    sees_group: ClassVar[bool]
    """True: `group` is what counts."""

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        """The score of each response, in order; None where it cannot say."""
        ...


@runtime_checkable
class Format(Protocol):
    """A row shape: recognised by its columns, read into an Example."""

    def matches(self, columns: frozenset[str]) -> bool: ...

    def read(self, row: Mapping[str, Any]) -> Example: ...


@runtime_checkable
class Tracker(Protocol):
    """Where the run's numbers go besides events.jsonl."""

    def log(self, event: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class Rows(Protocol):
    """The ragged rows an objective sees; `luthier.objectives.rows.Rows` is the implementation."""

    num_rows: int


class TokenStore(Protocol):
    """Tokenised examples, memory-mapped: what the data room hands to the loop."""

    digest: str
    """Content hash of the ids and weights, the same on every machine."""
    lengths: NDArray[np.int32]
    """Tokens of each example, all its responses together."""
    scored: NDArray[np.int32]
    """Scored tokens of each example."""

    @property
    def hashes(self) -> NDArray[np.uint64]:
        """Content hash of each example (ids, weights, columns), the same on every machine and in every run."""
        ...

    @property
    def responses(self) -> NDArray[np.int32]:
        """Sequences of each example."""
        ...

    @property
    def rewards(self) -> NDArray[np.float32]:
        """The reward of each sequence, example after example; NaN where nothing is known."""
        ...

    @property
    def steps(self) -> NDArray[np.int32]:
        """Judged steps of each example, all its responses together."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Encoded: ...

    def source(self, index: int) -> Source:
        """The file and row that example `index` came from."""
        ...


Columns = Iterable[str]
