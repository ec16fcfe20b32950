"""Answers of two models put to whoever judges: a language model in both orders, or scores held against each other.

| what judges | how |
|---|---|
| `judge` | asked in both orders, by each of its rules |
| a scorer that compares two (`met`) | asked in both orders |
| any other scorer (a reward model, …) | the higher score wins; there is no order, so none can mislead |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from luthier.evaluate.judging.bouts import Bout
from luthier.scorers.groups import score_groups
from luthier.scorers.judges.judge import Judge, Orders
from luthier.scorers.metric import Metric
from luthier.types import Example, Response, Turn

AT_ONCE = 256
"""Comparisons handed to a judge at a time; each is kept on disk as it is answered."""


@dataclass(frozen=True)
class Meeting:
    """Two models' answers to one prompt."""

    question: str
    example: Example
    """The prompt; its `answer`, where it has one, is shown to the judge as the known right one."""
    one: tuple[str, str]
    """A model's name, and what it says."""
    other: tuple[str, str]


def held(by: Metric, meetings: Sequence[Meeting], tell: Callable[[int], None] | None = None) -> list[Bout]:
    """What comes of each meeting, in order. `tell` hears how many more are done. Raises LuthierError as the judge
    does."""
    found: list[Bout] = []
    for at in range(0, len(meetings), AT_ONCE):
        some = meetings[at : at + AT_ONCE]
        for meeting, both in zip(some, _orders(by, some), strict=True):
            (one, said), (other, heard) = meeting.one, meeting.other
            longer, same = len(said) - len(heard), said == heard
            found.append(Bout(meeting.question, one, other, (0.5, 0.5) if same else both, longer, same))
        if tell is not None:
            tell(len(some))
    return found


def placed(by: Metric) -> bool:
    """Are two answers shown to it beside one another, so that their places may count?"""
    return isinstance(by, Judge) or by.compares


def _orders(by: Metric, meetings: Sequence[Meeting]) -> list[Orders]:
    if isinstance(by, Judge):
        asked = by.orders([(meeting.example, meeting.one[1], meeting.other[1]) for meeting in meetings])
        return [(_mean([one for one, _ in some]), _less(_mean([other for _, other in some]))) for some in asked]
    pairs = [(meeting.example, _said(meeting.one[1]), _said(meeting.other[1])) for meeting in meetings]
    if by.compares:
        first = by.met(pairs)
        second = by.met([(example, other, one) for example, one, other in pairs])
        return [(one, _less(other)) for one, other in zip(first, second, strict=True)]
    scores = score_groups(by, [(example, [one, other]) for example, one, other in pairs])
    return [(won, won) for won in (_higher(*both) for both in scores)]


def _mean(shares: Sequence[float | None]) -> float | None:
    """Of several rules, those that could be read."""
    read = [share for share in shares if share is not None]
    return sum(read) / len(read) if read else None


def _less(share: float | None) -> float | None:
    return None if share is None else 1.0 - share


def _higher(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return None
    return 0.5 if one == other else float(one > other)


def _said(text: str) -> Response:
    return Response((Turn("assistant", text),))
