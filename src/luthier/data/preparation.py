"""From a recipe to what the loop trains on: read, encode, fit, count, keep on disk, mix, hold out."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from luthier import __version__, cache
from luthier.data.curation.feeds import CuratedFeed, opened
from luthier.data.curation.stages import Settings
from luthier.data.encode.rendering import RowFault
from luthier.data.encode.template import Template
from luthier.data.encode.tokenised import Tokenised
from luthier.data.encode.truncation import EQUAL, Rules, Truncation
from luthier.data.ledger import Ledger
from luthier.data.measuring import Measuring, Told
from luthier.data.mixing import Rows, Shares, held_out, mix
from luthier.data.overlap import Overlap, overlaps
from luthier.data.reading.feeds import Feed
from luthier.data.selecting.tokens import cleaned, in_part
from luthier.data.store import Store, View, Writer, content_hash, digest, group_hash
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.recipe.mixture import Mix
from luthier.types import Example, Needs, Source, TokenStore

if TYPE_CHECKING:
    pass

LAYOUT = 9
"""Raise when what is stored, or how rows become tokens, changes: old caches are then not found any more."""
BATCH = 512
PLAIN = Needs()
"""Those of an objective that takes rows as the recipe gives them."""


@dataclass(frozen=True)
class Prepared:
    """What a run trains on and checks itself with."""

    train: TokenStore
    validation: TokenStore | None
    ledger: Ledger
    overlaps: tuple[Overlap, ...] = ()
    """What of the recipe's tasks trains, too."""

    def refuse_lost(self, max_lost: float) -> None:
        """Raises LuthierError where more rows are lost than this share."""
        for ledger in filter(None, (self.ledger, self.ledger.validation)):
            _refuse_lost(ledger, max_lost)


def prepare(
    recipe: Recipe,
    template: Template,
    needs: Needs = PLAIN,
    context: int | None = None,
    settings: Settings | None = None,
) -> Prepared:
    """Tokens of the recipe's data, from the cache where they are there already. `needs`: the objective's; `context`:
    the longest row that the model can read, if known: no advice goes beyond it; `settings`: how steps are run.

    Raises LuthierError for data that cannot be read, tokens without an embedding, rows longer than train.max_tokens
    where long_rows is error, nothing to train on, and a share of lost rows above train.max_lost.
    """
    rules, share = Rules.of(recipe, needs, context), 0.0 if recipe.validate.data else recipe.validate.share
    settings, others = settings or Settings.of(recipe), recipe.validate.data
    measuring = Measuring.of(recipe, settings.tools)
    task = opened(recipe.data, recipe.steps, settings, keep=measuring.reads)
    general = opened(recipe.rehearse.data, (), settings, "rehearse.data", measuring.reads) if recipe.rehearse else []
    train = _stored([*task, *general], rules, template, _Enough.of(recipe, share), measuring)
    apart = _stored(opened(others, (), settings, "validate.data"), rules, template) if others else None
    ledger = train.ledger
    rows = _rows(train.store)
    out = held_out(train.store.arrays["groups"], share) & (rows.feeds < len(task))
    kept = (
        ~out if apart is None else ~out & ((rows.feeds < len(task)) | ~np.isin(rows.hashes, _rows(apart.store).hashes))
    )
    store = train.store
    if recipe.tokens is not None:
        kept &= in_part(store.arrays["groups"], recipe.tokens)
        store, left = cleaned(store, np.flatnonzero(kept), recipe.tokens, settings.tools, ledger)
        kept = np.isin(np.arange(len(store)), left)
    order = mix(rows, np.flatnonzero(kept), asked(recipe, task))
    view = View(store, order, digest(store, order))
    ledger.held_out = int((out & (rows.feeds < len(task))).sum())
    used = np.bincount(train.store.arrays["feeds"][order], minlength=len(train.feeds))
    for one, count in zip(train.feeds, used, strict=True):
        ledger.sources[one.name].used += int(count)
    ledger.measure(view)
    _refuse_empty(ledger, len(view))
    validation = None
    if apart:
        everything = np.arange(len(apart.store))
        validation = View(apart.store, everything, digest(apart.store, everything))
        apart.ledger.measure(validation)
        _refuse_empty(apart.ledger, len(apart.store))
        ledger.validation = apart.ledger
    elif ledger.held_out:
        chosen = np.flatnonzero(out)
        validation = View(train.store, chosen, digest(train.store, chosen))
    prepared = Prepared(view, validation, ledger, overlaps(recipe, [*task, *general], ledger))
    prepared.refuse_lost(recipe.train.max_lost)
    return prepared


def asked(recipe: Recipe, task: Sequence[Feed | CuratedFeed]) -> Shares:
    """What the recipe says of the mix of these sources."""
    weights, samples = [one.entry.weight for one in task], [one.samples for one in task]
    general = recipe.rehearse.share if recipe.rehearse else 0.0
    return Shares(weights, samples, recipe.mix or Mix(), general, recipe.seed)


def _rows(store: Store) -> Rows:
    known = store.arrays
    return Rows(known["feeds"], store.lengths, known["hashes"], known["languages"], known["measured"])


def _why_lost(ledger: Ledger) -> tuple[str, str | None]:
    """The main reasons, and the first remedy."""
    why = "; ".join(f"{r} ({entry.count:,}×, first {entry.rows[0]})" for r, entry in ledger.main_reasons()[:3])
    return why, next((entry.fix for _, entry in ledger.main_reasons() if entry.fix), None)


def _refuse_empty(ledger: Ledger, examples: int) -> None:
    """Raises LuthierError when there is nothing to train on."""
    why, fix = _why_lost(ledger)
    if not examples and ledger.held_out:
        raise LuthierError(
            f"nothing to train on: validate.share holds out all {ledger.held_out:,} rows (equal ones, and judged "
            "answers to one prompt, stay together)",
            where="validate.share",
            fix="give rows to more prompts, lower it, or set validate.data",
        )
    if not examples:
        steps = [f"{one.at} {one.name} drops {one.dropped:,}" for one in ledger.steps if one.dropped]
        why = "; ".join(filter(None, [why, *steps]))
        raise LuthierError(
            f"nothing to train on: none of {ledger.rows_read:,} rows is left: {why}", where="data", fix=fix
        )


def _refuse_lost(ledger: Ledger, max_lost: float) -> None:
    """Raises LuthierError when more is lost than the recipe allows."""
    why, fix = _why_lost(ledger)
    if ledger.lost > max_lost:
        raise LuthierError(
            f"{ledger.lost:.1%} of {ledger.rows_read:,} rows are lost, train.max_lost allows {max_lost:.1%}: {why}",
            where="data",
            fix=f"{fix}; or raise train.max_lost" if fix else "mend those rows, or raise train.max_lost",
        )


@dataclass
class _Stored:
    feeds: list[Feed | CuratedFeed]
    store: Store
    ledger: Ledger


@dataclass(frozen=True)
class _Enough:
    """How much of a stream a run takes: what its steps train on, beside what is held out of it."""

    examples: int
    share: float

    @classmethod
    def of(cls, recipe: Recipe, share: float) -> _Enough | None:
        """None where nothing is streamed, or the run has no length of its own."""
        streamed = any(entry.streaming for entry in recipe.data)
        return cls(recipe.train.steps * recipe.train.batch, share) if streamed and recipe.train.steps else None

    def counted(self, tokenised: list[Tokenised]) -> int:
        """How many of these examples train."""
        groups = np.array([group_hash(one) for one in tokenised], np.uint64)
        return sum(not held_out(groups[i : i + 1], self.share)[0] for i in range(len(tokenised)))


def _stored(
    feeds: list[Feed | CuratedFeed],
    rules: Rules,
    template: Template,
    enough: _Enough | None = None,
    measuring: Measuring | None = None,
) -> _Stored:
    """The feeds' examples as a store: found in the cache, or read and put there."""
    measuring, read = measuring or Measuring(), [one.key() for one in feeds]
    key = [LAYOUT, __version__, template.digest, template.rows, repr(rules), repr(enough), read, *measuring.identity]
    name = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).hexdigest()
    folder = cache.root() / "tokens" / name
    if not (folder / "ledger.json").is_file():
        with cache.whole_folder(folder, "the token cache") as temporary:
            ledger = _fill(feeds, _How(rules, template, enough, measuring), temporary)
            (temporary / "ledger.json").write_text(json.dumps(ledger.to_json()), encoding="utf-8")
    ledger = Ledger.from_json(json.loads((folder / "ledger.json").read_text(encoding="utf-8")))
    return _Stored(feeds, Store(folder / "store"), ledger)


@dataclass(frozen=True)
class _How:
    """What decides how rows become tokens, and which."""

    rules: Rules
    template: Template
    enough: _Enough | None
    measuring: Measuring


def _fill(feeds: list[Feed | CuratedFeed], how: _How, folder: Path) -> Ledger:
    ledger, truncation, enough, template = Ledger(), Truncation(how.rules), how.enough, how.template
    seen: set[int] = set()
    ledger.remarks += [template.remark] if template.remark else []
    with Writer(folder / "store") as writer:
        for number, one in enumerate(feeds):
            wanted = _Wanted(enough.examples if enough and one.entry.streaming else None)
            for example, outcome, told in _encoded(one, ledger, how, wanted):
                assert example.source is not None
                kept = _kept(one.name, example.source, outcome, ledger, truncation, seen)
                if enough and wanted.left is not None:
                    wanted.left = max(0, wanted.left - enough.counted(kept))
                ledger.divide(example.meta.get("joints", ()) if kept else ())
                for tokenised in kept:
                    writer.add(tokenised, example.source, number, told)
            if wanted.left == 0:
                ledger.note(f"{one.name}: read no further than train.steps × train.batch needs (streaming)")
    truncation.complain(ledger)
    return ledger


@dataclass
class _Wanted:
    """How many more examples a feed is read for; None: for all it has."""

    left: int | None


def _encoded(
    one: Feed | CuratedFeed, ledger: Ledger, how: _How, wanted: _Wanted
) -> Iterator[tuple[Example, Tokenised | LuthierError, Told]]:
    """The rows of a feed as tokens, none of them read before it is wanted; and what the mix goes by."""
    rows = one.examples(ledger)
    fault: LuthierError | None = None
    while fault is None:
        batch: list[Example] = []
        try:
            batch.extend(itertools.islice(rows, BATCH if wanted.left is None else min(BATCH, wanted.left)))
        except LuthierError as error:
            if wanted.left is None:
                raise
            fault = error  # the rows before it may be enough: a long text is many examples
        if not batch and fault is None:
            return
        made = how.template.encode_batch(batch, how.rules.loss_on)
        yield from zip(batch, made, how.measuring(batch), strict=True)
    if wanted.left:
        raise fault


def _kept(
    name: str, source: Source, outcome: Tokenised | LuthierError, ledger: Ledger, truncation: Truncation, seen: set[int]
) -> list[Tokenised]:
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
        if truncation.rules.dedup:
            ledger.deduplicated += 1
            ledger.drop(name, source, "its tokens equal an earlier row's (train.dedup)")
            return []
    seen.add(found)
    parts = truncation.fit(outcome, ledger, source)
    if isinstance(parts, str):
        length = max(len(tokens.ids_T) for tokens in outcome.sequences)
        ledger.drop(name, source, parts, None if parts == EQUAL else truncation.rules.longer(length))
        return []
    ledger.keep(name)
    ledger.shortened += outcome.shortened
    weights = [tokens.weights_T for tokens in outcome.sequences] if outcome.judged else []
    if any(((weights_T != 0) & (weights_T != 1)).any() for weights_T in weights):
        ledger.weigh(source)
    return parts


__all__ = ["Prepared", "asked", "prepare"]
