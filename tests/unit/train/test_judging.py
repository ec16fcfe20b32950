"""What answers are worth: sums by weight, gates, scorers that cannot say, scorers that fail."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from rollout_runs import prompts

from luthier.errors import LuthierError
from luthier.recipe import Plugin
from luthier.recipe.schema import Reward
from luthier.scorers import SCORERS
from luthier.scorers.metric import Metric, text
from luthier.train.rollouts.drawn import Answer, Group
from luthier.train.rollouts.judging import Judging
from luthier.types import Example, Response, Turn


@dataclass(frozen=True)
class Words(Metric):
    """A tenth for each word; None for an answer that says "hush"; fails at "bang"."""

    range: ClassVar[tuple[float, float]] = (0.0, math.inf)
    needs_reference: ClassVar[bool] = False

    def __call__(self, example: Example, response: Response) -> float | None:
        if "bang" in text(response):
            raise KeyError("no such word")
        if "leave" in text(response):
            raise SystemExit(3)
        return None if "hush" in text(response) else len(text(response).split()) / 10


@dataclass(frozen=True)
class Batched(Words):
    """The same, asked at once."""

    asked: ClassVar[list[int]] = []

    def many(self, pairs: Sequence[tuple[Example, Response]]) -> list[float | None]:
        self.asked.append(len(pairs))
        return [self(*pair) for pair in pairs]


@dataclass(frozen=True)
class Ranked(Words):
    """1 for the longest of a group."""

    sees_group: ClassVar[bool] = True

    def group(self, example: Example, responses: Sequence[Response]) -> list[float | None]:
        lengths = [len(text(response)) for response in responses]
        return [float(length == max(lengths)) for length in lengths]


@dataclass(frozen=True)
class Tokens(Words):
    """How many tokens were sampled: scorers see the very tokens, and how likely they were."""

    def __call__(self, example: Example, response: Response) -> float | None:
        assert response.ids is not None and response.logp is not None and len(response.ids) == len(response.logp)
        return float(len(response.ids))


@dataclass(frozen=True)
class Vast(Words):
    """As many as a double holds."""

    def __call__(self, example: Example, response: Response) -> float | None:
        return 1e308 if "more" in text(response) else -1e308


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    more = {"words": Words, "batched": Batched, "ranked": Ranked, "tokens": Tokens, "longer": Longer, "vast": Vast}
    monkeypatch.setattr(SCORERS, "_targets", {**SCORERS._targets, **more})
    Batched.asked.clear()
    yield


def reward(name: str, weight: float | None = None, *, gate: bool = False) -> Reward:
    return Reward(scorer=Plugin(name=name), weight=weight, gate=gate)


def judged(rewards: Sequence[Reward], *texts: str) -> Group:
    return judged_by(Judging(rewards), *texts)


def judged_by(judging: Judging, *texts: str) -> Group:
    answers = [Answer((3, 4, 1), np.zeros(3, np.float32), said, "stop") for said in texts]
    group = Group(0, 0, prompts(1)[0], answers)
    judging.judge([group])
    return group


def test_scores_are_summed_by_weight_and_each_is_reported() -> None:
    group = judged([reward("contains"), reward("words", 0.5)], "w5", "no no", "w5 and more of it")
    assert group.parts[2] == {"contains": 1.0, "words": 0.5}
    assert group.rewards == pytest.approx([1.05, 0.1, 1.25])
    assert group.right == [True, False, True] and group.first == [1.0, 0.0, 1.0]


def test_a_gate_that_is_0_makes_the_whole_0_and_adds_nothing_by_itself() -> None:
    group = judged([reward("words"), reward("contains", gate=True)], "w5 yes", "no yes", "")
    assert group.rewards == pytest.approx([0.2, 0.0, 0.0])
    assert judged([reward("words"), reward("contains", 0.5, gate=True)], "w5 yes").rewards == pytest.approx([0.7])


def test_a_weight_may_be_below_0() -> None:
    assert judged([reward("contains"), reward("words", -1.0)], "w5 yes").rewards == pytest.approx([0.8])


def test_what_cannot_be_said_is_no_0() -> None:
    group = judged([reward("contains"), reward("words", 0.1)], "w5 hush", "w5")
    assert math.isnan(group.rewards[0]) and group.rewards[1] == pytest.approx(1.01)
    assert group.parts[0] == {"contains": 1.0, "words": None}
    assert not group.teaches, "one known reward tells nothing apart"


def test_a_scorer_of_many_is_asked_for_all_groups_at_once_and_one_of_groups_for_each() -> None:
    judging = Judging([reward("batched"), reward("ranked")])
    groups = [
        Group(place, 0, prompts(1)[0], [Answer((3,), np.zeros(1, np.float32), said, "stop") for said in texts])
        for place, texts in enumerate((("a", "b b"), ("c c c", "d")))
    ]
    judging.judge(groups)
    assert Batched.asked == [4]
    assert [group.rewards for group in groups] == [pytest.approx([0.1, 1.2]), pytest.approx([1.3, 0.1])]
    assert [part.when for part in judging.parts] == ["all", "each"]


def test_a_first_scorer_of_any_number_calls_nothing_right() -> None:
    group = judged([reward("words")], "a b c d e f g h")
    assert group.right == [None] and group.rewards == [0.8]


def test_two_of_a_kind_have_names_of_their_own() -> None:
    assert [part.name for part in Judging([reward("words"), reward("words"), reward("contains")]).parts] == [
        "words", "words 2", "contains",
    ]  # fmt: skip


def test_scorers_see_the_tokens_that_were_sampled() -> None:
    assert judged([reward("tokens")], "w5").rewards == [3.0]


def test_a_scorer_that_fails_is_named_with_the_row() -> None:
    with pytest.raises(LuthierError, match=r"q.jsonl:1: the scorer 'words' failed: KeyError: 'no such word'"):
        judged([reward("words")], "bang")
    with pytest.raises(LuthierError, match=r"the scorer 'batched' failed"):
        judged([reward("batched")], "bang")


@pytest.mark.parametrize("name", ["words", "batched"])
def test_a_scorer_that_leaves_the_program_is_an_error_of_that_scorer(name: str) -> None:
    with pytest.raises(LuthierError, match=rf"the scorer {name!r} failed: SystemExit: 3"):
        judged([reward(name)], "leave")


def test_scores_too_large_to_take_a_mean_of_are_told_with_the_row() -> None:
    with pytest.raises(LuthierError, match=r"q.jsonl:1: the scorer 'vast' gives 1e\+308, beyond"):
        judged([reward("vast")], "more", "less")
    with pytest.raises(LuthierError, match=r"the weighted sum of `reward:` gives 1e\+300"):
        judged([reward("words", 1e300)], "a b c d e f g h i j")


def test_scorers_that_judge_no_answer_are_refused() -> None:
    with pytest.raises(LuthierError, match="judges no answer that a model draws"):
        Judging([reward("perplexity")])


def rows(count: int, *, answered: int) -> list[Example]:
    return [replace(prompt.example, answer="w5" if i < answered else None) for i, prompt in enumerate(prompts(count))]


def test_rows_without_what_a_scorer_judges_by_are_told_before_anything_is_said() -> None:
    judging = Judging([reward("words"), reward("contains")])
    assert judging.check(rows(10, answered=10)) == []
    (remark,) = judging.check(rows(10, answered=8))
    assert "2 of 10 rows have no `answer` that says anything (q.jsonl:9, q.jsonl:10)" in remark
    with pytest.raises(LuthierError, match=r"q.jsonl:8: 3 of 10 rows have no .* so that the scorer 'contains'"):
        judging.check(rows(10, answered=7))


def test_of_rows_held_out_none_may_lack_what_the_first_scorer_judges_by() -> None:
    assert Judging([reward("words"), reward("contains")]).check(rows(4, answered=4), rows(9, answered=8)) == []
    with pytest.raises(LuthierError, match=r"q.jsonl:9: 1 of 9 rows of validate.data have no `answer`"):
        Judging([reward("contains"), reward("words")]).check(rows(4, answered=4), rows(9, answered=8))


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("exact_match", {"answer": "72"}, "no `answer`"),
        ("json_match", {"answer": '{"a": 1}'}, "no `answer` that is JSON"),
        ("maths", {"answer": "72"}, "no `answer`"),
        ("code", {"meta": {"tests": "assert f(1) == 2"}}, "no `tests`"),
        ("proof", {"meta": {"statement": "True"}}, "no `statement`"),
        ("grm_reward", {"answer": "[1, 2]"}, "a list of numbers"),
    ],
)
def test_each_verifier_knows_what_a_row_lacks(name: str, given: dict[str, Any], told: str) -> None:
    (bare,) = rows(1, answered=0)
    metric = Judging([reward(name)]).parts[0].metric
    assert metric.lacks(replace(bare, **given)) is None
    assert told in (metric.lacks(bare) or "")
    assert metric(bare, Response((Turn("assistant", "72"),))) is None, "it could say something for all that"


# preferred to a rival
@dataclass(frozen=True)
class Longer(Words):
    """Says of two which is the longer one, by how much; hears nothing of groups."""

    compares: ClassVar[bool] = True

    def met(self, pairs: Sequence[tuple[Example, Response, Response]]) -> list[float | None]:
        lengths = [(len(text(one)), len(text(other))) for _, one, other in pairs]
        return [None if not one or not other else one / (one + other) for one, other in lengths]


def met(rewards: Sequence[Reward], own: Sequence[str], rivals: Sequence[str], preference: Any = "auto") -> Group:
    answers = [Answer((3, 4, 1), np.zeros(3, np.float32), said, "stop") for said in (*own, *rivals)]
    group = Group(0, 0, prompts(1)[0], answers, rivals=len(rivals))
    Judging(rewards, preference).judge([group])
    return group


def test_an_answer_is_worth_how_likely_it_is_preferred_to_its_rival() -> None:
    group = met([reward("contains")], ["w5", "no", "w5"], ["no", "w5", "w5"])
    assert group.rewards == [1.0, 0.0, 0.5, 0.0, 1.0, 0.5], "each meets its own, and the two come to 1"
    assert group.parts[0] == {"contains": 1.0} and group.right == [True, False, True, False, True, True]


def test_scores_without_bounds_are_held_against_each_other_by_their_difference() -> None:
    group = met([reward("words", 10.0)], ["a b c", "a"], ["a", "a"])
    assert group.rewards == pytest.approx([1 / (1 + math.exp(-2)), 0.5, 1 / (1 + math.exp(2)), 0.5])
    assert met([reward("words")], ["a b c"], ["a"], "higher").rewards == [1.0, 0.0]
    bounded = met([reward("contains")], ["w5"], ["no"], "logistic")
    assert bounded.rewards == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e)])
    far = met([reward("words", 1e6)], ["a b c"], ["a"])
    assert far.rewards == [1.0, 0.0]


def test_what_cannot_be_said_of_one_of_two_says_nothing_of_both() -> None:
    assert all(math.isnan(one) for one in met([reward("words")], ["hush"], ["a"]).rewards)
    assert all(math.isnan(one) for one in met([reward("longer")], [""], ["a"]).rewards)


def test_one_who_compares_is_asked_of_each_answer_and_its_rival() -> None:
    group = met([reward("longer")], ["aaa", "b"], ["c", "ddd"])
    assert group.rewards == pytest.approx([0.75, 0.25, 0.25, 0.75])
    assert group.parts == [{"longer": 0.75}, {"longer": 0.25}, {"longer": 0.25}, {"longer": 0.75}]
    gated = met([reward("longer"), reward("contains", gate=True)], ["w5", "no", "no"], ["w5 w5 w5 w5", "w5", "nono"])
    assert gated.rewards == pytest.approx([2 / 13, 0.0, 0.5, 11 / 13, 1.0, 0.5]), "a gate that one alone passes decides"
    with pytest.raises(LuthierError, match="'words' says is no such probability"):
        Judging([reward("longer"), reward("words")], "auto")
