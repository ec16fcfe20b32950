"""What holds for every registered scorer, whatever it measures; what it declares decides which checks apply."""

import math
import shutil
import time
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from bench import save_tiny_model
from reward_runs import policy, write_run

from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric
from luthier.scorers.preference import Judgement
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


def names(**abilities: bool) -> list[str]:
    """The scorers that declare these abilities."""
    classes = {name: SCORERS.get(name) for name in SCORERS.names()}
    return [
        name for name, cls in classes.items() if all(getattr(cls, key) == value for key, value in abilities.items())
    ]


@pytest.fixture(scope="module")
def required(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What scorers cannot do without, by key: the run of a reward model, a function, a pattern, …"""
    folder = tmp_path_factory.mktemp("required")
    model = save_tiny_model(folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUTHIER_CACHE", str(folder / "cache"))
        write_run(folder / "rm", policy(model), model)
    (folder / "own.py").write_text("def share(response):\n    return len(response) % 7\n", encoding="utf-8")
    return {
        "run": str(folder / "rm"),
        "function": f"{folder / 'own.py'}:share",
        "pattern": "tea",
        "schema": {"type": "object"},
        "limit": 20,
    }


def build(name: str, required: dict[str, Any]) -> Metric:
    wanted = [field.name for field in fields(SCORERS.get(name)) if field.default is MISSING]
    return SCORERS.build(name, {key: required[key] for key in wanted})


@pytest.fixture(params=SCORERS.names())
def every(request: pytest.FixtureRequest, required: dict[str, Any]) -> Metric:
    if request.param == "proof" and shutil.which("coqc") is None:
        pytest.skip("Coq is not there: apt install coq")
    return build(request.param, required)


@pytest.fixture(params=names(needs_reference=True))
def scorer(request: pytest.FixtureRequest, required: dict[str, Any]) -> Metric:
    """One that compares with a known answer."""
    return build(request.param, required)


@pytest.fixture(params=names(needs_rewards=True))
def judgement(request: pytest.FixtureRequest, required: dict[str, Any]) -> Judgement:
    """One that judges a model's rewards."""
    return build(request.param, required)


def best(scorer: Metric) -> float:
    return scorer.range[1] if scorer.higher_is_better else scorer.range[0]


def test_is_a_frozen_dataclass_of_documented_kind(every):
    assert isinstance(every, Scorer) and isinstance(every, Metric) and is_dataclass(every)
    assert type(every).__doc__ and not type(every).__doc__.startswith(f"{type(every).__name__}(")
    assert hash(every) == hash(replace(every)) and every == replace(every)
    assert every.range[0] < every.range[1]
    abilities = {"range", "higher_is_better", "needs_likelihood", "needs_rewards", "needs_reference", "sees_group"}
    assert abilities.isdisjoint(field.name for field in fields(every))
    every.check()


def test_many_at_once_are_as_many_one_by_one(every):
    rows = [example(answer) for answer in ("a tea", None, "two teas", '{"a": 1}')]
    said = ["a tea", "anything", "two teas and much more, so that lengths differ", ""]
    logp = (-1.0, -2.0) if every.needs_likelihood else None
    pairs = [(row, Response((Turn("assistant", text),), logp=logp)) for row, text in zip(rows, said, strict=True)]
    assert every.many(pairs) == [pytest.approx(every(*pair), abs=1e-5) for pair in pairs]
    together, alone = every.statistics_many(pairs), [every.statistics(*pair) for pair in pairs]
    assert together == [each if each is None else pytest.approx(each, abs=1e-5) for each in alone]
    assert every.many([]) == [] and every.statistics_many([]) == []
    assert every.many([(rows[0], Response(()))])[0] in (None, every(rows[0], Response(())))


SAID = {
    "nothing": "",
    "unicode": "🙂‮́ ½ Ⅷ ﷺ \ud7ff\x00\u2028 𝒳",
    "chinese": "答案是 \\boxed{五}，因为二加三等于五。",
    "long": "so 1 + 1 = 2, " * 10_000,
    "brackets": "{[(<" * 10_000,
    "marks": "\\boxed{" * 5_000,
}


@pytest.mark.parametrize("said", SAID.values(), ids=SAID)
def test_any_words_are_judged_within_the_range_alike_each_time_and_soon(every, said):
    if every.needs_likelihood or every.needs_rewards or "run" in {field.name for field in fields(every)}:
        pytest.skip("it asks a model, which has a context")
    row, response = example("5"), Response((Turn("assistant", said),))
    start = time.process_time()
    score = every(row, response)
    assert time.process_time() - start < 10
    assert score is None or (isinstance(score, float) and every.range[0] <= score <= every.range[1])
    assert score == every(row, response) == replace(every)(row, response)


def judged(scorer: Judgement) -> Example:
    """A row that it judges: what is better stands first."""
    good, bad = Response((Turn("assistant", "a"),), reward=1.0), Response((Turn("assistant", "b"),), reward=0.0)
    steps = Response((Turn("assistant", "a\nb"),), step_rewards=(1.0, -1.0))
    return next(row for row in (Example((), (good, bad)), Example((), (steps,))) if scorer.judges(row))


def test_rewards_are_judged_by_their_order_and_a_tie_is_half(judgement):
    row = judged(judgement)

    def value(*rewards: float) -> float:
        return float(judgement.pooled(np.array([judgement.of_rewards(row, rewards)]))[0])

    assert value(1.0, -1.0) == 1.0 and value(-1.0, 1.0) == 0.0 and value(0.0, 0.0) == 0.5
    assert value(1e-9, -1e-9) == value(1e9, -1e9) == 1.0
    assert judgement(row, row.responses[0]) is None, "one response alone says nothing"
    assert not judgement.judges(example("an answer")) and judgement.of_rewards(example("an answer"), ()) is None


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
