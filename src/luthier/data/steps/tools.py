"""What a step may ask of the house. Models and scorers are of upper floors: they are handed in, typed by protocols."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field

from luthier.data.pii.names import Names, Recogniser
from luthier.errors import LuthierError
from luthier.types import Completion, Encoded, Engine, Example, Request, Scorer, Turn

LOCAL = "local"
"""The engine inside this process."""
Named = tuple[str, Mapping[str, Any]]
"""A plug-in as the recipe names it: its name and keys."""


class Speaking(Protocol):
    """An engine with the template of its model."""

    @property
    def engine(self) -> Engine:
        """What answers, opened when it is first asked for."""
        ...

    @property
    def identity(self) -> str:
        """What its answers hang on: weights, template, settings of the endpoint. Known without opening it."""
        ...

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """The tokens that it is to answer."""
        ...

    def encode(self, example: Example) -> Encoded:
        """A row as tokens, those of its responses scored. Raises RowFault for one that cannot be rendered."""
        ...

    def means(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row (of one sequence) the mean over its tokens of the model's last hidden states.

        Raises LuthierError where its weights are not here.
        """
        ...

    def gradients(self, rows: Sequence[Encoded], size: int, *, adam: bool) -> list[NDArray[np.float32]]:
        """For each row (of one sequence) the gradient of its mean loss by the weights of the model's LoRA, or of a
        fresh one, projected on so many numbers; with `adam` the step that Adam would take by it.

        Raises LuthierError where its weights are not here, or nothing in it can train.
        """
        ...


class Encoder(Protocol):
    """Texts as vectors, by a model that writes nothing."""

    @property
    def identity(self) -> str:
        """What the vectors hang on. Known without opening it."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[NDArray[np.float32]]:
        """The vector of each text."""
        ...


@dataclass(frozen=True)
class Budget:
    """How much a step may ask for."""

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    calls: Annotated[int, Field(gt=0)] | None = None
    """Answers at most."""
    tokens: Annotated[int, Field(gt=0)] | None = None
    """Generated tokens at most."""
    money: Annotated[float, Field(gt=0)] | None = None
    """Money at most, in the currency of `price`: what might go beyond is not asked."""
    price: dict[Literal["in", "out"], Annotated[float, Field(ge=0)]] | None = None
    """What a million tokens cost that are read (in) and generated (out). Default: `price_in` and `price_out` of the
    endpoint that is asked."""

    def __post_init__(self) -> None:
        if self.price is not None and self.price.keys() != {"in", "out"}:
            raise ValueError("a price has two parts, for a million tokens each: {in: 0.15, out: 0.6}")

    def priced(self, engine: str | Mapping[str, Any]) -> Budget:
        """The budget with the prices of the engine, where it has none of its own. Raises LuthierError where money is
        counted and nothing says what tokens cost."""
        if self.price is None:
            keys = next(iter(engine.values())) if isinstance(engine, Mapping) and engine else None
            read, written = (
                keys.get(name) if isinstance(keys, Mapping) else None for name in ("price_in", "price_out")
            )
            if read is not None and written is not None:
                return replace(self, price={"in": float(read), "out": float(written)})
            if self.money is not None:
                what, fix = (
                    "`budget` counts money, and nothing says what tokens cost",
                    "budget: {money: 5, price: {in: 0.15, out: 0.6}}",
                )
                raise LuthierError(what, where="budget.money", fix=f"give the prices of a million tokens: `{fix}`")
        return self

    def cost(self, read: int, written: int) -> float:
        """What so many tokens cost; 0 without prices."""
        return 0.0 if self.price is None else (read * self.price["in"] + written * self.price["out"]) / 1e6


class Asking(Protocol):
    """Calls that may cost money: each is written down when it is answered and never asked again."""

    def __call__(
        self, speaking: Speaking, requests: Sequence[Request], purpose: str = "", budget: Budget | None = None
    ) -> list[tuple[Completion, ...]]:
        """The answers to each request, in order. Raises LuthierError where the budget is used up."""
        ...


@dataclass(frozen=True)
class Tools:
    """What there is. In further processes there is chance alone."""

    seed: int = 0
    speakers: Callable[[Named], Speaking] | None = None
    scorers: Callable[[Named], Scorer] | None = None
    asking: Asking | None = None
    recognisers: Callable[[Names], Recogniser] | None = None
    encoders: Callable[[str], Encoder | None] | None = None
    sets: Mapping[str, Callable[[], Iterator[Example]]] = field(default_factory=dict)
    """Rows by name: `evaluate` are those that the recipe is scored on."""
    model: str | None = None
    """The recipe's own, as it begins: what a step means that names none."""

    def chance(self, example: Example, purpose: str) -> random.Random:
        """Random numbers that hang on what the row says, the seed and the purpose (the step's name), and on nothing
        else: neither on the order of rows nor on the number of processes."""
        return random.Random(draw(content(example), self.seed, purpose))

    def speaker(self, named: Named) -> Speaking:
        """An engine with its template. `named`: a run or model (empty: the recipe's, or whatever answers behind an
        endpoint), and the key `engine` with what answers as it. Raises LuthierError where there is none."""
        opened: Callable[[Named], Speaking] = _there(self.speakers, "an engine")
        model, keys = named
        if not model and keys.get("engine", LOCAL) == LOCAL:
            model = self.model or ""
        return opened((model, keys))

    def scorer(self, named: Named) -> Scorer:
        """A scorer. Raises LuthierError for an unknown one."""
        return _there(self.scorers, "a scorer")(named)

    def recogniser(self, names: Names) -> Recogniser:
        """What finds names and addresses. Raises LuthierError where there is none."""
        found: Recogniser = _there(self.recognisers, "a recogniser of names")(names)
        return found

    def encoder(self, model: str) -> Encoder | None:
        """The model as one that makes vectors of texts; None where it is a language model, or nothing is known."""
        return None if self.encoders is None else self.encoders(model)

    def ask(
        self, speaking: Speaking, requests: Sequence[Request], purpose: str, budget: Budget | None = None
    ) -> list[tuple[Completion, ...]]:
        """The answers to each request, in order, from the journal where they were asked for before: each says what was
        said, without tokens. `purpose`: the step's name, whose `budget` it is. Raises LuthierError where that is used
        up."""
        found: list[tuple[Completion, ...]] = _there(self.asking, "a model to ask")(speaking, requests, purpose, budget)
        return found

    def rows(self, name: str) -> Iterator[Example]:
        """Rows of another set. Raises LuthierError where there is no such one."""
        if name not in self.sets:
            known = ", ".join(self.sets) or "none"
            raise LuthierError(f"there are no rows called {name!r} here", fix=f"known: {known}; or give files")
        return self.sets[name]()


def _there(tool: Any, what: str) -> Any:
    if tool is None:
        raise LuthierError(f"the step needs {what}, and there is none here", fix="run it with `luthier curate`")
    return tool


def draw(key: bytes, seed: int, purpose: str) -> int:
    """64 random bits for a row: of its content, the seed and the purpose."""
    made = hashlib.blake2b(key, digest_size=8, salt=seed.to_bytes(8, "little"))
    made.update(purpose.encode())
    return int.from_bytes(made.digest(), "little")


def draws(keys: NDArray[np.uint64], seed: int, purpose: str) -> NDArray[np.uint64]:
    """The same for many rows at once, by their keys (`Reread.keys`); other bits than those of `draw`."""
    start = np.uint64(draw(b"", seed, purpose))
    mixed = keys[:, 0] ^ start
    for column, factor in ((keys[:, 1], 0xBF58476D1CE4E5B9), (start, 0x94D049BB133111EB)):  # splitmix64's
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor) + column
    return mixed ^ (mixed >> np.uint64(31))


def content(example: Example) -> bytes:
    """128 bits of what a row says: where it came from does not count."""
    from luthier.data.curation.lines import key_of

    return key_of(example)


__all__ = ["LOCAL", "Asking", "Budget", "Encoder", "Named", "Speaking", "Tools", "content", "draw", "draws"]
