"""Rows whose answers do not repeat themselves."""

from __future__ import annotations

from dataclasses import dataclass

from luthier.data.cleaning import Repetition
from luthier.data.steps.step import Dropped, Outcome, RowStep
from luthier.data.steps.tools import Tools
from luthier.types import Example, Response


@dataclass(frozen=True)
class Repeating(Repetition, RowStep):
    """Leaves out rows with an answer that repeats itself. Of several judged answers the best one counts: a worse one
    may be worse for that very reason."""

    def apply(self, example: Example, tools: Tools) -> Outcome:
        for response in _best(example.responses):
            for turn in response.turns:
                found = self.reason(turn.text)
                if found is not None:
                    return Dropped(*found)
        return example


def _best(responses: tuple[Response, ...]) -> tuple[Response, ...]:
    rewards = [response.reward for response in responses if response.reward is not None]
    if len(responses) < 2 or len(rewards) < len(responses):
        return responses
    return tuple(response for response in responses if response.reward == max(rewards))


__all__ = ["Repeating"]
