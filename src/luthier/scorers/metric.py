"""What every built-in scorer is, and how the scores of rows become the score of a corpus.

Shape suffixes: B = totals asked for at once (the corpus itself, or its bootstrap resamples), K = statistics of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.util import find_spec
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from luthier.errors import missing_extra
from luthier.types import RAW, Example, Response


class Metric(ABC):
    """A scorer that knows how its rows add up.

    A corpus value is always a function of **sums over rows**: `statistics` gives what one row adds to the sums and
    `pooled` turns sums into the value. The default is the mean of the scores; BLEU adds n-gram counts and perplexity
    adds log-probabilities. Because the statistics only add, a bootstrap resample is a weighted sum of them.
    """

    higher_is_better: ClassVar[bool] = True
    range: ClassVar[tuple[float, float]] = (0.0, 1.0)
    """The lowest and the highest value there can be."""
    needs_likelihood: ClassVar[bool] = False
    """True: it judges no generated text; its response is the reference, with the model's `logp` of each token."""
    needs_rewards: ClassVar[bool] = False
    """True: it judges no generated text but the rewards a model gives to the row's own responses: a `Judgement`."""
    needs_choices: ClassVar[bool] = False
    """True: it judges no generated text but how likely each of the row's own responses is: a `ChoiceMetric`."""
    needs_reference: ClassVar[bool] = True
    """False: it can judge a response to a row without a known answer."""
    compares: ClassVar[bool] = False
    """True: it has `met` and says of two responses how far one is better than the other."""
    sees_group: ClassVar[bool] = False
    """True: it has `group` and judges the responses to one prompt beside one another (`types.GroupScorer`)."""
    sees_all: ClassVar[bool] = False
    """True: it is a `PassAtK`, whose score is that of all answers drawn for a prompt, not of one."""

    @property
    def waits(self) -> bool:
        """True: its time goes by in other processes or on the network, and what it says hangs on nothing that is asked
        beside it. It is asked in a thread of its own then, of many at once, while answers are still drawn."""
        return False

    def check(self) -> None:
        """Raise, before anything is generated, what could only be raised later."""
        return

    def files(self) -> tuple[str, ...]:
        """Files, besides what the recipe says, that its judgements hang on: with another content it is another."""
        return ()

    def lacks(self, example: Example) -> str | None:
        """In words (no `answer`), what a row lacks and nothing can be said of responses without; None: nothing."""
        return "no `answer`" if self.needs_reference and reference(example) is None else None

    @abstractmethod
    def __call__(self, example: Example, response: Response) -> float | None:
        """The score of one response; None when the example does not allow a judgement (it has no reference, say)."""

    def statistics(self, example: Example, response: Response) -> tuple[float, ...] | None:
        """What this row adds to the sums (K numbers); None where the score is None."""
        score = self(example, response)
        return None if score is None else (score, 1.0)

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        """`statistics` of many rows; a scorer that is faster on many at once has its own way."""
        return [self.statistics(*pair) for pair in pairs]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The scores of many responses, each to its example."""
        return [self(*pair) for pair in pairs]

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        """The score of each response to one prompt, beside the others where the scorer sees them."""
        return self.many([(example, response) for response in responses])

    def groups(self, groups: Sequence[tuple[Example, Sequence[Response]]]) -> list[list[float | None]]:
        """`group` of many prompts; a scorer that is faster on many at once has its own way."""
        return [self.group(*one) for one in groups]

    def met(self, pairs: Sequence[tuple[Example, Response, Response]]) -> list[float | None]:
        """The probability that the first of each two responses is the better one; None where it cannot say."""
        raise TypeError(f"{type(self).__name__} compares no two responses")

    def pooled(self, totals_BK: NDArray[np.float64]) -> NDArray[np.float64]:
        """The corpus value of each row of sums: (B, K) → (B,)."""
        return totals_BK[:, 0] / totals_BK[:, 1]


def text(response: Response) -> str:
    """What the assistant says in a response, its turns joined by line ends."""
    return "\n".join(turn.text for turn in response.turns if turn.role in ("assistant", RAW))


def reference(example: Example) -> str | None:
    """The known good answer: `answer`, otherwise the text of the first response; None when there is neither.

    A first response that only calls tools has no text to compare with, so it counts as none.
    """
    if example.answer is not None:
        return example.answer
    if not example.responses:
        return None
    first = example.responses[0]
    return text(first) or (None if any(turn.calls for turn in first.turns) else "")


def require(package: str, module: str, scorer: str, extra: str = "metrics") -> None:
    """Raise the error that names the extra, when a scorer's library is absent (asked when the scorer is built)."""
    if find_spec(module) is None:
        raise missing_extra(package, extra, f"the scorer {scorer!r}")
