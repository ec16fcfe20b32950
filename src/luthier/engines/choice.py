"""The choice of the next token of rows that may differ in everything: how they are drawn, their seeds, their grammars.

A row's logits take its bias, its penalties and its grammar; temperature 0 is the likeliest token then, the lowest of
several. Otherwise temperature divides, top_k, top_p and min_p cut off, and one number decides: where it falls among
the tokens in the order of their ids or, where anything is cut off, of their likelihood. One compiled call chooses for
all rows (`sample.c`); `drawing.py` says the same in numpy, and serves where there is no compiler. Logits on another
device are brought to the processor, so that the same logits are the same draw everywhere.

Shape suffixes: B = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from luthier.engines import drawing
from luthier.errors import LuthierError
from luthier.models.blocks.kernels import sample
from luthier.types import Sampling

if TYPE_CHECKING:
    from luthier.engines.grammar import Matcher

WORD = 2**32
"""A seed has two words, and so has what tells draws apart: its low word, then its high word with the row's number."""
ROOM = 64
"""So many tokens are made room for at first where tokens are counted."""
LIMIT = 1e6
"""No penalty and no bias is greater: beyond, fp32 no longer tells logits apart."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """A token, and how likely it was."""

    token: int
    logp: float
    """Under the model itself: temperature 1, nothing changed or cut off."""
    drawn: float
    """Under the distribution that it was drawn from; 0 where the likeliest is taken."""
    top: tuple[tuple[int, float], ...]
    """The likeliest tokens under the model itself, the lowest first among equals; as many as the row asks for, those
    that cannot come left out."""


class NoToken(LuthierError):
    """No token can be chosen for some rows. No row has changed: the others can be chosen for without them."""

    def __init__(self, rows: Sequence[int], what: str, fix: str) -> None:
        self.rows = tuple(rows)
        super().__init__(what, where=f"row {', '.join(map(str, rows))} of the batch", fix=fix)


class Choice:
    """What chooses the tokens of one row, and what it remembers of them.

    Draws depend on the seed and the row's number alone, so that they do not change with the batch around it.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int], number: int, grammar: Matcher | None = None) -> None:
        """`sampling` holds values that `check` has passed; `number` tells draws of one seed apart."""
        self.sampling, self.grammar = sampling, grammar
        seed = sampling.seed
        key = [seed % WORD, (seed // WORD) % WORD + (number % WORD) * WORD]
        self._draws = np.random.Generator(np.random.Philox(key=key))
        self.bias = _Bias(sampling.logit_bias)
        repeats = sampling.repetition_penalty != 1.0
        self._counts = repeats or bool(sampling.presence_penalty or sampling.frequency_penalty)
        self.seen = _Seen(prompt if repeats else ())
        self.mask: NDArray[np.int32] | None = None
        """The grammar's, at this place."""
        self.row = sample.Row(
            top_k=min(sampling.top_k, WORD),
            likeliest=sampling.top_logprobs,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repetition=sampling.repetition_penalty,
            presence=sampling.presence_penalty,
            frequency=sampling.frequency_penalty,
            biased=self.bias.token.ctypes.data,
            bias=self.bias.added.ctypes.data,
            biases=len(self.bias.token),
        )
        self._next()

    def _next(self) -> None:
        if self.sampling.temperature:
            self.row.draw = self._draws.random()
        self.row.seen, self.row.count, self.row.seens = self.seen.addresses()

    def ready(self, vocabulary: int) -> None:
        """Take the grammar's mask. Raises ValueError for tokens or a mask that do not fit the vocabulary."""
        for tokens in (self.bias, self.seen):
            if tokens.lowest < 0 or tokens.highest >= vocabulary:
                raise ValueError(f"choose: tokens {tokens.lowest} to {tokens.highest} of a vocabulary of {vocabulary}")
        if self.grammar is not None:
            self.mask = mask = self.grammar.mask()
            if mask.dtype != np.int32 or mask.ndim != 1 or not mask.flags.c_contiguous or len(mask) * 32 < vocabulary:
                raise ValueError(
                    f"choose: a grammar's mask is {mask.shape} of {mask.dtype}, not a bit for each of {vocabulary}"
                )
            self.row.mask = mask.ctypes.data

    def advance(self) -> Drawn:
        """Go on behind the token that was chosen."""
        row = self.row
        found = ((row.top[n], row.top_logp[n]) for n in range(self.sampling.top_logprobs))
        drawn = Drawn(row.token, row.logp, row.drawn, tuple(pair for pair in found if pair[0] >= 0))
        if self._counts:
            self.seen.add(drawn.token)
        if self.grammar is not None:
            self.grammar.accept(drawn.token)
        self._next()
        return drawn


def choose(logits_BV: Tensor, rows: Sequence[Choice]) -> list[Drawn]:
    """The next token of each row, which goes on behind it.

    What a row gets depends on its own logits and state alone, to the bit. Raises NoToken for logits that are no numbers
    and for grammars that leave no token.
    """
    if not rows:
        return []
    logits_BV = logits_BV.detach().float().cpu()
    if logits_BV.dim() != 2 or len(logits_BV) != len(rows):
        raise ValueError(f"choose: logits {list(logits_BV.shape)} of {len(rows)} rows")
    _ready(rows, logits_BV.shape[1])
    if sample.serves():
        sample.sample(logits_BV, [row.row for row in rows])
    else:
        for logits_V, row in zip(logits_BV.numpy(), rows, strict=True):
            drawing.draw(logits_V, row)
    _refuse(rows)
    return [row.advance() for row in rows]


def _ready(rows: Sequence[Choice], vocabulary: int) -> None:
    """Have every row its grammar's mask; a grammar that cannot go on ends its own row."""
    lost: dict[int, LuthierError] = {}
    for place, row in enumerate(rows):
        try:
            row.ready(vocabulary)
        except LuthierError as error:
            lost[place] = error
    if lost:
        first = next(iter(lost.values()))
        raise NoToken(list(lost), first.what, first.fix or "")


def _refuse(rows: Sequence[Choice]) -> None:
    found = [row.row.token for row in rows]
    broken = [place for place, token in enumerate(found) if token == sample.NO_NUMBER]
    if broken:
        raise NoToken(
            broken,
            "the model's logits are no numbers (NaN or infinite)",
            "look whether its weights are sound; in 16 bits, try `dtype: fp32`",
        )
    empty = [place for place, token in enumerate(found) if token == sample.NOTHING_LEFT]
    if empty:
        raise NoToken(empty, "no token can come next", "end the row where its grammar has ended")


def check(sampling: Sampling, vocabulary: int) -> None:
    """Raises LuthierError, naming the field, for a value that cannot be decoded with."""
    for name, (fits, wanted) in DEMANDS.items():
        value = getattr(sampling, name)
        if not fits(value):
            raise _wrong(name, f"is {value!r}", f"set it to {wanted}")
    told = [token for token, _ in sampling.logit_bias]
    for name, tokens in (("logit_bias", told), ("stop_ids", list(sampling.stop_ids))):
        for place, token in enumerate(tokens):
            if not _whole(token) or not 0 <= token < vocabulary:
                raise _wrong(name, f"names the token {token!r}", f"the vocabulary has 0 to {vocabulary - 1}")
            if name == "logit_bias" and token in tokens[:place]:
                raise _wrong(name, f"names the token {token} twice", "add up what is added to it")
    for token, added in sampling.logit_bias:
        if not _real(added) or abs(added) > LIMIT:
            raise _wrong("logit_bias", f"adds {added!r} to token {token}", f"add {-LIMIT:.0f} to {LIMIT:.0f}")
    if isinstance(sampling.stop, str) or not all(isinstance(stop, str) and stop for stop in sampling.stop):
        raise _wrong("stop", f"is {sampling.stop!r}", "give a list of texts, each of a character at least")


def _wrong(name: str, what: str, fix: str) -> LuthierError:
    return LuthierError(f"{name} {what}", where="sampling", fix=fix)


def _whole(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _real(x: Any) -> bool:
    """A finite number; a NaN is neither above nor below any."""
    return isinstance(x, int | float | np.number) and not isinstance(x, bool) and bool(-1e300 < x < 1e300)


_PENALTY = (lambda x: _real(x) and abs(x) <= LIMIT, f"a number from {-LIMIT:.0f} to {LIMIT:.0f}")
DEMANDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "max_new_tokens": (lambda x: _whole(x) and x >= 1, "a whole number, 1 or more"),
    "temperature": (lambda x: _real(x) and x >= 0, "a number: 0 for the likeliest token, or more"),
    "top_p": (lambda x: _real(x) and 0 < x <= 1, "a number above 0, at most 1 (nothing is cut off)"),
    "top_k": (lambda x: _whole(x) and x >= 0, "a whole number: 0 (nothing is cut off) or more"),
    "min_p": (lambda x: _real(x) and 0 <= x <= 1, "a number from 0 (nothing is cut off) to 1"),
    "repetition_penalty": (lambda x: _real(x) and 1 / LIMIT <= x <= LIMIT, f"a number above 0, at most {LIMIT:.0f}"),
    "presence_penalty": _PENALTY,
    "frequency_penalty": _PENALTY,
    "seed": (_whole, "a whole number"),
    "top_logprobs": (
        lambda x: _whole(x) and 0 <= x <= sample.LIKELIEST,
        f"a whole number from 0 to {sample.LIKELIEST}",
    ),
}
"""Of each field of one value: whether a value will do, and which do."""


class _Bias:
    """What is added to the logits of some tokens."""

    def __init__(self, pairs: Sequence[tuple[int, float]]) -> None:
        self.token = np.array([token for token, _ in pairs], np.int32)
        self.added = np.array([added for _, added in pairs], np.float32)
        self.lowest, self.highest = _span(self.token)


class _Seen:
    """The tokens that penalties fall on, and how often they were generated; arrays that grow, for C to read."""

    def __init__(self, prompt: Iterable[int]) -> None:
        distinct = np.unique(np.fromiter(prompt, np.int64))
        self.lowest, self.highest = _span(distinct)
        self._size = len(distinct)
        self._token, self._count = (np.zeros(self._size + ROOM, np.int32) for _ in range(2))
        self._token[: self._size] = distinct
        self._place = {token: place for place, token in enumerate(distinct.tolist())}

    @property
    def token(self) -> NDArray[np.int32]:
        return self._token[: self._size]

    @property
    def count(self) -> NDArray[np.int32]:
        return self._count[: self._size]

    def addresses(self) -> tuple[int, int, int]:
        """Where tokens and counts lie, and how many they are."""
        return self._token.ctypes.data, self._count.ctypes.data, self._size

    def add(self, token: int) -> None:
        """A token was generated."""
        place = self._place.setdefault(token, self._size)
        if place == self._size:
            if self._size == len(self._token):
                self._token, self._count = (np.concatenate([x, np.zeros_like(x)]) for x in (self._token, self._count))
            self._token[place] = token
            self._size += 1
            self.lowest, self.highest = min(self.lowest, token), max(self.highest, token)
        self._count[place] += 1


def _span(token: NDArray[np.integer]) -> tuple[int, int]:
    return (int(token.min()), int(token.max())) if len(token) else (0, 0)
