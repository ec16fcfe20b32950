"""Answers drawn: what an engine is asked, each draw by a seed of its own, and what it gave written down as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from luthier.engines import LocalEngine
from luthier.engines.switched import AdapterOff
from luthier.recipe.schema import Rollout
from luthier.train.rollouts.carrying import Elsewhere
from luthier.train.rollouts.drawn import Answer, Draw, Group
from luthier.train.rollouts.journal import Journal
from luthier.types import Completion, Engine, Request, Sampling


class Speaking:
    """Asks an engine for `n` answers to each prompt that was drawn."""

    def __init__(
        self, engine: Engine, rollout: Rollout, seed: int, rival: Engine | None = None, near: Engine | None = None
    ) -> None:
        """`rival`: another policy, which draws the latter half of each group. `near`: what answers greedily, where the
        engine may have other weights than those that train."""
        self.engine, self.n, self._seed, self._rival = engine, rollout.n, seed, rival
        self._near = near or engine
        self._rivals = self.n // 2 if rival is not None else 0
        self._sampling = Sampling(
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
        )

    def answers(
        self,
        draws: Sequence[Draw],
        journal: Journal,
        ended: Callable[[Group], None],
        told: Callable[[int, int], None] = lambda done, of: None,
    ) -> list[Group]:
        """The groups of these draws. What the journal holds is not drawn again; `ended` is told of each group when all
        of its answers are there, `told` how many answers of how many are."""
        groups = {draw.place: Group(draw.place, draw.position, draw.prompt, rivals=self._rivals) for draw in draws}
        missing = {draw.place: len(self._missing(draw, journal)) for draw in draws}
        answers = self.begin(draws, journal)
        for place in [place for place, count in missing.items() if not count]:
            self._whole(groups[place], journal, ended)
        of = self.n * len(draws)
        for place, index, answer in answers:
            journal.answer(place, index, answer)
            missing[place] -= 1
            told(of - sum(missing.values()), of)
            if not missing[place]:
                self._whole(groups[place], journal, ended)
        return list(groups.values())

    def begin(self, draws: Sequence[Draw], journal: Journal) -> Iterator[tuple[int, int, Answer]]:
        """Place, index and answer of all that the journal lacks of these draws, each as it ends. The engine is asked
        now, by the weights that answer now, whenever the answers are fetched."""
        requests: tuple[list[Request], list[Request]] = ([], [])
        for draw in draws:
            for index in self._missing(draw, journal):
                requests[index >= self.n - self._rivals].append(self._request(draw, index))
        asked = [
            engine.run(some)
            for engine, some in zip((self.engine, self._rival), requests, strict=True)
            if engine is not None and some
        ]
        return _told(asked, {draw.place: draw.prompt.where for draw in draws})

    def _missing(self, draw: Draw, journal: Journal) -> list[int]:
        return [index for index in range(self.n) if (draw.place, index) not in journal.answers]

    def rest(self) -> None:
        """The engines are not needed for a while: their pages' memory is given back."""
        for engine in (self.engine, self._rival, self._near):
            inside = engine.engine if isinstance(engine, AdapterOff) else engine
            if isinstance(inside, LocalEngine):
                inside.rest()

    def sync(self, version: int, now: int) -> None:
        """The weights have `now` steps behind them, and those that had `version` are to answer: the same, but for an
        engine elsewhere."""
        if isinstance(self.engine, Elsewhere):
            self.engine.use(version, now)
        else:
            self.engine.sync(now)

    def greedy(self, draws: Sequence[Draw], now: int) -> list[Group]:
        """One answer to each prompt, the likeliest token at every place, by the weights that train, which have `now`
        steps behind them; written nowhere."""
        self._near.sync(now)
        sampling = Sampling(max_new_tokens=self._sampling.max_new_tokens)
        requests = [
            Request(d.prompt.ids, sampling, id=d.place, turns=d.prompt.example.prompt, tools=d.prompt.example.tools)
            for d in draws
        ]
        found = {int(one.request): one for one in self._near.run(requests)}
        return [Group(d.place, d.position, d.prompt, [Answer.of(found[d.place], d.prompt.where)]) for d in draws]

    def _whole(self, group: Group, journal: Journal, ended: Callable[[Group], None]) -> None:
        group.answers = [journal.answers[group.place, index] for index in range(self.n)]
        ended(group)

    def _request(self, draw: Draw, index: int) -> Request:
        """One answer by itself: what it draws hangs on nothing that is asked beside it, and an answer that a kill has
        taken is drawn again alone."""
        example = draw.prompt.example
        sampling = replace(self._sampling, seed=seed_of(self._seed, draw.place, index))
        request_id = f"{draw.place} {index}"
        return Request(draw.prompt.ids, sampling, id=request_id, turns=example.prompt, tools=example.tools)


def _told(asked: Sequence[Iterator[Completion]], where: Mapping[int, str]) -> Iterator[tuple[int, int, Answer]]:
    for completion in chain.from_iterable(asked):
        place, index = map(int, str(completion.request).split())
        yield place, index, Answer.of(completion, where[place])


def seed_of(seed: int, place: int, index: int) -> int:
    """Of the answer `index` to the prompt drawn at `place`."""
    told = hashlib.blake2b(f"{seed} {place} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(told, "little")
