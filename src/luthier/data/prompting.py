"""Rows as prompts: what a model is to answer while it learns, and what its answers are judged by.

Any shape of row will do that has a prompt. What answers it in the data (`answer`, or what the assistant says last) is
what scorers compare with; it does not train.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.data.curation.feeds import CuratedFeed, opened
from luthier.data.curation.stages import Settings
from luthier.data.encode.template import Template
from luthier.data.ledger import PERCENTILES, Ledger
from luthier.data.measuring import Measuring
from luthier.data.mixing import Rows, held_out, mix
from luthier.data.overlap import Overlap, overlaps
from luthier.data.preparation import asked
from luthier.data.reading.feeds import Feed
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.types import RAW, Example, Response, Turn

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Prompt:
    """A row to be answered. `ids`: what the model reads."""

    example: Example
    ids: tuple[int, ...]

    @property
    def where(self) -> str:
        """File and row."""
        return str(self.example.source) if self.example.source else "data"

    @cached_property
    def key(self) -> str:
        """What it is, by content: what is read, and what answers are compared with."""
        said = [turn.text for response in self.example.responses for turn in response.turns]
        told = repr((self.ids, self.example.answer, said, sorted(self.example.meta.items(), key=repr)))
        return hashlib.blake2b(told.encode(errors="backslashreplace"), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Prompts:
    """What a run learns from, and what it is looked at by."""

    train: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    ledger: Ledger
    overlaps: tuple[Overlap, ...] = ()
    """What of the recipe's tasks is learnt from, too."""

    def refuse_lost(self, max_lost: float) -> None:
        """Raises LuthierError where no prompt is left, or more rows are lost than this share."""
        _refuse(self.ledger, len(self.train), max_lost)

    @cached_property
    def digest(self) -> str:
        """Their content, in order."""
        keys = "".join(prompt.key for prompt in self.train)
        return hashlib.blake2b(keys.encode(), digest_size=16).hexdigest()


def prompts(
    recipe: Recipe, template: Template, context: int | None = None, settings: Settings | None = None
) -> Prompts:
    """The recipe's rows as prompts. `context`: the longest row that the model can read, if known; `settings`: how
    steps are run.

    Raises LuthierError for data that cannot be read, prompts that leave no room for an answer where train.long_rows is
    error, a share of lost rows above train.max_lost, and where none is left.
    """
    ledger, room = Ledger(), _Room.of(recipe, context)
    ledger.remarks += [template.remark] if template.remark else []
    settings = settings or Settings.of(recipe)
    measuring = Measuring.of(recipe, settings.tools)
    task = opened(recipe.data, recipe.steps, settings, keep=measuring.reads)
    general = opened(recipe.rehearse.data, (), settings, "rehearse.data", measuring.reads) if recipe.rehearse else []
    feeds = [*task, *general]
    read = [(number, prompt) for number, one in enumerate(feeds) for prompt in _read(one, ledger, template, room)]
    share = 0.0 if recipe.validate.data else recipe.validate.share
    hashes = _hashes([one for _, one in read])
    numbers = np.array([number for number, _ in read], np.int32)
    out = held_out(hashes, share) & (numbers < len(task))
    apart = tuple(read[i][1] for i in np.flatnonzero(out))
    ledger.held_out = len(apart)
    if recipe.validate.data:
        ledger.validation = Ledger()
        others = opened(recipe.validate.data, (), settings, "validate.data")
        apart = tuple(p for one in others for p in _read(one, ledger.validation, template, room))
        _measure(ledger.validation, apart)
    if general:  # what the run is looked at by is not rehearsed
        out |= (numbers >= len(task)) & np.isin(hashes, _hashes(apart))
    order = mix(_rows([one for _, one in read], numbers, measuring), np.flatnonzero(~out), asked(recipe, task))
    chosen = tuple(read[i][1] for i in order)
    for i in order:
        ledger.sources[feeds[read[i][0]].name].used += 1
    _measure(ledger, chosen)
    room.complain(ledger)
    found = Prompts(chosen, apart, ledger, overlaps(recipe, feeds, ledger))
    found.refuse_lost(recipe.train.max_lost)
    return found


def _hashes(given: Sequence[Prompt]) -> NDArray[np.uint64]:
    return np.array([int(prompt.key[:16], 16) for prompt in given], np.uint64)


def _rows(given: Sequence[Prompt], feeds: NDArray[np.int32], measuring: Measuring) -> Rows:
    told = measuring([prompt.example for prompt in given])
    return Rows(
        feeds,
        np.array([len(prompt.ids) for prompt in given], np.int32),
        _hashes(given),
        np.array([one.language for one in told], np.int32),
        np.array([one.measured for one in told], np.float32),
    )


def show_prompts(found: Prompts, template: Template, count: int) -> Text:
    """The first prompts as the model reads them, and what answers are compared with."""
    from rich.text import Text

    text = Text()
    for prompt in found.train[:count]:
        text.append(f"{prompt.where}\n", "bold")
        text.append(str(template.tokenizer.decode(list(prompt.ids))))
        known = reference_of(prompt.example)
        text.append("\n" if known is None else f"\nto compare with: {known}\n", "dim")
    return text


def with_answer(example: Example) -> Example:
    """The row with what answers it in the data as its one response. Raises LuthierError where nothing does."""
    known = reference_of(example)
    if known is None:
        raise LuthierError(
            "the row has no answer, and this objective learns from the data's own answers, too",
            where=str(example.source),
            fix="give it an `answer` or a `completion`, or set objective.own=1",
        )
    role = RAW if example.prompt and all(turn.role == RAW for turn in example.prompt) else "assistant"
    first = example.responses[0] if example.responses else Response((Turn(role, known),))
    return replace(example, responses=(replace(first, reward=None, step_rewards=None),))


def reference_of(example: Example) -> str | None:
    """What is known to answer it, if anything is."""
    if example.answer is not None or not example.responses:
        return example.answer
    return "\n".join(turn.text for turn in example.responses[0].turns)


@dataclass
class _Room:
    """How long a prompt may be, so that the longest answer fits behind it."""

    longest: int
    answer: int
    long_rows: str
    context: int | None
    """The model's, where that is what leaves no room."""
    enough: int | None
    """So many rows are read of a stream: what the steps of the run take."""
    too_long: int = 0
    worst: int = 0
    first: str = ""

    @classmethod
    def of(cls, recipe: Recipe, context: int | None) -> _Room:
        assert recipe.rollout is not None and recipe.rollout.prompts is not None, "the recipe is not resolved"
        answer = recipe.rollout.max_new_tokens
        most = recipe.train.max_tokens
        narrow = context if context is not None and context <= most else None
        row = most if narrow is None else narrow
        enough = recipe.train.steps * recipe.rollout.prompts if recipe.train.steps else None
        return cls(row - answer, answer, recipe.train.long_rows, narrow, enough)

    def fault(self, length: int, where: str) -> str | None:
        """Why a prompt of so many tokens is left out."""
        if length <= self.longest:
            return None
        self.too_long, self.worst, self.first = self.too_long + 1, max(self.worst, length), self.first or where
        limit = "train.max_tokens" if self.context is None else f"the model's context of {self.context:,} tokens"
        return f"with an answer of {self.answer} tokens it is longer than {limit}"

    def complain(self, ledger: Ledger) -> None:
        """Raises LuthierError where such prompts are an error."""
        if self.too_long and self.long_rows != "drop":
            of = "" if self.context is None else f" of the model's context ({self.context:,})"
            more = "raise train.max_tokens (up to the model's context), " if self.context is None else ""
            raise LuthierError(
                f"{self.too_long:,} of {ledger.rows_read:,} prompts leave no room for an answer of {self.answer:,} "
                f"tokens: the longest has {self.worst:,}, and {max(self.longest, 0):,}{of} are free",
                where=self.first,
                fix=f"{more}lower rollout.max_new_tokens, or set train.long_rows=drop",
            )


def _read(one: Feed | CuratedFeed, ledger: Ledger, template: Template, room: _Room) -> Iterator[Prompt]:
    """The prompts of a feed; the ledger knows what became of the others."""
    for example in itertools.islice(one.examples(ledger), room.enough if one.entry.streaming else None):
        where = str(example.source)
        if not example.prompt:
            fix = "give rows with a `prompt` (and an `answer`, where a scorer compares with one)"
            ledger.drop(one.name, example.source, "it has no prompt to answer", fix)
            continue
        if any(turn.media for turn in example.prompt):
            ledger.drop(one.name, example.source, "it has pictures or sound, which no rollout reads yet")
            continue
        try:
            ids = tuple(template.prompt_ids(example.prompt, example.tools))
        except LuthierError as error:
            raise LuthierError(error.what, where=where, fix=error.fix) from error
        fault = room.fault(len(ids), where)
        if fault is not None:
            ledger.drop(one.name, example.source, fault)
            continue
        ledger.keep(one.name)
        yield Prompt(example, ids)


def _measure(ledger: Ledger, chosen: Sequence[Prompt]) -> None:
    lengths = np.array([len(prompt.ids) for prompt in chosen], np.int64)
    ledger.examples, ledger.tokens = len(chosen), int(lengths.sum())
    if len(lengths):
        values = np.percentile(lengths, PERCENTILES, method="inverted_cdf")
        ledger.lengths = {f"p{p}": int(value) for p, value in zip(PERCENTILES, values, strict=True)}
        ledger.mean_length = round(float(lengths.mean()), 1)


def _refuse(ledger: Ledger, count: int, max_lost: float) -> None:
    """Raises LuthierError where no prompt is left, or more rows are lost than the recipe allows."""
    why = "; ".join(f"{r} ({entry.count:,}×, first {entry.rows[0]})" for r, entry in ledger.main_reasons()[:3])
    fix = next((entry.fix for _, entry in ledger.main_reasons() if entry.fix), None)
    if not count and ledger.held_out:
        what = f"there is no prompt to learn from: validate.share holds out all {ledger.held_out:,}"
        raise LuthierError(what, where="validate.share", fix="lower it, or give more rows")
    if not count:
        raise LuthierError(f"there is no prompt to learn from: {why or 'no row was read'}", where="data", fix=fix)
    if ledger.lost > max_lost:
        raise LuthierError(
            f"{ledger.lost:.1%} of {ledger.rows_read:,} rows are lost, train.max_lost allows {max_lost:.1%}: {why}",
            where="data",
            fix=f"{fix}; or raise train.max_lost" if fix else "mend those rows, or raise train.max_lost",
        )
