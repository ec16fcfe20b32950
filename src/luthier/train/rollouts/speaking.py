"""Answers drawn: what an engine is asked, each draw by a seed of its own, and what it gave written down as it comes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from luthier.recipe.schema import Rollout
from luthier.train.rollouts.drawn import Answer, Draw, Group
from luthier.train.rollouts.journal import Journal
from luthier.types import Engine, Request, Sampling


class Speaking:
    """Asks an engine for `n` answers to each prompt that was drawn."""

    def __init__(self, engine: Engine, rollout: Rollout, seed: int) -> None:
        self.engine, self.n, self._seed = engine, rollout.n, seed
        self._sampling = Sampling(
            max_new_tokens=rollout.max_new_tokens,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
        )

    def answers(self, draws: Sequence[Draw], journal: Journal, ended: Callable[[Group], None]) -> list[Group]:
        """The groups of these draws. What the journal holds is not drawn again; `ended` is told of each group when all
        of its answers are there."""
        groups = {draw.place: Group(draw.place, draw.position, draw.prompt) for draw in draws}
        missing: dict[int, int] = {}
        requests: list[Request] = []
        for draw in draws:
            wanted = [i for i in range(self.n) if (draw.place, i) not in journal.answers]
            missing[draw.place] = len(wanted)
            requests += [self._request(draw, index) for index in wanted]
        for place in [place for place, count in missing.items() if not count]:
            self._whole(groups[place], journal, ended)
        for completion in self.engine.run(requests) if requests else ():
            place, index = map(int, str(completion.request).split())
            journal.answer(place, index, Answer.of(completion, groups[place].prompt.where))
            missing[place] -= 1
            if not missing[place]:
                self._whole(groups[place], journal, ended)
        return list(groups.values())

    def greedy(self, draws: Sequence[Draw]) -> list[Group]:
        """One answer to each prompt, the likeliest token at every place; written nowhere."""
        sampling = Sampling(max_new_tokens=self._sampling.max_new_tokens)
        requests = [
            Request(d.prompt.ids, sampling, id=d.place, turns=d.prompt.example.prompt, tools=d.prompt.example.tools)
            for d in draws
        ]
        found = {int(one.request): one for one in self.engine.run(requests)}
        return [
            Group(d.place, d.position, d.prompt, [Answer.of(found[d.place], d.prompt.where)]) for d in draws
        ]

    def _whole(self, group: Group, journal: Journal, ended: Callable[[Group], None]) -> None:
        group.answers = [journal.answers[group.place, index] for index in range(self.n)]
        ended(group)

    def _request(self, draw: Draw, index: int) -> Request:
        """One answer by itself: what it draws hangs on nothing that is asked beside it, and an answer that a kill has
        taken is drawn again alone."""
        from dataclasses import replace

        example = draw.prompt.example
        sampling = replace(self._sampling, seed=seed_of(self._seed, draw.place, index))
        request_id = f"{draw.place} {index}"
        return Request(draw.prompt.ids, sampling, id=request_id, turns=example.prompt, tools=example.tools)


def seed_of(seed: int, place: int, index: int) -> int:
    """Of the answer `index` to the prompt drawn at `place`."""
    told = hashlib.blake2b(f"{seed} {place} {index}".encode(), digest_size=8).digest()
    return int.from_bytes(told, "little")
