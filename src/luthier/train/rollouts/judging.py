"""What answers are worth: scorers summed by weight, each reported by itself, gates that make the whole 0.

A scorer that cannot say anything of an answer leaves it without a reward: it neither gains nor loses, and is counted.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from luthier.errors import LuthierError
from luthier.recipe.schema import Reward
from luthier.scorers.building import built
from luthier.scorers.groups import score_group, score_groups
from luthier.scorers.metric import Metric
from luthier.train.rollouts.drawn import Group, Parts
from luthier.train.rollouts.guards import UNSAID_STOP
from luthier.types import Example, Preference, Response

SHOWN = 3
"""Rows named in a message."""
RIGHT = 0.5
"""A score of the first scorer above this is right, where its scores lie between 0 and 1."""
LARGEST = 1e9
"""No score, and no sum of them, is beyond this: squares and sums over a rollout stay exact enough to learn from."""


When = Literal["each", "meanwhile", "all"]
Said = list[list[dict[str, float | None]]]
"""Of each group, of each answer: what each scorer said."""


@dataclass(frozen=True)
class Part:
    """One scorer of the reward."""

    name: str
    metric: Metric
    weight: float
    gate: bool

    @property
    def when(self) -> When:
        """each: of a group by itself, as it ends. Those that are better asked for many at once: all, when all have
        ended; or meanwhile, whichever have ended, in a thread of its own, where that only waits."""
        own = type(self.metric)
        many = own.groups is not Metric.groups if self.metric.sees_group else own.many is not Metric.many
        if not many:
            return "each"
        return "meanwhile" if self.metric.waits else "all"


class Judging:
    """The recipe's rewards, built."""

    def __init__(self, rewards: Sequence[Reward], preference: Preference | None = None) -> None:
        """`preference`: an answer is worth the probability that it is preferred to its rival, had of scores so."""
        names: list[str] = []
        for reward in rewards:
            count = sum(name.split(" ")[0] == reward.scorer.name for name in names)
            names.append(f"{reward.scorer.name} {count + 1}" if count else reward.scorer.name)
        self.parts = [
            Part(name, built(reward.scorer), reward.counts, reward.gate)
            for name, reward in zip(names, rewards, strict=True)
        ]
        for part in self.parts:
            if part.metric.needs_likelihood or part.metric.needs_rewards:
                raise LuthierError(
                    f"the scorer {part.name!r} judges no answer that a model draws",
                    where="reward",
                    fix="take one that does: json_match, f1, reward_model, …",
                )
            part.metric.check()
        self.files = {path: _content(path) for part in self.parts for path in part.metric.files()}
        """What its judgements hang on besides the recipe: files, and the digests of what is in them."""
        self.preference = preference
        self._comparing = [part for part in self.parts if preference and part.metric.compares]
        if self._comparing:
            self._must_compare_alone()
        bounded = all(math.isfinite(end) for part in self.parts if part.weight for end in part.metric.range)
        self._logistic = preference == "logistic" or (preference == "auto" and not bounded)

    def _must_compare_alone(self) -> None:
        for part in self.parts:
            if (part.metric.compares and part.weight < 0) or (not part.metric.compares and part.weight):
                raise LuthierError(
                    f"{self._comparing[0].name!r} says which of two answers is preferred, and what {part.name!r} says "
                    "is no such probability, so that the two have no sum",
                    where="reward",
                    fix="make the other scorer a gate (`gate: true`), or leave it out",
                )

    def must_be(self, before: Mapping[str, str], run: Path) -> None:
        """Raises LuthierError where the run that goes on was judged by files of another content."""
        changed = [path for path, content in self.files.items() if before.get(path, content) != content]
        if changed:
            raise LuthierError(
                "the file of a reward has changed since the run began: it would go on for another reward",
                where=changed[0],
                fix=f"put it back as it was, or begin another run by it: another `output:` (with `model: {run}` once "
                "that run is trained), or remove the folder to train anew",
            )

    @property
    def tells_right(self) -> bool:
        """Does the first scorer say what is right and what is wrong?"""
        return bool(self.parts) and self.parts[0].metric.range == (0.0, 1.0)

    def check(self, train: Sequence[Example], held_out: Sequence[Example] = ()) -> list[str]:
        """Raise LuthierError where a scorer can say nothing of any answer to more of the rows that train than a run
        bears (`UNSAID_STOP`), or the first scorer of any that were `held_out` for it to judge; of fewer, say it."""
        remarks = []
        for part in self.parts:
            lacking = _lacking(part, train)
            if lacking and len(lacking) > UNSAID_STOP * len(train):
                raise _can_say_nothing(part, lacking, len(train))
            if lacking:
                remarks.append(f"warning: {_told(part, lacking, len(train))}: they teach nothing")
        lacking = _lacking(self.parts[0], held_out) if self.parts else []
        if lacking:
            raise _can_say_nothing(self.parts[0], lacking, len(held_out), " of validate.data")
        return remarks

    # asking
    def names(self, when: When) -> set[str]:
        """The scorers that are asked then."""
        return {part.name for part in self.parts if part.when == when}

    def asked(self, when: When, groups: Sequence[Group]) -> Said:
        """What the scorers that are asked then say of each answer of each group."""
        parts = [part for part in self.parts if part.when == when]
        said: Said = [[{} for _ in group.answers] for group in groups]
        given = [(group.prompt.example, [answer.response() for answer in group.answers]) for group in groups]
        for part in parts:
            rivals = part in self._comparing and any(group.rivals for group in groups)
            scores = _meetings(part, given) if rivals else _scores(part, given)
            for group, of_group, values in zip(groups, said, scores, strict=True):
                for one, value in zip(of_group, values, strict=True):
                    if value is None or not math.isfinite(value):
                        one[part.name] = None
                    else:
                        one[part.name] = _bearable(value, part.name, group)
        return said

    def judge(self, groups: Sequence[Group]) -> None:
        """Ask all scorers at once, and sum up."""
        every = [self.asked(when, groups) for when in get_args(When)]
        for place, group in enumerate(groups):
            group.parts = [
                {name: value for part in some for name, value in part.items()}
                for some in zip(*(said[place] for said in every), strict=True)
            ]
            self.settle(group)

    # summing up
    def settle(self, group: Group) -> None:
        """What each answer of a group is worth, and whether it is right, out of what was said of it (`group.parts`)."""
        compared = self.preference is not None and group.rivals
        sums = [self.total(said) for said in group.parts]
        for worth in sums:
            _bearable(worth, "sum", group)
        group.rewards = self._preferred(group) if compared else sums
        group.first = [said[self.parts[0].name] if self.parts else None for said in group.parts]
        group.right = [None if one is None or not self.tells_right else one > RIGHT for one in group.first]

    def total(self, said: Parts) -> float:
        """The weighted sum; 0 where a gate is 0, and where nobody judges; NaN where a part of it could not be said."""
        values = [(part, said[part.name]) for part in self.parts]
        if any(value is None for _, value in values):
            return math.nan
        if any(part.gate and value == 0 for part, value in values):
            return 0.0
        return float(sum(part.weight * (value or 0.0) for part, value in values))

    def _preferred(self, group: Group) -> list[float]:
        """For each answer the probability that it is preferred to its rival: the latter half of the group are the
        former's, in order. The two of a pair come to 1."""
        own = []
        for one, other in zip(group.parts[group.own], group.parts[group.own.stop :], strict=True):
            if self._comparing:
                own.append(self._compared(one, other))
            else:
                own.append(self._likely(self.total(one), self.total(other)))
        return [*own, *(1.0 - one for one in own)]

    def _likely(self, one: float, other: float) -> float:
        """Out of two scores."""
        if math.isnan(one) or math.isnan(other):
            return math.nan
        if self._logistic:
            return 0.5 * (1.0 + math.tanh(0.5 * (one - other)))
        return 0.5 + 0.5 * ((one > other) - (one < other))

    def _compared(self, one: Parts, other: Parts) -> float:
        """Out of what judges said of the two, by weight; a gate that one of them alone has passed decides."""
        if any(value is None for value in (*one.values(), *other.values())):
            return math.nan
        gates = [part for part in self.parts if part.gate and not part.metric.compares]
        passed, passed_too = (all(said[part.name] for part in gates) for said in (one, other))
        if not (passed and passed_too):
            return 0.5 + 0.5 * (passed - passed_too)
        whole = sum(part.weight for part in self._comparing)
        return float(sum(part.weight * (one[part.name] or 0.0) for part in self._comparing) / whole)


def _bearable(value: float, name: str, group: Group) -> float:
    """The score. Raises LuthierError where it is too large to learn from (NaN: nothing was said)."""
    if abs(value) > LARGEST:
        raise LuthierError(
            f"{'the weighted sum of `reward:`' if name == 'sum' else f'the scorer {name!r}'} gives {value:.3g}, beyond "
            f"{LARGEST:.0e}: no mean of rewards is exact there",
            where=group.prompt.where,
            fix="let it give smaller numbers (0 to 1 is usual), or bound them",
        )
    return value


def _meetings(part: Part, given: Sequence[tuple[Example, Sequence[Response]]]) -> list[list[float | None]]:
    """What one who compares says of each response and its rival, which stands half a group further on."""
    half = [len(responses) // 2 for _, responses in given]
    pairs = [
        (example, responses[i], responses[count + i])
        for (example, responses), count in zip(given, half, strict=True)
        for i in range(count)
    ]
    said = iter(part.metric.met(pairs))
    found = []
    for count in half:
        own = [next(said) for _ in range(count)]
        found.append([*own, *(None if one is None else 1.0 - one for one in own)])
    return found


def _content(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]


Lacking = list[tuple[Example, str]]
"""Rows, and what each has not."""


def _lacking(part: Part, examples: Sequence[Example]) -> Lacking:
    found = [(example, part.metric.lacks(example)) for example in examples]
    return [(example, what) for example, what in found if what is not None]


def _told(part: Part, lacking: Lacking, count: int, whose: str = "") -> str:
    named = list(dict.fromkeys(str(example.source) for example, _ in lacking if example.source))
    first = f" ({', '.join(named[:SHOWN])}{', …' if len(named) > SHOWN else ''})" if named else ""
    return (
        f"{len(lacking):,} of {count:,} rows{whose} have {lacking[0][1]}{first}, so that the scorer {part.name!r} can "
        "say nothing of any response to them"
    )


def _can_say_nothing(part: Part, lacking: Lacking, count: int, whose: str = "") -> LuthierError:
    first = lacking[0][0].source
    return LuthierError(
        _told(part, lacking, count, whose),
        where=str(first) if first else "reward",
        fix="give those rows what it judges by, leave them out, or take another scorer",
    )


def _scores(part: Part, given: Sequence[tuple[Example, Sequence[Response]]]) -> list[list[float | None]]:
    """A scorer's scores of all these groups. What it raises names it, and the row where that is known."""
    example: Example | None = None
    try:
        if part.when != "each":
            return score_groups(part.metric, given)
        found = []
        for example, responses in given:
            found.append(score_group(part.metric, example, responses))
        return found
    except LuthierError:
        raise
    except (Exception, SystemExit) as error:  # one that leaves the program is not to end the run without a word
        where = str(example.source) if example is not None and example.source else "reward"
        raise LuthierError(
            f"the scorer {part.name!r} failed: {type(error).__name__}: {error}",
            where=where,
            fix="let it give None where it cannot say; --debug shows where it failed",
        ) from error
