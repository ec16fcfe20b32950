"""`generative_rm`: a reward model that writes principles, a critique and scores (arXiv:2504.02495).

It is asked several times. The answers are shown in another order each time, so that their places cancel out, and the
scores are summed up. A reward model may say which of the judgements are any good.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Float, Int, Plugin, PluginField, Why
from luthier.scorers.judges import reading, wording
from luthier.scorers.judges.asking import Question, Said, Voice, far, opening, voice
from luthier.scorers.judges.constitution import Language
from luthier.scorers.metric import Metric, text
from luthier.scorers.reward_model import RewardModel
from luthier.types import Example, Response, Sampling, Turn

Scores = tuple[float, ...]


@dataclass(frozen=True)
class GenerativeRM(Metric):
    """A language model that judges all responses to a prompt together: it writes the principles that matter here, then
    a critique, then a score each. Drawn `k` times and averaged.

    Between 0 and 1. A judgement without a score for each response counts as none; without any, there is no reward.
    """

    model: str | None = None
    """Who judges: a model's name or a run folder. An endpoint (`engine: {openai: …}`) needs none."""
    engine: PluginField = field(default=Plugin(name="local"), hash=False)
    """What it runs in, as `engine:` of a recipe."""
    k: Annotated[Int, Field(gt=0), Why("each costs a judgement; a few cancel most of the noise")] = 8
    """So many judgements are drawn, each with the responses in another order."""
    meta: str | None = None
    """A reward model's run folder: it rewards the judgements, and the worse ones do not vote."""
    keep: Annotated[Int, Field(gt=0)] | None = None
    """With `meta`: so many vote. Default: half of them."""
    scale: tuple[Int, Int] = (1, 10)
    """The worst score and the best."""
    temperature: Annotated[Float, Field(ge=0), Why("judgements that are all alike need no vote")] = 0.7
    """How they are drawn."""
    max_new_tokens: Annotated[Int, Field(gt=0)] = 1024
    """The longest judgement."""
    language: Language = "en"
    """In which it is asked: en, zh."""
    seed: Annotated[Int, Field(ge=0)] = 0
    """Draws the orders and the judgements."""
    cache: bool = True
    """Keep judgements on disk, by the model's weights and the question. (An endpoint has a `cache` itself.)"""
    needs_reference: ClassVar[bool] = False
    sees_group: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.meta is not None:
            object.__setattr__(self, "meta", str(Path(self.meta).expanduser().resolve()))
        for key, wrong, what, fix in (
            ("scale", self.scale[0] >= self.scale[1], "does not rise", "write the worst score, then the best"),
            (
                "keep",
                self.keep is not None and self.meta is None,
                "needs `meta`",
                "name a reward model, or leave it out",
            ),
            ("keep", (self.keep or 0) > self.k, f"is more than k = {self.k}", "lower it"),
        ):
            if wrong:
                raise LuthierError(f"scorer 'generative_rm': `{key}` {what}", where=key, fix=fix)

    def check(self) -> None:
        """Raise LuthierError where the model cannot be opened, or `meta` is no reward model."""
        opening(self.model, self.engine)
        if self.meta is not None:
            RewardModel(self.meta).check()

    @property
    def waits(self) -> bool:
        return self.meta is None and far(self.engine)

    @property
    def voice(self) -> Voice:
        """Who judges; its `tally` says how often it was asked, and could not be read."""
        return voice(self.model, self.engine, cache=self.cache)

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.group(example, [response])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """Each response judged by itself, as a group of one."""
        return [scores[0] for scores in self.groups([(example, [response]) for example, response in pairs])]

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        """The score of each response to one prompt; None where no judgement could be read."""
        return self.groups([(example, responses)])[0]

    def groups(self, groups: Sequence[tuple[Example, Sequence[Response]]]) -> list[list[float | None]]:
        """`group` of many prompts, asked at once."""
        orders = [self._orders(example, responses) for example, responses in groups]
        asked = [
            self._question(example, responses, order, number)
            for (example, responses), some in zip(groups, orders, strict=True)
            for number, order in enumerate(some)
        ]
        said = iter(zip(asked, self.voice.answers(asked) if asked else (), strict=True))
        return [
            self._voted(len(responses), [(order, *next(said)) for order in some])
            for (_, responses), some in zip(groups, orders, strict=True)
        ]

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]

    def _orders(self, example: Example, responses: Sequence[Response]) -> list[list[int]]:
        """An order of the responses for each judgement, by a hash of what is judged."""
        if not responses:
            return []
        whole = "\0".join([*(turn.text for turn in example.prompt), *map(text, responses)])
        mixed = hashlib.blake2b(whole.encode(errors="surrogatepass"), digest_size=8, salt=self.seed.to_bytes(16)[-16:])
        draw = random.Random(int.from_bytes(mixed.digest()))
        return [draw.sample(range(len(responses)), len(responses)) for _ in range(self.k)]

    def _question(self, example: Example, responses: Sequence[Response], order: Sequence[int], number: int) -> Question:
        shown = [text(responses[place]) for place in order]
        drawn = Sampling(self.max_new_tokens, self.temperature, seed=self.seed + number)
        return Question(wording.several(self.language, example, shown, self.scale), drawn)

    def _voted(self, count: int, judgements: Sequence[tuple[list[int], Question, Said | None]]) -> list[float | None]:
        found: list[tuple[Scores, Question, Said]] = []
        for order, question, said in judgements:
            if said is None:
                continue
            shown = reading.scores(said.text, count, *self.scale)
            if shown is None:
                self.voice.unreadable(said, "a score for each answer")
            else:
                found.append((put_back(shown, order), question, said))
        if not found:
            return [None] * count
        voting = [scores for scores, _, _ in found]
        if self.meta is not None:
            voting = best(voting, self._quality(found), self.keep or (self.k + 1) // 2)
        low, high = self.scale
        return [(total / len(voting) - low) / (high - low) for total in vote(voting)]

    def _quality(self, found: Sequence[tuple[Scores, Question, Said]]) -> list[float | None]:
        assert self.meta is not None
        judged = [
            (Example((Turn("user", question.text),)), Response((Turn("assistant", said.text),)))
            for _, question, said in found
        ]
        return RewardModel(self.meta).many(judged)


def put_back(shown: Sequence[float], order: Sequence[int]) -> Scores:
    """Scores in the order of the responses, out of those in the order they were shown in."""
    scores = [0.0] * len(order)
    for score, place in zip(shown, order, strict=True):
        scores[place] = score
    return tuple(scores)


def vote(judgements: Sequence[Scores]) -> Scores:
    """The sum of each response's scores over the judgements."""
    return tuple(map(sum, zip(*judgements, strict=True)))


def best(judgements: Sequence[Scores], quality: Sequence[float | None], keep: int) -> list[Scores]:
    """The `keep` judgements of the best quality, in their order; one that has none comes last, earlier ones first."""
    ranked = sorted(range(len(judgements)), key=lambda place: (quality[place] is None, -(quality[place] or 0.0), place))
    return [judgements[place] for place in sorted(ranked[:keep])]
