"""What a teacher said of the rows' tokens, where the rows bring it: as OpenAI's endpoints tell `logprobs`.

A row's answer is laid token by token beside what was told of it. What is not told (the turn's end, earlier turns of the
assistant) counts as said with certainty: those tokens are learnt as text. Log-probabilities may be of OpenAI's chats
(`content`, each token with its `top_logprobs`), of its completions (`tokens`, `top_logprobs`), or token ids:
`{ids: […], top: [[[id, logprob], …], …]}`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.types import Encoded, Source

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.forward.head import Likeliest
    from luthier.train.roles.teacher import Once

COLUMN = "logprobs"
CERTAIN = 1e-4
"""What is left to all other tokens where nobody says how sure the teacher was."""
AT_THE_END = 4
"""So many tokens may follow what is told of: those that a template ends a turn with."""
BY_NUMBER = re.compile(r"token_id:(\d+)")
"""How vLLM writes tokens that it is asked to tell by number."""
Top = list[tuple[int, float]]


class Misfit(Exception):
    """A row of which something cannot be used; why."""


@dataclass(frozen=True)
class Spoken:
    """What is told of an answer: its tokens, and at each the likeliest."""

    ids: list[int]
    tops: list[Top]


@dataclass
class SaidByRows:
    """Implements `luthier.train.roles.teacher.Said`."""

    recipe: Recipe
    template: Template
    about: str = "the rows' teacher"
    certain: int = 0
    """Places of which nothing is told."""
    otherwise: list[str] = field(default_factory=list)
    """Rows whose answer the teacher said as other tokens."""

    @cached_property
    def identity(self) -> tuple[str, ...]:
        """The content of the files, and the tokens that texts are taken for."""
        from luthier.data.reading.feeds import feed

        recipe = self.recipe
        return (
            "rows",
            json.dumps([feed(entry).key() for entry in self._entries]),
            self.template.digest,
            repr(recipe.train.max_lost),
        )

    @property
    def digest(self) -> str:
        """The same, short."""
        return hashlib.sha256("\0".join(self.identity).encode()).hexdigest()

    @property
    def _entries(self) -> tuple[Any, ...]:
        return (*self.recipe.data, *self.recipe.validate.data)

    def read(self, rows: Once, width: int) -> Iterator[Likeliest]:
        """Of each row. Raises LuthierError for a row of which nothing is told, for tokens that the model does not have,
        and where more rows than `train.max_lost` allows were said as other tokens than the model's."""
        told, self.certain, self.otherwise = self._told(), 0, []
        for place in range(len(rows)):
            row = rows[place]
            where = str(row.source)
            if row.source not in told:
                raise LuthierError(
                    f"the row has no `{COLUMN}`, and no teacher is named",
                    where=where,
                    fix="take rows that bring them for every answer, or name a teacher: `teacher: {model: …, top: …}`",
                )
            scored = _scored(row)
            try:
                spoken = self._spoken(told[row.source], width)
                begin = _begin(scored, spoken.ids)
            except Misfit as error:
                raise LuthierError(
                    f"`{COLUMN}` of the row cannot be used: {error}",
                    where=where,
                    fix="take what a teacher of the same vocabulary said; docs/on-policy.md shows the shapes",
                ) from error
            if begin is None:
                self.otherwise.append(where)
                spoken, begin = Spoken([], []), 0
            self.certain += len(scored) - len(spoken.ids)
            yield _likeliest(scored, spoken, begin, width)
        self._complain(len(rows))

    def _complain(self, rows: int) -> None:
        from luthier.workflow.screen import say

        if len(self.otherwise) > self.recipe.train.max_lost * rows:
            raise LuthierError(
                f"{len(self.otherwise):,} of {rows:,} rows hold other tokens than those that `{COLUMN}` is about",
                where=self.otherwise[0],
                fix="take what a teacher of the same vocabulary said of this very answer; or raise train.max_lost: "
                "such rows are then learnt as text",
            )
        if self.otherwise:
            named = ", ".join(self.otherwise[:3]) + (" …" if len(self.otherwise) > 3 else "")
            say(f"{len(self.otherwise):,} rows were said as other tokens, and are learnt as text: {named}")
        if self.certain:
            say(f"{self.certain:,} tokens of which nothing is told (ends of turns) are learnt as text")

    def _told(self) -> dict[Source | None, Any]:
        """What each row brings, by where it stands."""
        from luthier.data import read
        from luthier.data.ledger import Ledger

        found = read(self._entries, Ledger())
        return {example.source: example.meta[COLUMN] for example in found if example.meta.get(COLUMN) is not None}

    # one row
    def _spoken(self, value: Any, width: int) -> Spoken:
        value = _plain(value)
        if isinstance(value, Mapping) and "ids" in value:
            return self._checked(_by_ids(value), width)
        if isinstance(value, Mapping) and "tokens" in value:
            tops = [[*(top or {}).items()] for top in _listed(value, "top_logprobs")]
            pairs = zip(_listed(value, "tokens"), _listed(value, "token_logprobs"), tops, strict=False)
            entries = [
                ({"token": t, "logprob": p}, [{"token": o, "logprob": q} for o, q in top]) for t, p, top in pairs
            ]
        else:
            content = _listed(value, "content") if isinstance(value, Mapping) else value
            if not isinstance(content, Sequence) or not all(isinstance(one, Mapping) for one in content):
                raise Misfit("it is neither `content`, nor `tokens`, nor `ids`")
            entries = [(one, one.get("top_logprobs") or []) for one in content]
        ids = [self._token(one) for one, _ in entries]
        tops = [[(self._token(other), _number(other)) for other in top] or [(token, _number(one))]
                for token, (one, top) in zip(ids, entries, strict=True)]  # fmt: skip
        return self._checked(Spoken(ids, tops), width)

    def _checked(self, spoken: Spoken, width: int) -> Spoken:
        """Its tokens falling, at most `width` of them, each once."""
        if not spoken.ids or len(spoken.ids) != len(spoken.tops):
            raise Misfit(f"it tells of {len(spoken.tops):,} places and {len(spoken.ids):,} tokens")
        size, tops = len(self.template.tokenizer), []
        for top in spoken.tops:
            falling: dict[int, float] = {}
            for token, logp in sorted(top, key=lambda pair: -pair[1]):
                if not 0 <= token < size:
                    raise Misfit(f"there is no token {token}: the vocabulary has {size:,}")
                falling.setdefault(token, min(logp, 0.0))
            if not falling or sum(math.exp(logp) for logp in falling.values()) > 1.01:
                raise Misfit("log-probabilities of a token are missing, or add up to more than 1")
            tops.append(list(falling.items())[:width])
        return Spoken(spoken.ids, tops)

    def _token(self, entry: Mapping[str, Any]) -> int:
        text, raw = entry.get("token"), entry.get("bytes")
        if isinstance(text, str) and (number := BY_NUMBER.fullmatch(text)):
            return int(number[1])
        try:
            found = None if raw is None else self._by_bytes.get(bytes(raw))
        except (TypeError, ValueError) as error:
            raise Misfit(f"the bytes of {text!r} are no bytes") from error
        if found is None and isinstance(text, str):
            found = self._by_text.get(text)
        if found is None:
            raise Misfit(f"the model has no token {text!r}: the teacher has another vocabulary")
        return found

    @cached_property
    def _by_bytes(self) -> dict[bytes, int]:
        return {raw: token for token, _, raw in reversed(self._known)}

    @cached_property
    def _by_text(self) -> dict[str, int]:
        return {text: token for token, text, _ in reversed(self._known)}

    @cached_property
    def _known(self) -> list[tuple[int, str, bytes]]:
        """Each token of the model as endpoints write it."""
        from luthier.serve.words.tokens import text_and_bytes

        tokenizer = self.template.tokenizer
        return [(token, *text_and_bytes(tokenizer, token)) for token in range(len(tokenizer))]


def _plain(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Misfit("it is text, but not JSON") from error


def _listed(value: Mapping[str, Any], key: str) -> list[Any]:
    found = value.get(key)
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise Misfit(f"{key!r} is no list")
    return list(found)


def _by_ids(value: Mapping[str, Any]) -> Spoken:
    ids, tops = _listed(value, "ids"), _listed(value, "top")
    try:
        return Spoken([int(token) for token in ids], [[(int(t), float(p)) for t, p in top] for top in tops])
    except (TypeError, ValueError) as error:
        raise Misfit("'ids' are not token ids, or 'top' not pairs of an id and a log-probability at each") from error


def _number(entry: Mapping[str, Any]) -> float:
    value = entry.get("logprob")
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        raise Misfit(f"the log-probability of {entry.get('token')!r} is {value!r}")
    return float(value)


def _scored(row: Encoded) -> list[int]:
    """The scored tokens of its responses."""
    return [int(t) for ids, weights in zip(row.ids, row.weights, strict=True) for t in ids[1:][weights[1:] != 0]]


def _begin(scored: Sequence[int], ids: Sequence[int]) -> int | None:
    """Where among the scored tokens the answer stands: at their end, but for what ends the turn."""
    last = len(scored) - len(ids)
    for begin in range(last, max(-1, last - AT_THE_END - 1), -1):
        if list(scored[begin : begin + len(ids)]) == list(ids):
            return begin
    return None


def _likeliest(scored: Sequence[int], spoken: Spoken, begin: int, width: int) -> Likeliest:
    import torch

    from luthier.forward.buckets import NONE
    from luthier.forward.head import Likeliest

    ids = np.full((len(scored), width), NONE, np.int64)
    logp: NDArray[np.float32] = np.full((len(scored), width), -np.inf, np.float32)
    rest = np.full(len(scored), math.log(CERTAIN), np.float32)
    ids[:, 0], logp[:, 0] = scored, math.log1p(-CERTAIN)
    for place, top in enumerate(spoken.tops, begin):
        count = len(top)
        ids[place], logp[place] = NONE, -np.inf
        ids[place, :count], logp[place, :count] = [token for token, _ in top], [p for _, p in top]
        left = 1 - math.fsum(math.exp(p) for _, p in top)
        rest[place] = math.log(max(left, 1e-9))  # endpoints round: next to nothing is not nothing
    return Likeliest(torch.from_numpy(ids), torch.from_numpy(logp), torch.from_numpy(rest))
