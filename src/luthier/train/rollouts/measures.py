"""What a rollout showed, as numbers: rewards and each part of them, lengths, what was cut, how sure the model is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from luthier.train.rollouts.drawn import Group


@dataclass
class Clock:
    """Seconds of one rollout, and what was made in them."""

    speaking: float = 0.0
    scoring: float = 0.0
    reading: float = 0.0
    """By the model that trains, for log-probabilities and values of what was said."""
    made: int = 0
    """Tokens drawn, those on disk from before a kill not counted."""

    @property
    def whole(self) -> float:
        """All of it."""
        return self.speaking + self.scoring + self.reading


def measured(
    groups: Sequence[Group], drawn: Sequence[Group], *, judged: bool = True, across: bool = False
) -> dict[str, float]:
    """`groups` train, `drawn` were answered: groups without contrast among them, where these gave way. Only answers of
    the policy itself count. `judged`: does anything say what they are worth?

    reward        mean worth of an answer; _std: its spread; _NAME: the mean of one part by itself
    right         share of answers that the first scorer calls right
    unsaid        share of answers of which some scorer could not say anything
    silent        share of the drawn groups whose answers are all worth the same; where credit goes `across` groups, 1
                  if those of all are, else 0
    length, cut   mean tokens of an answer, share of answers that were too long
    entropy       of what was drawn from, nats a token, estimated from the draws
    """
    answers = [answer for group in drawn for answer in group.answers[group.own]]
    rewards = [reward for group in drawn for reward in group.rewards[group.own]] if judged else []
    known = [reward for reward in rewards if not math.isnan(reward)]
    right = [one for group in drawn for one in group.right[group.own] if one is not None]
    tokens = sum(len(answer.ids) for answer in answers)
    found: dict[str, float] = {}
    if known:
        found |= {"reward": fmean(known), "reward_std": pstdev(known)}
    if right:
        found["right"] = fmean(right)
    for name in dict.fromkeys(name for group in drawn for said in group.parts[group.own] for name in said):
        said_of = [said[name] for group in drawn for said in group.parts[group.own]]
        values = [value for value in said_of if value is not None]
        if values:
            found[f"reward_{name.replace(' ', '_')}"] = fmean(values)
    if rewards:
        found["unsaid"] = 1 - len(known) / len(rewards)
        alike = not any(group.teaches for group in drawn) and len(set(known)) < 2
        found["silent"] = float(alike) if across else fmean(not group.teaches for group in drawn)
    found |= {
        "length": tokens / max(len(answers), 1),
        "cut": fmean(answer.cut for answer in answers),
        "entropy": -sum(float(answer.logp_T.sum()) for answer in answers) / max(tokens, 1),
        "groups": len(groups),
        "drawn": len(drawn),
        "longest": max(len(answer.ids) for answer in answers),
    }
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def timed(clock: Clock) -> dict[str, float]:
    """What a rollout took."""
    speed = clock.made / clock.speaking if clock.speaking else 0.0
    return {
        "speaking_seconds": round(clock.speaking, 3),
        "scoring_seconds": round(clock.scoring, 3),
        "reading_seconds": round(clock.reading, 3),
        "made_per_s": round(speed, 1),
    }
