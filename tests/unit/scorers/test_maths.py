"""`maths`, against answers that people would call right or wrong: spellings, units, algebra, attempts to fool it."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest
from maths_cases import RIGHT, WRONG

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.maths import comparing
from luthier.scorers.maths.algebra import Algebra
from luthier.scorers.maths.finding import final_answer
from luthier.types import Example, Response, Turn

DATA = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared")) / "data"


def pair(expected: str | None, said: str, prompt: str = "?") -> tuple[Example, Response]:
    return Example((Turn("user", prompt),), answer=expected), Response((Turn("assistant", said),))


def score(expected: str | None, said: str, prompt: str = "?", **keys: object) -> float | None:
    return SCORERS.build("maths", keys)(*pair(expected, said, prompt))


@pytest.fixture(scope="module")
def judged() -> dict[tuple[str, str], float | None]:
    """The whole table, scored at once as a rollout is."""
    every = [*RIGHT, *WRONG]
    return dict(zip(every, SCORERS.build("maths").many([pair(*one) for one in every]), strict=True))


@pytest.mark.parametrize("case", RIGHT, ids=lambda case: f"{case[0]} | {case[1]:.40}")
def test_what_is_right_is_called_right(case, judged):
    assert judged[case] == 1.0


@pytest.mark.parametrize("case", WRONG, ids=lambda case: f"{case[0]} | {case[1]:.40}")
def test_what_is_wrong_is_called_wrong(case, judged):
    assert judged[case] == 0.0


FORMS = (
    "#### {}",
    "So it is {}.",
    r"Thus \boxed{{{}}}.",
    r"\[ x = {} \]",
    "The answer is {}.",
    "**Answer:** {}",
    "The answer is ${}$ in all.",
    "<think>1 + 1 = 2</think>\n<answer>{}</answer>",
    "答案是 {}。",
    "2 + 2 = 4\nA: {}",
)


def spelt(value: int) -> list[str]:
    return [str(value), f"{value:,}", f"{value}.0", f"{value:,}.00", f"{value} apples"]


@pytest.mark.parametrize("form", FORMS)
def test_every_spelling_in_every_form_and_its_neighbour_never(form):
    draw = random.Random(0)
    for value in [0, 1, 10, 999, 1000, 12345, *(draw.randrange(10**7) for _ in range(20))]:
        for sign in (1, -1):
            for spelling in spelt(sign * value):
                assert score(str(sign * value), form.format(spelling)) == 1.0, (value, spelling)
                assert score(str(sign * value + 1), form.format(spelling)) == 0.0, (value, spelling)
            if value:
                assert score(str(-sign * value), form.format(sign * value)) == 0.0


def test_a_row_may_hold_a_whole_solution():
    gsm8k = "Half of 144 is <<144/2=72>>72.\n#### 72"
    assert score(gsm8k, "#### 72") == 1.0 and score(gsm8k, "#### 144") == 0.0
    assert score(r"We add. Thus $\boxed{\frac12}$.", "The answer is 0.5") == 1.0
    assert score("48 and 24 make 72. The answer is 72.", "72 clips") == 1.0


def test_an_echo_of_the_question_is_no_answer():
    question = "Tom has 5 apples and eats none. How many of his 5"
    assert score("5", question, prompt=question) == 0.0
    assert score("5", "apples and eats none. How many of his 5", prompt=question) == 0.0
    assert score("5", question + "\n#### 5", prompt=question) == 1.0
    assert score("5", "5", prompt=question) == 1.0, "an answer may stand in the question"
    assert score("B", "B", prompt="Which? A) 4 B) 5") == 1.0


def test_only_marked_answers_where_that_is_asked():
    assert score("5", "It is 5.", marked=True) == 0.0
    assert score("5", "The answer is 5.", marked=True) == score("5", r"\boxed{5}", marked=True) == 1.0


def test_without_algebra_expressions_are_wrong_and_numbers_right():
    assert score("4", r"\boxed{\sqrt{16}}", symbolic=False) == 0.0
    assert score("1/2", r"\boxed{\frac{2}{4}}", symbolic=False) == 1.0


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("luthier.scorers.metric.find_spec", lambda name: None)
    with pytest.raises(LuthierError, match=r"math-verify.*\n.*luthier\[maths\]"):
        SCORERS.build("maths")
    assert score("72", "#### 72", symbolic=False) == 1.0


def test_algebra_that_takes_too_long_is_ended_and_counted_apart():
    """A power tower never ends, and ends no other comparison: `None`, not 0."""
    algebra = Algebra(0.5, 1)
    assert algebra("5", "9^{9^{9^{9}}}") is None
    assert algebra("4", r"\sqrt{16}") is True and algebra("4", r"\sqrt{17}") is False
    assert algebra(r"\sqrt{2", "2") is None, "what is expected cannot be read"
    assert algebra.counts == {"out of time": 1, "right": 1, "wrong": 1, "unread": 1}
    algebra.close()


def test_algebra_serves_threads_and_outlives_a_killed_process():
    algebra = Algebra(5.0, 1)
    assert algebra("4", r"\sqrt{16}") is True
    process = algebra._places.get()
    process._process.kill()
    process._process.wait()
    algebra._places.put(process)
    told: list[bool | None] = []
    threads = [threading.Thread(target=lambda: told.append(algebra("x^2-1", "(x-1)(x+1)"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == [True] * 4 and algebra.counts == {"right": 5}
    algebra.close()


def test_lists_are_unsure_only_where_a_part_is():
    unknown = {("x", "y"): None}
    ask = lambda expected, found: unknown.get((expected, found), False)  # noqa: E731
    assert comparing.same("(1, x)", "(1, y)", ask) is None
    assert comparing.same("(1, x)", "(2, y)", ask) is False, "the first part settles it"
    assert comparing.same(r"\{1, x\}", r"\{y, 1\}", ask) is None
    assert comparing.same(r"\{1, x\}", r"\{y, 2\}", ask) is False


@pytest.mark.parametrize(
    "unit", ["1,", "1 ", "a ", "\\boxed{", "\\boxed{1} ", "\\frac{1}{", "the answer to ", "(1,", "#### 1 "]
)
@pytest.mark.parametrize("form", ["{}", "#### {}", "The answer is {}", "<answer>{}</answer>"])
def test_very_long_answers_are_wrong_and_soon_told(unit, form):
    start = time.process_time()
    assert score("72", form.format(unit * (100_000 // len(unit)))) == 0.0
    assert time.process_time() - start < 5


def test_nested_marks_end():
    deep = "\\boxed{" * 5000 + "72" + "}" * 5000
    assert score("72", deep, symbolic=False) == 0.0
    assert final_answer(r"\boxed{\boxed{\boxed{72}}}") == "72"


@pytest.mark.skipif(not (DATA / "gsm8k-model-solutions").exists(), reason="no shared data")
def test_people_and_maths_agree_on_the_solutions_of_four_models():
    known = {}
    for line in (DATA / "gsm8k" / "test.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        known[row["question"]] = row["answer"]
    rows = [json.loads(line) for line in (DATA / "gsm8k-model-solutions" / "unpaired.jsonl").open(encoding="utf-8")]
    scores = SCORERS.build("maths").many([pair(known[row["prompt"]], row["completion"], row["prompt"]) for row in rows])
    agree = sum(score == row["label"] for score, row in zip(scores, rows, strict=True))
    assert len(rows) == 5276 and agree / len(rows) >= 0.995
