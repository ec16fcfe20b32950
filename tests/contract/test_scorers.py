"""What holds for every registered scorer, whatever it measures."""

import math
from dataclasses import fields, is_dataclass

import numpy as np
import pytest

from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric
from luthier.types import Example, Response, Scorer, Turn

ANSWERS = {
    "english": '{"drink": "green tea", "cups": 2}',
    "chinese": '{"饮料": "绿茶", "杯数": 2}',
    "word": '"yes"',
    "long": '["' + "one two three four five, " * 200 + '"]',
    "markup": '{"html": "<b>&amp;</b>\\n"}',
}
EMPTY_RESPONSES = ["", " \n", "\x00", "，。", "}{", "🙂"]


def example(answer: str | None) -> Example:
    return Example(prompt=(Turn("user", "?"),), answer=answer)


def perfect(scorer: Metric, answer: str) -> Response:
    logp = (0.0, 0.0) if scorer.needs_likelihood else None
    return Response((Turn("assistant", answer),), logp=logp)


@pytest.fixture(params=SCORERS.names())
def scorer(request: pytest.FixtureRequest) -> Metric:
    return SCORERS.build(request.param)


def best(scorer: Metric) -> float:
    return scorer.range[1] if scorer.higher_is_better else scorer.range[0]


def test_is_a_frozen_dataclass_of_documented_kind(scorer):
    assert isinstance(scorer, Scorer) and isinstance(scorer, Metric) and is_dataclass(scorer)
    assert type(scorer).__doc__ and not type(scorer).__doc__.startswith(f"{type(scorer).__name__}(")
    assert hash(scorer) == hash(type(scorer)())  # frozen, and every key has a default
    assert scorer.range[0] < scorer.range[1]
    assert all(field.name not in ("range", "higher_is_better", "needs_likelihood") for field in fields(scorer))


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_a_perfect_answer_gets_the_best_score(scorer, answer):
    assert scorer(example(answer), perfect(scorer, answer)) == pytest.approx(best(scorer))


def test_the_reference_may_be_the_first_response(scorer):
    answer = ANSWERS["chinese"]
    row = Example(prompt=(Turn("user", "?"),), responses=(Response((Turn("assistant", answer),)),))
    assert scorer(row, perfect(scorer, answer)) == pytest.approx(best(scorer))


@pytest.mark.parametrize("said", EMPTY_RESPONSES)
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
def test_an_empty_or_odd_response_is_bad_and_does_not_crash(scorer, answer, said):
    response = Response((Turn("assistant", said),), logp=(-20.0,) if scorer.needs_likelihood else None)
    score = scorer(example(answer), response)
    assert score is not None and scorer.range[0] <= score <= scorer.range[1]
    middle = 0.5 * scorer.range[1] if math.isfinite(scorer.range[1]) else 1e6
    assert score < middle if scorer.higher_is_better else score > middle


def test_no_reference_is_no_judgement(scorer):
    response = Response((Turn("assistant", "anything"),))
    assert scorer(example(None), response) is None
    assert scorer.statistics(example(None), response) is None


def test_one_row_pools_to_its_own_score_and_twice_the_row_to_the_same(scorer):
    row, said = example("the cat sat on the mat"), "the cat sat on a mat"
    response = Response((Turn("assistant", said),), logp=(-1.0, -3.0) if scorer.needs_likelihood else None)
    if scorer(row, response) is None:  # json_match has nothing to say about prose
        row, response = example("[1, 2]"), Response((Turn("assistant", "[2]"),))
    statistics = scorer.statistics(row, response)
    sums = np.array([statistics, statistics], dtype=np.float64) * [[1.0], [2.0]]
    assert scorer.pooled(sums) == pytest.approx(scorer(row, response))
