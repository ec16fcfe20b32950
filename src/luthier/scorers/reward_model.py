"""A trained reward model as a scorer: what its scalar head reads at the end of a response, or of each of its steps.

Shape suffixes: K = readings of one response.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from luthier.errors import LuthierError
from luthier.recipe.schema import Why
from luthier.run import Run
from luthier.scorers.metric import Metric
from luthier.types import RAW, Encoded, Example, Response

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.forward.values import Reader
    from luthier.models.heads import HeadCard

Aggregation = Literal["product", "min", "last", "mean"]
LOG = logging.getLogger(__name__)
OPEN = 4
"""Reward models in memory at a time: a reward may be the sum of several."""
PAIRS_AT_ONCE = 512
"""Responses tokenised together."""


@dataclass(frozen=True)
class RewardModel(Metric):
    """A reward model or process reward model that Luthier trained. No known answer is needed.

    A reward model (arXiv:2203.02155) gives its reward as it stands, any number; rewards compare answers to one prompt.
    A process reward model (arXiv:2305.20050) gives p, the probability that a step is right, for each step, and the
    steps' p become one number between 0 and 1.
    """

    run: str
    """The run folder of the reward model."""
    aggregation: Annotated[
        Aggregation | None, Why("the probability that every step is right, as arXiv:2305.20050 scores solutions")
    ] = None
    """How the steps' probabilities become one score: product, min, last, mean. Process reward models only.
    Default: product."""
    batch: Annotated[int, Field(gt=0), Why("enough rows to fill a forward pass")] = 64
    """Most responses in one forward pass (one of several holds 2,048 tokens at most)."""
    range: ClassVar[tuple[float, float]] = (-math.inf, math.inf)
    needs_reference: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "run", str(Path(self.run).expanduser().resolve()))

    def __call__(self, example: Example, response: Response) -> float | None:
        return self.many([(example, response)])[0]

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        """The reward of each response to its example, in order; None for one that is empty, has no step, or is longer
        than the model's context. Raises LuthierError as `check` does.
        """
        scores: list[float | None] = []
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            rows = self.rows(pairs[start : start + PAIRS_AT_ONCE])
            known = iter(self.rewards([row for row in rows if row is not None]))
            scores += [None if row is None else next(known) for row in rows]
        return scores

    def rows(self, pairs: Sequence[tuple[Example, Response]]) -> list[Encoded | None]:
        """The pairs as the model reads them; None for what has no reward. Raises LuthierError as `many` does."""
        self.check()
        return self._model.encode(pairs)

    def rewards(self, rows: Sequence[Encoded]) -> list[float]:
        """The rewards of such rows."""
        opened = self._model
        steps = opened.card.kind == "step"
        readings = opened.reader(rows)
        return [
            aggregate(value_K, self.aggregation or "product") if steps else float(value_K[0]) for value_K in readings
        ]

    @property
    def _model(self) -> _Opened:
        return _opened(self.run, _stamp(self.run), self.batch)

    def check(self) -> None:
        """Raise LuthierError where the run is no run, has not finished, has no head that fits the keys, or learnt from
        steps that cannot be told apart in an answer."""
        card = head_card(Run.open(self.run))
        if self.aggregation is not None and card.kind == "row":
            raise LuthierError(
                f"`aggregation` is for process reward models, and {self.run} rewards whole responses",
                where="reward_model",
                fix="leave it out",
            )
        if card.kind == "step" and "\n" not in card.separator:
            raise LuthierError(
                f"{self.run} learnt from steps that {card.separator!r} divides, which does not show where the steps of "
                "an answer end",
                where="reward_model",
                fix="train it on rows whose steps end with a newline, or none at all (step_accuracy does judge it)",
            )

    def statistics_many(self, pairs: Sequence[tuple[Example, Response]]) -> list[tuple[float, ...] | None]:
        return [None if score is None else (score, 1.0) for score in self.many(pairs)]


def aggregate(logit_K: NDArray[np.float32], how: Aggregation) -> float:
    """The steps' readings as one score: each is the logit of p, the probability that the step is right."""
    # of the logarithms, so that neither a certain nor an impossible step overflows: log p = -log(1 + exp(-logit))
    log_p_K = -np.logaddexp(0.0, -logit_K.astype(np.float64))
    if how == "product":
        return float(np.exp(log_p_K.sum()))
    p_K = np.exp(log_p_K)
    return float({"min": p_K.min(), "last": p_K[-1], "mean": p_K.mean()}[how])


def head_card(run: Run) -> HeadCard:
    """How the head of a run is read. Raises LuthierError when the run has not finished, or was trained without one."""
    from luthier.models.heads import CARD, WEIGHTS, HeadCard

    folder = run.model if run.model.is_dir() else run.adapter
    if not folder.is_dir():
        raise LuthierError(
            "the reward model's run holds no trained model yet",
            where=str(run.folder),
            fix="let `luthier train` with its recipe end first",
        )
    if not (folder / WEIGHTS).is_file() or not (folder / CARD).is_file():
        raise LuthierError(
            f"{run.folder} was trained with objective {_objective(run)} and has no scalar head",
            where="reward_model",
            fix="train one with `objective: reward` (or process_reward), and name its run folder",
        )
    try:
        return HeadCard(**json.loads((folder / CARD).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise LuthierError(
            "what says how the reward model's head is read is not whole",
            where=str(folder / CARD),
            fix="copy the run again, or train the reward model again",
        ) from error


def _objective(run: Run) -> str:
    from luthier.recipe import loads

    return loads(run.recipe_path.read_text(encoding="utf-8"), name=str(run.recipe_path)).recipe.objective.name


@dataclass(frozen=True)
class _Opened:
    """A reward model in memory."""

    template: Template
    reader: Reader
    card: HeadCard
    context: int | None
    long: list[int] = field(default_factory=list)
    """Tokens of each that was longer than that."""

    def encode(self, pairs: Sequence[tuple[Example, Response]]) -> list[Encoded | None]:
        """The tokens of prompt and response as training would have them; None where there is nothing to judge."""
        from luthier.data.encode.rendering import RowFault

        rows = [self._row(example, response) for example, response in pairs]
        tokenised = iter(self.template.encode_batch([row for row in rows if row is not None], "last"))
        found: list[Encoded | None] = []
        for row in rows:
            one = None if row is None else next(tokenised)
            if isinstance(one, LuthierError) and not isinstance(one, RowFault):
                raise LuthierError(
                    f"the reward model cannot read the rows: {one.what}",
                    where=one.where,
                    fix="take a reward model that was trained on rows like these",
                ) from one
            encoded = None if one is None or isinstance(one, LuthierError) else one.encoded()
            found.append(None if row is None or encoded is None or self._too_long(row, encoded) else encoded)
        return found

    def _row(self, example: Example, response: Response) -> Example | None:
        """The pair as a judged example: in the form, not with the values, that its training rows had."""
        if not response.turns or not any(turn.text.strip() or turn.calls for turn in response.turns):
            return None
        raw = bool(example.prompt) and all(turn.role == RAW for turn in example.prompt)
        turns = tuple(replace(turn, weight=None, role=RAW if raw else turn.role) for turn in response.turns)
        if self.card.kind == "row":
            return replace(example, responses=(Response(turns, reward=0.0),))
        steps = tuple(step for step in turns[-1].text.split(self.card.separator) if step.strip())
        if not steps:
            return None
        judged = Response(turns, step_rewards=(0.0,) * len(steps))
        return replace(example, responses=(judged,), meta={**example.meta, "steps": steps})

    def _too_long(self, row: Example, encoded: Encoded) -> bool:
        """Does the model not read so much? The first such row is told; one long answer is not to end a run of days."""
        longest = max(len(ids) for ids in encoded.ids)
        if self.context is None or longest <= self.context:
            return False
        if not self.long:
            LOG.warning(
                "%s: prompt and response have %s tokens, the reward model's context is %s: it stays without a score, "
                "and so do others like it; lower max_new_tokens, or take a reward model with a longer context",
                row.source or "reward_model", f"{longest:,}", f"{self.context:,}",
            )  # fmt: skip
        self.long.append(longest)
        return True


def _stamp(folder: str) -> tuple[int, ...]:
    """Changes when the run's weights do."""
    run = Run(Path(folder))
    files = [path for where in (run.model, run.adapter) for path in sorted(where.glob("*.safetensors"))]
    return tuple(path.stat().st_mtime_ns for path in files)


@lru_cache(maxsize=OPEN)
def _opened(folder: str, stamp: tuple[int, ...], batch: int) -> _Opened:
    """The reward model, loaded once however many tasks ask it, and however many are asked in turn."""
    from luthier.data import Template
    from luthier.forward.values import Reader
    from luthier.models import embeddings, open_run

    policy = open_run(Run.open(folder))
    if policy.head is None:  # `check` has looked
        raise LuthierError("the run has no scalar head", where=folder, fix="name a run of a reward objective")
    context = getattr(policy.module.config.get_text_config(), "max_position_embeddings", None)
    template = Template(policy.tokenizer, embeddings(policy.module))
    return _Opened(template, Reader(policy.module, policy.head, rows=batch), policy.head.card, context)
