"""From a recipe to what the loop trains on: read, encode, fit, count, keep on disk, mix, hold out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from luthier import __version__, cache
from luthier.data.feeds import Feed, feed
from luthier.data.ledger import Ledger
from luthier.data.mask import Tokens
from luthier.data.mixing import held_out, mix
from luthier.data.rendering import RowFault
from luthier.data.store import Store, View, Writer, content_hash, digest
from luthier.data.template import Coded, Score, Template
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.types import Example, Source, TokenStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LAYOUT = 2
"""Raise when what is stored, or how rows become tokens, changes: old caches are then not found any more."""
BATCH = 512
NO_ROOM = "no scored token is left within train.max_tokens"


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and checks itself with."""

    train: TokenStore
    validation: TokenStore | None
    ledger: Ledger


def prepare(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Prepared:
    """Tokens of the recipe's data, from the cache where they are there already.

    Raises LuthierError for data that cannot be read, rows longer than train.max_tokens where long_rows is error,
    nothing to train on, and a share of lost rows above train.max_lost.
    """
    template = Template(tokenizer)
    train = _stored([feed(entry) for entry in recipe.data], recipe, template)
    apart = _stored([feed(entry) for entry in recipe.validate.data], recipe, template) if recipe.validate.data else None
    ledger = train.ledger
    out = held_out(train.store.arrays["groups"], 0.0 if apart else recipe.validate.share)
    weights, samples = [one.entry.weight for one in train.feeds], [one.samples for one in train.feeds]
    order = mix(train.store.arrays["feeds"], np.flatnonzero(~out), weights, samples, recipe.seed)
    view = View(train.store, order, digest(train.store, order))
    ledger.held_out = int(out.sum())
    used = np.bincount(train.store.arrays["feeds"][order], minlength=len(train.feeds))
    for one, count in zip(train.feeds, used, strict=True):
        ledger.sources[one.name].used += int(count)
    ledger.measure(view.lengths, view.scored)
    _refuse(ledger, recipe.train.max_lost, len(view))
    validation = None
    if apart:
        apart.ledger.measure(apart.store.lengths, apart.store.scored)
        _refuse(apart.ledger, recipe.train.max_lost, len(apart.store))
        ledger.validation = apart.ledger
        everything = np.arange(len(apart.store))
        validation = View(apart.store, everything, digest(apart.store, everything))
    elif out.any():
        chosen = np.flatnonzero(out)
        validation = View(train.store, chosen, digest(train.store, chosen))
    return Prepared(view, validation, ledger)


def _refuse(ledger: Ledger, max_lost: float, examples: int) -> None:
    """Raises LuthierError when there is nothing to train on, or more is lost than the recipe allows."""
    why = "; ".join(f"{r} ({entry.count:,}×, first {entry.rows[0]})" for r, entry in ledger.main_reasons()[:3])
    fix = next((entry.fix for _, entry in ledger.main_reasons() if entry.fix), None)
    if not examples:
        raise LuthierError(
            f"nothing to train on: none of {ledger.rows_read:,} rows is left: {why}", where="data", fix=fix
        )
    if ledger.lost > max_lost:
        raise LuthierError(
            f"{ledger.lost:.1%} of {ledger.rows_read:,} rows are lost, train.max_lost allows {max_lost:.1%}: {why}",
            where="data",
            fix=f"{fix}; or raise train.max_lost" if fix else "mend those rows, or raise train.max_lost",
        )


@dataclass
class _Stored:
    feeds: list[Feed]
    store: Store
    ledger: Ledger


def _stored(feeds: list[Feed], recipe: Recipe, template: Template) -> _Stored:
    """The feeds' examples as a store: found in the cache, or read and put there."""
    rules = Rules.of(recipe)
    key = [LAYOUT, __version__, template.digest, repr(rules), [one.key() for one in feeds]]
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    folder = cache.root() / "tokens" / name
    if not (folder / "ledger.json").is_file():
        with cache.whole_folder(folder, "the token cache") as temporary:
            ledger = _fill(feeds, rules, template, temporary)
            (temporary / "ledger.json").write_text(json.dumps(ledger.to_json()), encoding="utf-8")
    ledger = Ledger.from_json(json.loads((folder / "ledger.json").read_text(encoding="utf-8")))
    return _Stored(feeds, Store(folder / "store"), ledger)


def _fill(feeds: list[Feed], rules: Rules, template: Template, folder: Path) -> Ledger:
    ledger, fitting = Ledger(), Fitting(rules)
    seen: set[int] = set()
    with Writer(folder / "store") as writer:
        for number, one in enumerate(feeds):
            for example, outcome in _encoded(one, ledger, template, rules.score):
                assert example.source is not None
                kept = _kept(one.name, example.source, outcome, ledger, fitting, seen)
                for coded in kept:
                    writer.add(coded, example.source, number)
    fitting.complain(ledger)
    return ledger


def _encoded(
    one: Feed, ledger: Ledger, template: Template, score: Score
) -> Iterator[tuple[Example, Coded | LuthierError]]:
    rows = one.examples(ledger)
    while batch := list(itertools.islice(rows, BATCH)):
        yield from zip(batch, template.encode_batch(batch, score), strict=True)


def _kept(
    name: str, source: Source, outcome: Coded | LuthierError, ledger: Ledger, fitting: Fitting, seen: set[int]
) -> list[Coded]:
    """What of a row goes into the store: nothing, one example, or the parts of a long text. The ledger knows why."""
    if isinstance(outcome, RowFault):
        ledger.drop(name, source, outcome.what, outcome.fix)
        return []
    if isinstance(outcome, LuthierError):
        raise outcome
    if not any(tokens.weights_T.any() for tokens in outcome.sequences):
        ledger.unscored += 1
        ledger.drop(name, source, "no token of it is scored")
        return []
    found = content_hash(outcome)
    if found in seen:
        ledger.duplicates += 1
        if fitting.rules.dedup:
            ledger.deduplicated += 1
            ledger.drop(name, source, "its tokens equal an earlier row's (train.dedup)")
            return []
    seen.add(found)
    parts = fitting.fit(outcome, ledger, source)
    if isinstance(parts, str):
        ledger.drop(name, source, parts)
        return []
    ledger.keep(name)
    return parts


@dataclass(frozen=True)
class Rules:
    """What of a recipe decides how a row becomes tokens."""

    max_tokens: int
    long_rows: Literal["error", "drop", "truncate"]
    score: Score
    dedup: bool

    @classmethod
    def of(cls, recipe: Recipe) -> Rules:
        """The recipe's rules. Pre-training scores every token."""
        train = recipe.train
        score: Score = "all" if recipe.objective.name == "pretrain" else train.score
        return cls(train.max_tokens, train.long_rows, score, train.dedup)


@dataclass
class Fitting:
    """Fits rows to train.max_tokens and remembers those that do not fit."""

    rules: Rules
    too_long: int = 0
    longest: int = 0
    first: Source | None = None

    def fit(self, coded: Coded, ledger: Ledger, source: Source) -> list[Coded] | str:
        """The row as it is, in parts, cut behind a turn, or the reason why it is dropped."""
        limit = self.rules.max_tokens
        length = max(len(tokens.ids_T) for tokens in coded.sequences)
        if length <= limit:
            return [coded]
        if coded.text:
            ledger.split += 1
            parts = [part for part in _split(coded.sequences[0], limit) if part.weights_T.any()]
            return [replace(coded, sequences=[part]) for part in parts]
        if self.rules.long_rows == "error":
            self.too_long, self.longest, self.first = self.too_long + 1, max(self.longest, length), self.first or source
            return f"longer than train.max_tokens={limit}"
        if self.rules.long_rows == "drop":
            return f"longer than train.max_tokens={limit} (train.long_rows: drop)"
        cut = [_cut(tokens, limit) for tokens in coded.sequences]
        kept = [tokens for tokens in cut if tokens is not None]
        if not kept or (len(kept) < len(cut) and not coded.turns):
            ledger.unscored += 1
            return NO_ROOM
        ledger.truncated += 1
        return [replace(coded, sequences=kept)]

    def complain(self, ledger: Ledger) -> None:
        """Raises LuthierError for rows that are too long, if the recipe calls that an error."""
        if self.too_long:
            raise LuthierError(
                f"{self.too_long:,} of {ledger.rows_read:,} rows are longer than "
                f"train.max_tokens={self.rules.max_tokens} (the longest has {self.longest:,} tokens)",
                where=str(self.first),
                fix="raise train.max_tokens, or set train.long_rows to truncate (keeps whole turns) or drop",
            )


def _split(tokens: Tokens, limit: int) -> list[Tokens]:
    """A plain text in parts of at most `limit` tokens, each token in exactly one."""
    parts = []
    for start in range(0, len(tokens.ids_T), limit):
        weights_T = tokens.weights_T[start : start + limit].copy()
        weights_T[:1] = 0  # nothing predicts a part's first token
        parts.append(Tokens(tokens.ids_T[start : start + limit], weights_T, []))
    return parts


def _cut(tokens: Tokens, limit: int) -> Tokens | None:
    """The sequence up to its last scored turn that ends within `limit`; None when none does."""
    ends = [end for end in tokens.ends if end <= limit]
    if not ends:
        return None
    return Tokens(tokens.ids_T[: ends[-1]], tokens.weights_T[: ends[-1]], ends)


__all__: Sequence[str] = ["Fitting", "Prepared", "Rules", "prepare"]
