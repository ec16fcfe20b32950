"""The rows of a task put to one system: what it answers, how likely it finds what is known, what it rewards."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.scorers.groups import score_groups
from luthier.scorers.metric import Metric
from luthier.types import RAW, Completion, Encoded, Engine, Example, Response, Turn

if TYPE_CHECKING:
    from rich.progress import Progress

    from luthier.data.encode.template import Template
    from luthier.evaluate.scored import ScoredTask
    from luthier.recipe.schema import Task

T = TypeVar("T")

BATCH = 64
"""Rows whose answers are drawn by one seed, and rows scored at once."""
MARGIN = 16
"""Tokens that may stand before a text: it begins, somebody speaks."""
ALIKE = 256
"""Rows scored at once that begin alike: what they share is computed once."""


class Judge(Protocol):
    """A model's rewards: for each row one a response, or one a step for a process reward model."""

    def __call__(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]: ...


@dataclass(frozen=True)
class System:
    """One side of a comparison: an engine, and its model's rewards where it gives any."""

    name: str
    engine: Engine
    judge: Judge | None = None


@dataclass(frozen=True)
class Outcome:
    """What one system made of the rows, row by row."""

    candidates: list[list[Completion]] | None
    """The answers drawn for each row; None where no scorer judges words."""
    worth: list[list[float | None]] | None
    """What the picking scorer says of each candidate; None unless it picks."""
    likelihoods: list[Response]
    """The reference with the log-probability of each of its tokens."""
    rewards: list[tuple[float, ...]] | None
    seconds: float
    system: str
    choices: list[tuple[float, ...]] | None = None
    """For each row, the log-probability of each of its own responses; None where no scorer asks for them."""

    @cached_property
    def picks(self) -> list[int]:
        """Which candidate of each row stands for the system: the picking scorer's best (the earliest of equals)."""
        if self.worth is None:
            return [0] * len(self.candidates or ())
        return [best(worth) for worth in self.worth]

    @cached_property
    def completions(self) -> list[Completion] | None:
        """The picked answer of each row."""
        if self.candidates is None:
            return None
        return [drawn[pick] for drawn, pick in zip(self.candidates, self.picks, strict=True)]

    def response(self, completion: Completion) -> Response:
        """An answer as a response."""
        return Response((Turn("assistant", completion.text),), by=self.system, ids=completion.sampled or None)

    def drawn(self, rows: Sequence[Example]) -> list[tuple[Example, list[Response]]]:
        """Each row with all the answers that were drawn for it."""
        candidates = self.candidates or []
        return [(row, [self.response(one) for one in some]) for row, some in zip(rows, candidates, strict=True)]


def best(values: Sequence[float | None]) -> int:
    """The place of the largest value, the earliest of equals; None counts below every number."""
    return max(range(len(values)), key=lambda place: (_or_least(values[place]), -place))


def _or_least(value: float | None) -> float:
    return -math.inf if value is None or math.isnan(value) else value


@dataclass(frozen=True)
class Questions:
    """The rows of a task as every system is asked them. `by` picks among the candidates."""

    scored: ScoredTask
    rows: tuple[Example, ...]
    template: Template
    seed: int
    by: Metric | None

    @property
    def task(self) -> Task:
        """The recipe's entry."""
        return self.scored.task

    def check_lengths(self, metrics: Mapping[str, Metric], context: int | None) -> None:
        """Raise LuthierError for a row that a model of this context (None: not known) could not read, or not answer:
        it is too long, or has tokens without an embedding."""
        room, every = math.inf if context is None else context, metrics.values()
        if any(judges_words(metric) for metric in every):
            for row, prompt in zip(self.rows, self._prompts, strict=True):
                if len(prompt) >= room:
                    raise self._too_long(row, f"the prompt has {len(prompt):,} tokens", context)
        read = [self._references[1:]] if any(metric.needs_likelihood for metric in every) else []
        read += [self._own_responses] if any(metric.needs_rewards for metric in every) else []
        if any(one.needs_choices for one in every):
            read.append(self._longer(room))
        for known, encoded in read:
            self._must_fit(known, encoded, context)

    def _must_fit(self, known: Sequence[int], encoded: Sequence[Encoded], context: int | None) -> None:
        for index, row_tokens in zip(known, encoded, strict=True):
            tokens = max(len(ids) for ids in row_tokens.ids)
            if context is not None and tokens > context:
                raise self._too_long(self.rows[index], f"prompt and response have {tokens:,} tokens", context)

    def _longer(self, room: float) -> tuple[list[int], list[Encoded]]:
        """The rows with choices that may have more tokens than that (no token is less than a byte), as tokens: of
        thousands of rows hardly any, so that a check before training need not read them all."""
        from luthier.data.encode.continuing import continued, pairs_of

        def bytes_of(row: Example) -> int:
            return max(len((before + said).encode()) for before, said in pairs_of(row, self.template))

        long = [index for index, row in enumerate(self.rows) if bytes_of(row) > room - MARGIN]
        return long, continued([self.rows[index] for index in long], self.template)

    def _too_long(self, row: Example, what: str, context: int | None) -> LuthierError:
        if self.scored.benchmark is not None:
            where = f"{self.task.name}, {row.source}" if row.source else self.task.name
            fix = "set fewer `shots`, a smaller `window`, or other `subjects`, as the benchmark has them"
            return LuthierError(f"{what}, the model's context is {context:,}", where=where, fix=fix)
        return LuthierError(
            f"{what}, the model's context is {context:,}",
            where=str(row.source) if row.source else self.task.name,
            fix=f"shorten the row or leave it out of the data of the task {self.task.name!r}",
        )

    def put_to(self, system: System, metrics: Mapping[str, Metric], progress: Progress) -> Outcome:
        """Ask what the metrics need."""
        start = time.perf_counter()
        every = metrics.values()
        candidates, worth, rewards, choices, likelihoods = None, None, None, None, [Response(())] * len(self.rows)
        if any(judges_words(metric) for metric in every):
            candidates = self._candidates(system, progress)
        if any(metric.needs_likelihood for metric in every):
            likelihoods = self._likelihoods(system, progress)
        if any(metric.needs_rewards for metric in every):
            rewards = self._rewards(system, progress)
        if any(metric.needs_choices for metric in every):
            choices = self._choices(system, progress)
        outcome = Outcome(candidates, worth, likelihoods, rewards, 0.0, system.name, choices)
        if candidates is not None and self.by is not None:
            worth = score_groups(self.by, outcome.drawn(self.rows))
        return replace(outcome, worth=worth, seconds=time.perf_counter() - start)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self._prompt(row) for row in self.rows]

    def _prompt(self, row: Example) -> list[int]:
        """What the model is asked with. Raises LuthierError, with the row's name, where it cannot be."""
        try:
            return self.template.prompt_ids(row.prompt, row.tools)
        except LuthierError as error:
            where = str(row.source) if row.source else self.task.name
            raise LuthierError(error.what, where=where, fix=error.fix) from error

    @cached_property
    def _references(self) -> tuple[list[Response], list[int], list[Encoded]]:
        """The reference of each row; the rows that have one, and those as tokens."""
        references = [_reference_response(row) for row in self.rows]
        known = [index for index, response in enumerate(references) if response.turns]
        encoded = [self._encoded(self.rows[index], references[index]) for index in known]
        return references, known, encoded

    def _encoded(self, row: Example, response: Response) -> Encoded:
        """The row with this response as tokens; a window of a text has its own already."""
        if "ids" not in row.meta:
            return self.template.encode(replace(row, responses=(response,)), loss_on="last")
        ids_T = np.array(row.meta["ids"], np.int32)
        weights_T = np.zeros(len(ids_T), np.float32)
        weights_T[len(ids_T) - row.meta["judged"] :] = 1.0
        return Encoded((ids_T,), (weights_T,), source=row.source)

    def _candidates(self, system: System, progress: Progress) -> list[list[Completion]]:
        """All answers, asked for at once: the engine keeps itself full."""
        from luthier.engines.asking import one_each  # with it comes torch

        sampling, count, asked = self.scored.sampling, self.scored.draws, []
        order, batches = _order([len(prompt) for prompt in self._prompts])
        for chosen in batches:
            # another seed for each batch, or equal places of different batches would draw equal random numbers
            drawn = replace(sampling, seed=self.seed + sampling.seed + chosen[0])
            # whole rounds one after the other, so that the first answers are those that one draw would have given
            places = [index for _ in range(count) for index in chosen]
            requests = one_each([self._prompts[index] for index in places], drawn)
            asked += [
                replace(request, id=f"{index} {at // len(chosen)}", turns=row.prompt, tools=row.tools)
                for at, (index, request) in enumerate(zip(places, requests, strict=True))
                for row in [self.rows[index]]
            ]
        bar = progress.add_task(f"{system.name}: answers", total=len(asked))
        found: dict[int | str, Completion] = {}
        for completion in system.engine.run(asked):
            found[completion.request] = completion
            progress.advance(bar)
        return [[found[f"{index} {turn}"] for turn in range(count)] for index in sorted(order)]

    def _likelihoods(self, system: System, progress: Progress) -> list[Response]:
        """The reference of each row with the log-probability of each of its tokens; no `logp` where there is none."""
        (references, known, encoded), found = self._references, list(self._references[0])

        def likelihood(chosen: Sequence[int]) -> list[NDArray[np.float32]]:
            return system.engine.logprobs([encoded[index] for index in chosen])

        logps = _batched(likelihood, [len(row) for row in encoded], progress, f"{system.name}: likelihoods")
        for index, logp in zip(known, logps, strict=True):
            found[index] = replace(references[index], logp=tuple(logp.tolist()), by=system.name)
        return found

    @cached_property
    def _continued(self) -> list[Encoded]:
        """Each row's own responses as continuations of its prompt."""
        from luthier.data.encode.continuing import continued

        return continued(self.rows, self.template)

    def _choices(self, system: System, progress: Progress) -> list[tuple[float, ...]]:
        """For each row how likely the system finds each of its responses behind the prompt."""
        rows = self._continued
        self._must_fit(range(len(rows)), rows, system.engine.context)

        def likelihood(chosen: Sequence[int]) -> list[NDArray[np.float32]]:
            return system.engine.logprobs([rows[index] for index in chosen])

        found = _batched(likelihood, [len(row) for row in rows], progress, f"{system.name}: choices", beside=True)
        return [_sums(row, logps) for row, logps in zip(rows, found, strict=True)]

    @cached_property
    def _own_responses(self) -> tuple[list[int], list[Encoded]]:
        """The rows that have responses, and those as tokens: the same objects for every system."""
        known = [index for index, row in enumerate(self.rows) if row.responses]
        return known, [self.template.encode(_bare(self.rows[index]), loss_on="last") for index in known]

    def _rewards(self, system: System, progress: Progress) -> list[tuple[float, ...]]:
        """The system's rewards of each row's own responses (or steps); () for a row without responses."""
        judge = system.judge
        assert judge is not None, "looked at before"
        known, encoded = self._own_responses

        def reward(chosen: Sequence[int]) -> list[NDArray[np.float32]]:
            return judge([encoded[index] for index in chosen])

        found = _batched(reward, [len(row) for row in encoded], progress, f"{system.name}: rewards")
        rewards: list[tuple[float, ...]] = [()] * len(self.rows)
        for index, values in zip(known, found, strict=True):
            rewards[index] = tuple(values.tolist())
        return rewards


def judges_words(metric: Metric) -> bool:
    """Does the metric judge what a system says?"""
    return not metric.needs_likelihood and not metric.needs_rewards and not metric.needs_choices


def _sums(row: Encoded, logps: NDArray[np.float32]) -> tuple[float, ...]:
    """The log-probability of each response, of those of all their scored tokens one after the other."""
    ends = np.cumsum([int(np.count_nonzero(weights[1:])) for weights in row.weights])
    return tuple(math.fsum(part.tolist()) for part in np.split(logps, ends[:-1]))


def _bare(row: Example) -> Example:
    """Without the weights of turns: they say what trains, not what is judged."""
    responses = tuple(
        replace(response, turns=tuple(replace(turn, weight=None) for turn in response.turns))
        for response in row.responses
    )
    return replace(row, responses=responses)


def _reference_response(row: Example) -> Response:
    """The first response, or the answer as one; without turns when the row has neither.

    Turn weights are taken off: they say what trains, not what is judged.
    """
    if row.responses:
        return _bare(row).responses[0]
    if row.answer is None:
        return Response(())
    role = RAW if all(turn.role == RAW for turn in row.prompt) else "assistant"
    return Response((Turn(role, row.answer),))


def _order(lengths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
    """The rows by length, the longest first (what does not fit in memory shows at once), and in batches."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    return order, [order[start : start + BATCH] for start in range(0, len(order), BATCH)]


def _batched(
    ask: Callable[[Sequence[int]], Sequence[T]],
    lengths: Sequence[int],
    progress: Progress,
    title: str,
    *,
    beside: bool = False,
) -> list[T]:
    """Ask for the rows in batches; those that stand `beside` one another begin alike, and stay together."""
    order, batches = _order(lengths)
    if beside:
        batches = [order[:1]]
        rest = sorted(order[1:])
        batches += [rest[start : start + ALIKE] for start in range(0, len(rest), ALIKE)]
    bar = progress.add_task(title, total=len(order))
    answers: dict[int, T] = {}
    for chosen in batches:
        answers.update(zip(chosen, ask(chosen), strict=True))
        progress.advance(bar, len(chosen))
    return [answers[index] for index in range(len(lengths))]
