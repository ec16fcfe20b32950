"""How a generative reward model learns: its judgement is right, or it is not (arXiv:2504.02495).

Rejective fine-tuning draws judgements and keeps the right ones; reinforcement learning rewards them by +1 and -1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Float, Int, Why
from luthier.scorers.judges import reading, wording
from luthier.scorers.judges.constitution import Language
from luthier.scorers.metric import Metric, text
from luthier.types import Example, Response


@dataclass(frozen=True)
class GRMReward(Metric):
    """Trains a generative reward model: 1 where the judgement in the response agrees with the row's answer, else -1,
    also where it gives no scores. None: the row's answer is no list of numbers.

    The row's answer says what the responses in its prompt are worth: [1, 0]. Of several the best must get a higher
    score than each other one; one alone must get its own. `python -m luthier.scorers.judges.rows` makes such rows out
    of preference data.
    """

    scale: tuple[Int, Int] = (1, 10)
    """The worst score and the best."""
    within: Annotated[Float, Field(ge=0), Why("a known score is a whole number, as those given are")] = 0.0
    """Of one answer alone: so far may its score be from the known one."""
    needs_reference: ClassVar[bool] = False
    range: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def lacks(self, example: Example) -> str | None:
        return "no `answer` that is a list of numbers" if known_scores(example) is None else None

    def __call__(self, example: Example, response: Response) -> float | None:
        known = known_scores(example)
        if known is None:
            return None
        shown = reading.scores(text(response), len(known), *self.scale)
        return -1.0 if shown is None else grm_reward(shown, known, self.within)


def grm_reward(given: Sequence[float], known: Sequence[float], within: float = 0.0) -> float | None:
    """+1 where the scores given agree with the known worth, else -1; None where no answer is known to be the best.

    One answer: its score is the known one, or `within` so much of it. Several: the best known has a higher score than
    each other one, so a tie at the top is wrong.
    """
    if len(given) != len(known) or not known:
        raise LuthierError(f"{len(given)} scores were given for {len(known)} answers", fix="give one for each")
    if len(known) == 1:
        return 1.0 if abs(given[0] - known[0]) <= within else -1.0
    top = max(known)
    if list(known).count(top) > 1:
        return None
    place = list(known).index(top)
    others = [score for other, score in enumerate(given) if other != place]
    return 1.0 if given[place] > max(others) else -1.0


def known_scores(example: Example) -> tuple[float, ...] | None:
    """What the answers in the prompt are worth, in the order they are shown in; None where the row does not say it."""
    try:
        found = json.loads(example.answer or "")
    except (ValueError, RecursionError):
        return None
    listed = found if isinstance(found, list) else [found]
    return tuple(map(float, listed)) if listed and all(map(_is_number, listed)) else None


def judging_row(example: Example, language: Language, scale: tuple[int, int]) -> dict[str, str] | None:
    """A row that asks to judge the responses of an example; None where no response is known to be the best."""
    rewards = [response.reward for response in example.responses]
    known = [reward for reward in rewards if reward is not None and math.isfinite(reward)]
    if not known or len(known) != len(rewards) or (len(known) > 1 and known.count(max(known)) > 1):
        return None
    asked = wording.several(language, example, [text(response) for response in example.responses], scale)
    return {"prompt": asked, "answer": json.dumps(known)}


def worth_keeping(rewards: Sequence[float | None]) -> list[int]:
    """Places of the judgements that rejective fine-tuning learns from: the right ones among several drawn for a
    question; none where all are right, for it has nothing to learn there."""
    right = [place for place, reward in enumerate(rewards) if reward == 1.0]
    return [] if len(right) == len(rewards) else right


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
