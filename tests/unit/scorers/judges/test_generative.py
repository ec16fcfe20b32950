"""`generative_rm` and how one learns: votes over shuffled orders, whose judgements count, the table of rewards."""

from __future__ import annotations

import itertools
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from bench import save_tiny_model
from endpoints import Endpoint, apart, endpoint, said
from reward_runs import policy, write_run

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.groups import score_group, score_groups
from luthier.scorers.judges import asking
from luthier.scorers.judges.generative import GenerativeRM, best, put_back, vote
from luthier.scorers.judges.grading import grm_reward, judging_row, worth_keeping
from luthier.scorers.reward_model import RewardModel
from luthier.types import Example, Response, Turn

assert apart  # a cache of its own, no key


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    asking._opened.cache_clear()
    yield
    asking._opened.cache_clear()


ROW = Example((Turn("user", "Which tea?"),))


def responses(*texts: str) -> list[Response]:
    return [Response((Turn("assistant", text),)) for text in texts]


def shown(question: str) -> list[str]:
    """The answers of a question, in the order it shows them in."""
    found = re.finditer(r"<answer(?: [A-Z])? (\w+)>\n(.*?)\n</answer(?: [A-Z])? \1>", question, re.S)
    return [one[2] for one in found]


def boxed(scores: list[Any]) -> str:
    return "Criteria: clarity 100 %. Fine. \\boxed{" + ", ".join(map(str, scores)) + "}"


@contextmanager
def judged(speak: Callable[[str, int], str], **keys: Any) -> Iterator[tuple[GenerativeRM, Endpoint]]:
    """`speak` is given the question and the seed of the judgement."""

    def answer(path: str, body: dict[str, Any]) -> Any:
        return said(speak(body["messages"][0]["content"], body.get("seed", 0)))

    with endpoint(answer) as server:
        engine = {"openai": {"url": server.url, "model": "m", "retries": 0}}
        yield SCORERS.build("generative_rm", {"engine": engine, **keys}), server


WORTH = {"bad": 2, "fair": 5, "good": 9}


def by_worth(question: str, seed: int) -> str:
    return boxed([WORTH[text] for text in shown(question)])


# votes
def test_one_judgement_is_its_own_vote_and_many_are_summed():
    assert vote([(7.0, 3.0)]) == (7.0, 3.0)
    assert vote([(7.0, 3.0), (1.0, 2.0), (4.0, 4.0)]) == (12.0, 9.0)


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_scores_come_back_to_their_responses_from_any_order(order: tuple[int, ...]):
    worth = (4.0, 3.0, 2.0, 1.0)
    assert put_back([worth[place] for place in order], order) == worth


def test_the_best_judgements_vote_and_all_of_them_are_as_no_choice():
    judgements = [(1.0,), (2.0,), (3.0,), (4.0,)]
    assert best(judgements, [0.1, 0.9, None, 0.5], 2) == [(2.0,), (4.0,)]
    assert best(judgements, [0.1, 0.9, None, 0.5], 4) == judgements
    assert best(judgements, [0.5] * 4, 2) == judgements[:2]
    assert best(judgements, [None, -9.0, None, None], 2) == [(1.0,), (2.0,)]


def test_more_judgements_are_right_more_often():
    draw = random.Random(5)

    def noisy() -> tuple[float, float]:
        return (float(draw.randint(1, 8)), float(draw.randint(1, 10)))  # the second is better in the mean

    def right(k: int) -> float:
        votes = [vote([noisy() for _ in range(k)]) for _ in range(4000)]
        return sum(two > one for one, two in votes) / len(votes)

    shares = [right(k) for k in (1, 4, 16)]
    assert shares[0] < 0.65 and shares[0] + 0.05 < shares[1] < shares[2] - 0.05


# the scorer
def test_responses_are_judged_together_in_changing_orders_and_averaged():
    with judged(by_worth, k=6) as (judge, server):
        some = responses("good", "bad", "fair")
        assert score_group(judge, ROW, some) == pytest.approx([8 / 9, 1 / 9, 4 / 9])
        orders = [tuple(shown(body["messages"][0]["content"])) for _, body in server.asked]
        assert len(orders) == 6 and len(set(orders)) > 1
        assert all(body["temperature"] == 0.7 for _, body in server.asked)
        assert len({body["seed"] for _, body in server.asked}) == 6
        first = sorted(json.dumps(body, sort_keys=True) for _, body in server.asked)
        assert score_group(judge, ROW, some) == pytest.approx([8 / 9, 1 / 9, 4 / 9])
        assert sorted(json.dumps(body, sort_keys=True) for _, body in server.asked[6:]) == first


def test_the_order_of_the_responses_changes_no_more_than_the_order_of_the_scores():
    with judged(by_worth, k=4) as (judge, _):
        for order in itertools.permutations(WORTH):
            assert judge.group(ROW, responses(*order)) == pytest.approx([(WORTH[one] - 1) / 9 for one in order])


def test_a_judge_of_places_finds_all_nearly_alike():
    with judged(lambda question, _: boxed([10, 1, 1]), k=64) as (judge, _):
        found = judge.group(ROW, responses("good", "bad", "fair"))
        # each stands first in a third of the orders, give or take (standard deviation 0.06)
        assert all(share is not None and abs(share - 1 / 3) < 0.2 for share in found)


def test_what_cannot_be_read_does_not_vote_and_without_a_vote_there_is_no_score():
    numbers = itertools.count()

    def speak(question: str, seed: int) -> str:
        number = next(numbers)
        return by_worth(question, seed) if number % 2 else ["no box", boxed([7]), boxed([7, 70])][number // 2 % 3]

    with judged(speak, k=6) as (judge, _):
        assert judge.group(ROW, responses("good", "bad")) == pytest.approx([8 / 9, 1 / 9])
        assert judge.voice.tally["unreadable"] == 3
    with judged(lambda *_: "I would rather not", k=3) as (judge, _):
        assert judge.group(ROW, responses("good", "bad")) == [None, None] and judge.voice.tally["unreadable"] == 3


def test_one_response_is_judged_by_itself_and_groups_are_asked_together():
    with judged(by_worth, k=2) as (judge, server):
        assert judge(ROW, responses("fair")[0]) == pytest.approx(4 / 9)
        assert judge.many([(ROW, one) for one in responses("good", "bad")]) == pytest.approx([8 / 9, 1 / 9])
        groups = [(ROW, responses("good", "bad")), (ROW, responses()), (ROW, responses("fair"))]
        assert score_groups(judge, groups) == [pytest.approx([8 / 9, 1 / 9]), [], [pytest.approx(4 / 9)]]
        assert judge.groups([]) == [] and "\\boxed{1}" in server.asked[0][1]["messages"][0]["content"]


def test_a_reward_model_says_which_judgements_vote(tmp_path: Path):
    model = save_tiny_model(tmp_path / "tiny")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    run = write_run(tmp_path / "meta", policy(model), model).folder
    given: dict[str, str] = {}

    def speak(question: str, seed: int) -> str:
        given[f"{question}{seed}"] = answer = boxed([1 + (seed + place) % 10 for place in range(len(shown(question)))])
        return answer

    with judged(speak, k=5, meta=str(run), keep=1) as (judge, server):
        judge.check()
        found = judge.group(ROW, responses("good", "bad"))
        questions = [(body["messages"][0]["content"], body["seed"]) for _, body in server.asked]
        told = [
            (Example((Turn("user", question),)), Response((Turn("assistant", given[f"{question}{seed}"]),)))
            for question, seed in questions
        ]
        rewards = RewardModel(str(run)).many(told)
        assert len(set(rewards)) > 1
        question, seed = questions[max(range(5), key=lambda place: rewards[place] or 0.0)]
        scores = dict(zip(shown(question), [1 + (seed + place) % 10 for place in range(2)], strict=True))
        assert found == pytest.approx([(scores[text] - 1) / 9 for text in ("good", "bad")])
    with judged(speak, k=5) as (plain, _), judged(speak, k=5, meta=str(run), keep=5) as (everyone, _):
        assert plain.group(ROW, responses("good", "bad")) == everyone.group(ROW, responses("good", "bad"))


@pytest.mark.parametrize(
    ("keys", "says"), [({"keep": 2}, "`meta`"), ({"keep": 9, "meta": "rm"}, "k = 8"), ({"scale": [3, 3]}, "rise")]
)
def test_keys_that_do_not_go_together_are_refused(keys: dict[str, Any], says: str):
    with pytest.raises(LuthierError) as raised:
        SCORERS.build("generative_rm", {"model": "m", **keys})
    assert says in str(raised.value) and raised.value.fix


# how it learns
def test_the_table_of_rewards_for_one_answer():
    for score, known in itertools.product(range(1, 11), repeat=2):
        assert grm_reward([score], [known]) == (1.0 if score == known else -1.0)
        assert grm_reward([score], [known], within=1.0) == (1.0 if abs(score - known) <= 1 else -1.0)


@pytest.mark.parametrize("count", [2, 3])
def test_the_table_of_rewards_for_several_answers_ties_included(count: int):
    """Every order with every tie, spelt out: the best known one is alone at the top, or the judgement is wrong."""
    rows = itertools.product(itertools.product((1, 2, 3), repeat=count), repeat=2)
    seen = {1.0: 0, -1.0: 0, None: 0}
    for given, known in rows:
        tops = [place for place in range(count) if known[place] == max(known)]
        winners = [place for place in range(count) if given[place] == max(given)]
        expected = None if len(tops) > 1 else 1.0 if winners == tops else -1.0
        assert grm_reward(given, known) == expected
        seen[expected] += 1
    # two: 3 of 9 known are tied; of the 6 others, 3 of 9 given put the right one alone on top. Three: 12 of 27 known
    # have no single top; of the 15 others, 5 of 27 given do
    assert seen == ({1.0: 18, -1.0: 36, None: 27} if count == 2 else {1.0: 75, -1.0: 330, None: 324})


def test_scores_for_another_number_of_answers_are_a_fault():
    with pytest.raises(LuthierError, match="1 scores"):
        grm_reward([1.0], [1.0, 2.0])


def test_a_judgement_is_a_response_with_a_reward():
    scorer = SCORERS.build("grm_reward", {})
    row = Example((Turn("user", "judge"),), answer="[1, 0]")
    assert scorer.many([(row, one) for one in responses(boxed([8, 3]), boxed([3, 8]), boxed([5, 5]), "none")]) == [
        1.0, -1.0, -1.0, -1.0,
    ]  # fmt: skip
    assert scorer(Example((), answer="7"), responses(boxed([7]))[0]) == 1.0
    for answer in (None, "seven", "[]", "[true, 0]", "[1, NaN]", '{"a": 1}', "[1, 1]"):
        assert scorer(Example((), answer=answer), responses(boxed([8, 3]))[0]) is None


def test_what_is_kept_to_learn_from_is_right_and_was_not_too_easy():
    assert worth_keeping([1.0, -1.0, 1.0]) == [0, 2]
    assert worth_keeping([1.0, 1.0, 1.0]) == [] and worth_keeping([-1.0, None]) == [] and worth_keeping([]) == []


def test_rows_to_learn_from_are_made_of_preferences_and_read_back(tmp_path: Path):
    pairs = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    command = [sys.executable, "-m", "luthier.scorers.judges.rows", "pairs.jsonl", "judged.jsonl"]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.startswith("20 rows")

    from luthier.data import read

    scorer, firsts = SCORERS.build("grm_reward", {}), set()
    for example in read(str(tmp_path / "judged.jsonl")):
        texts = shown(example.prompt[-1].text)
        known = json.loads(example.answer or "")
        assert [text[:3] for text, worth in zip(texts, known, strict=True) if worth == max(known)] == ["goo"]
        firsts.add(texts[0][:3])
        fair = responses(boxed([9 if text.startswith("good") else 2 for text in texts]))[0]
        assert scorer(example, fair) == 1.0 and scorer(example, responses(boxed([5, 5]))[0]) == -1.0
    assert firsts == {"goo", "bad"}, "the order gives nothing away"
    assert judging_row(Example((), (Response((), reward=1.0), Response((), reward=1.0))), "en", (1, 10)) is None
    (tmp_path / "none.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    command[-2] = "none.jsonl"
    wrong = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert wrong.returncode == 1 and "preference data" in wrong.stderr and "Traceback" not in wrong.stderr
