"""`maths`, against answers that people would call right or wrong: spellings, units, algebra, attempts to fool it."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.scorers import SCORERS
from luthier.scorers.maths import comparing
from luthier.scorers.maths.algebra import Algebra
from luthier.scorers.maths.finding import final_answer
from luthier.types import Example, Response, Turn

DATA = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared")) / "data"

RIGHT = [
    ("72", "#### 72"),
    ("72", "48+24 = 72\n#### 72."),
    ("72", "#### 71\nno:\n#### 72"),
    ("6", r"First \boxed{5}. I was wrong, so it is \boxed{6}."),
    ("1000", "The answer is $1,000."),
    ("1,000", r"\boxed{1000}"),
    ("1000", r"\boxed{1{,}000}"),
    ("1000", r"\boxed{1\,000}"),
    ("1000", "1 000"),
    ("18", "#### $18.00"),
    ("18", r"\boxed{\$18}"),
    ("18", r"The answer is $\$18$ per day."),
    ("18", "She makes $18 every day at the farmers' market."),
    ("18", "The answer is that she makes $18 a day."),
    ("18", r"\boxed{18\text{ dollars}}"),
    ("20", "The answer is 20%."),
    ("20%", r"\boxed{20}"),
    ("0.2", r"\boxed{20\%}"),
    ("1/5", "#### 20 %"),
    ("50%", "The answer is 0.5"),
    ("-3", "#### −3"),
    ("-3", r"\boxed{-3}"),
    ("-3", "The answer is -3."),
    ("-3", "x = 5 - 8 = -3"),
    ("1500", "#### 1.5e3"),
    ("1500", r"\boxed{1.5 \times 10^{3}}"),
    ("1500", "1.5 × 10³"),
    ("0.0015", r"\boxed{1.5\times10^{-3}}"),
    ("3/4", r"\boxed{\frac{3}{4}}"),
    ("3/4", r"\boxed{\dfrac34}"),
    ("3/4", "The answer is 0.75."),
    ("3/4", r"\boxed{\frac{6}{8}}"),
    ("1/3", "#### 0.333"),
    ("2/3", "#### 0.667"),
    ("1/3", r"\boxed{0.\overline{3}}"),
    ("5/2", r"\boxed{2\frac{1}{2}}"),
    ("5/2", "The answer is 2 1/2."),
    ("5/2", "#### 2½"),
    ("2.5", "#### 2½ hours"),
    ("2000000", "The answer is 2 million."),
    ("90", "The answer is 90°."),
    ("90", r"\boxed{90^\circ}"),
    ("5 cm", r"\boxed{5}"),
    ("5 m", r"\boxed{500\text{ cm}}"),
    ("90 minutes", "#### 1.5 hours"),
    ("$0.50", "#### 50 cents"),
    ("5 cm^2", r"\boxed{5\ \text{cm}^2}"),
    ("5", r"\boxed{x = 5}"),
    ("x = 5", r"\boxed{5}"),
    ("72", r"\boxed{48+24=72}"),
    ("1024", r"\boxed{2^{10}}"),
    ("(1, 2)", r"\boxed{(1,2)}"),
    ("(1,2]", r"\boxed{(1,2]}"),
    ("[0, 1/2)", r"\boxed{\left[0, \frac12\right)}"),
    (r"(-\infty, 3)", r"\boxed{(-\infty,3)}"),
    (r"(-\infty, 3)", r"\boxed{x<3}"),
    ("(1,2]", r"\boxed{1 < x \le 2}"),
    ("[1,2]", r"\boxed{x \in [1,2]}"),
    (r"(-\infty,1)\cup(2,\infty)", r"\boxed{(-\infty, 1) \cup (2, \infty)}"),
    (r"(-\infty,1)\cup(2,\infty)", r"\boxed{(2,\infty)\cup(-\infty,1)}"),
    (r"\{1, 2, 3\}", r"\boxed{\{3, 2, 1\}}"),
    ("2, 3", r"\boxed{3, 2}"),
    ("2, 3", r"\boxed{x=3 \text{ or } x=2}"),
    ("2, 3", r"$\boxed{2}$ and $\boxed{3}$"),
    ("x=1, y=2", r"\boxed{y=2, x=1}"),
    ("(1,2)", r"\boxed{x=1, y=2}"),
    (r"\frac{\sqrt{3}}{2}", r"\boxed{\sqrt{3}/2}"),
    (r"\frac{\sqrt{3}}{2}", r"the answer is $\frac{\sqrt3}{2}$."),
    (r"3\sqrt{2}", r"\boxed{\sqrt{18}}"),
    ("2π", r"\boxed{2\pi}"),
    ("2pi", r"\boxed{2\pi}"),
    ("(x+1)^2", r"\boxed{x^2+2x+1}"),
    ("y = 2x + 3", r"\boxed{2x+3}"),
    ("n(n+1)/2", r"\boxed{\frac{n^2+n}{2}}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}"),
    ("2+3i", r"\boxed{3i+2}"),
    ("x^2+y^2=4", r"\boxed{y^2 + x^2 = 4}"),
    (r"1 \pm \sqrt{2}", r"\boxed{1+\sqrt2, 1-\sqrt2}"),
    (r"\text{Evelyn}", r"\boxed{\text{Evelyn}}"),
    ("Evelyn", "The answer is Evelyn."),
    ("C", r"\boxed{\text{(C)}}"),
    ("yes", "The answer is: Yes"),
    ("7", "The answer is seven."),
    ("5", "**Answer:** 5"),
    ("5", "**Final Answer: 5**"),
    ("5", "答案是5。"),
    ("5", "答案：５"),
    ("72", "So 72. Let me check that the answer is correct: yes."),
    ("5", r"<think>maybe \boxed{6}</think>\boxed{5}"),
    ("5", "<answer>5</answer>"),
    ("5", "<answer> The answer is 5 </answer>"),
    ("8", "#### Step 1\nAdd 5 and 3.\n#### Step 2: multiply\nThe answer is 8."),
    ("8", "#### 1. Add\n5+3\n#### 2. Done\nThe answer is 8"),
    ("5", r"\boxed{5"),
    ("5", r"\boxed{\text{5 apples}}"),
    ("5", r"\boxed{\boxed{5}}"),
    ("5", r"\boxed 5"),
    ("Half of 144 is <<144/2=72>>72.\n#### 72", "He has 72."),
    ("5", "The answer is 5 apples, because 2 + 3 = 5."),
    ("5", "The answer is 2 + 3 = 5."),
    ("5", "The answer is 5 (2 + 3)."),
    ("0", "#### 0"),
    ("0", "#### -0"),
    ("3.14", "#### 3.1400"),
    ("5", "The answer is not 6, it is 5."),
    ("1/2", r"$\frac{1}{2}$ is what remains."),
    ("5", r"\[ x = 5 \]"),
    (r"(3, \frac{\pi}{2})", r"\boxed{\left( 3, \frac{\pi}{2} \right)}"),
    ("6", "5! = 120, so 6"),
    ("120", r"\boxed{5!}"),
    ("5", "The answer is: $5$."),
    ("5", r"The answer is $\boxed{5}$."),
    ("5", "The final answer is: 5 dollars per hour."),
    ("5", "Therefore, the answer is 5\nI hope this helps! Ask me 2 more."),
    ("10", "The answer is ten dollars"),
    ("3 hours", "180 minutes"),
    ("3", "three"),
    ("1/2", r"\boxed{.5}"),
    ("0.5", r"\boxed{\frac12}"),
    ("-1/2", r"\boxed{-\frac{1}{2}}"),
    ("-1/2", r"\boxed{\frac{-1}{2}}"),
    ("-1/2", r"\boxed{\frac{1}{-2}}"),
    ("33.3", r"\boxed{\frac{100}{3}}"),
    ("100/3", r"\boxed{33\frac{1}{3}}"),
    ("100/3", "33.33%"),
    ("33.33%", "33.33"),
    ("4", r"\boxed{\sqrt{16}}"),
    ("3", r"\boxed{3.0}"),
    ("3", "#### 3."),
    ("3", "#### +3"),
    ("10:30", "#### 10:30"),
    ("12:00 PM", "12:00 pm"),
    ("2^{10}", r"\boxed{1024}"),
    ("10^6", "1000000"),
    ("10^{6}", "1,000,000"),
    ("6.02e23", r"6.02 \times 10^{23}"),
    ("x^2-1", r"\boxed{(x-1)(x+1)}"),
    (r"\ln 2", r"\boxed{\ln(2)}"),
    ("e^2", r"\boxed{e^{2}}"),
    (r"2\sqrt{3} cm", r"\boxed{\sqrt{12}\text{ cm}}"),
    (r"\frac{\pi}{4}", r"\boxed{\pi/4}"),
    ("A", "#### A"),
    ("(B)", r"\boxed{\text{B}}"),
    ("Saturday", "The answer is Saturday, since the 5th is a Saturday."),
    ("16", "16 eggs - 3 = 13, not 16"),
    ("5", r"$$\boxed{5}$$"),
    ("1,2,3", "#### 1, 2, 3"),
    ("1,2,3", "#### 3,1,2"),
    ("(1,2,3)", "#### (1,2,3)"),
    ("1000, 2000", "#### 1,000, 2,000"),
    ("$3.50", "#### $3.5"),
    ("100 km/h", "#### 100 kilometers per hour"),
    ("100", "100 km/h"),
    (r"\frac{1}{2}x", r"\boxed{0.5x}"),
    (r"\frac{x}{2}", r"\boxed{0.5x}"),
    ("7", "The answer is $7$, which is prime."),
    ("0.1", "10%"),
    (r"\infty", r"\boxed{\infty}"),
    (r"\emptyset", r"\boxed{\varnothing}"),
    (r"\emptyset", r"\boxed{\{\}}"),
    ("5", "Answer: 5 apples\n"),
    ("9", "Answer: 3^2"),
    ("72", "Answer: 48 + 24 = 72 clips"),
    ("6", "The answer is 5. No wait, the answer is 6."),
    ("100", "The answer is 1e2"),
    ("5", r"\boxed{5.}"),
    ("1234567", "1,234,567"),
    ("2", r"\boxed{\log_2 4}"),
    ("72", r"The answer is $\boxed{72 \text{ clips}}$"),
    (r"5\%", r"\boxed{5}"),
    (r"50\%", r"\boxed{50\%}"),
    (r"\sqrt{2}", r"\boxed{1.414214}"),
    ("1 dozen", "1 dozen"),
    (r"x \le 2", r"\boxed{(-\infty,2]}"),
    (r"\mathbb{R}", r"\boxed{(-\infty,\infty)}"),
    ("a+b", r"\boxed{b+a}"),
]
"""(what the row knows, what is said), rightly."""

WRONG = [
    ("72", "#### 72\n#### 71"),
    ("5", "#### 5 #### 6"),
    ("6", "#### 5 or 6"),
    ("5", "#### 5 or 6"),
    ("5", r"\boxed{5} or \boxed{6}"),
    ("6", r"\boxed{5} or \boxed{6}"),
    ("6", r"\boxed{1} \boxed{2} \boxed{3} \boxed{4} \boxed{5} \boxed{6}"),
    ("5", r"First \boxed{5}. I was wrong, so it is \boxed{6}."),
    ("5", "The answer is 5 or 6."),
    ("6", "The answer is 5 or 6."),
    ("6", "The answer is 5, maybe 6."),
    ("5", "The answer is 5 and 6."),
    ("1000", "#### 1.000"),
    ("20", "#### 0.2"),
    ("3", "#### -3"),
    ("3/4", "#### 3"),
    ("3/4", "#### 4"),
    ("1/3", "#### 0.33"),
    ("1/3", "#### 0.3"),
    ("2/3", "#### 0.666"),
    ("21/2", "#### 2½"),
    ("1.8", "A: 1.8 billion"),
    ("5 cm", r"\boxed{5\text{ m}}"),
    ("5", r"\boxed{5x}"),
    ("72", r"\boxed{48+24}"),
    ("72", r"\boxed{144/2}"),
    ("72", r"\boxed{8 \times 9}"),
    ("(1, 2)", r"\boxed{(2,1)}"),
    ("(1,2]", r"\boxed{[1,2]}"),
    ("(1,2]", r"\boxed{1 \le x \le 2}"),
    (r"\{1, 2, 3\}", r"\boxed{\{1, 2\}}"),
    ("2, 3", r"\boxed{2}"),
    ("x=1, y=2", r"\boxed{x=2, y=1}"),
    (r"\frac{\sqrt{3}}{2}", r"\boxed{\frac{\sqrt{2}}{2}}"),
    ("x+1", r"\boxed{y+1}"),
    ("Evelyn", "The answer is Briana."),
    ("C", "The answer is (B)."),
    ("5", r"<think>so it is \boxed{5}"),
    ("5", ""),
    ("5", r"\boxed{}"),
    ("5", "####"),
    ("5", "I do not know"),
    ("5", "5 #### "),
    ("5", "#### 1e999999999"),
    ("5", "#### " + "9" * 5000),
    ("Half of 144 is <<144/2=72>>72.\n#### 72", "He has 144, half is 73."),
    ("10", "The answer is that 5 apples cost $10."),
    ("17.99", "#### 18"),
    ("3", "The answer is 1.5."),
    ("12", "#### 12:00"),
    ("5", r"\boxed{5 \text{ or } 6}"),
    ("6", r"\boxed{5 \text{ or } 6}"),
    ("5", r"\boxed{5,6}"),
    ("5", r"\boxed{\{5,6\}}"),
    ("5", "#### 5, 6, 7"),
    ("5", "#### 5 6"),
    ("56", "#### 5 6"),
    ("5", r"\boxed{5 \ne 6}"),
    ("5", r"\boxed{5=6}"),
    ("5", "The answer is between 4 and 6."),
    ("5", r"\boxed{x<5}"),
    ("5", r"\boxed{[5,6]}"),
    ("5", "The answer is 4-6"),
    ("5", r"\boxed{a}"),
    ("5", r"\boxed{n}"),
    ("5", r"\boxed{?}"),
    ("5", r"\boxed{\text{the number}}"),
    ("5", "x"),
    ("1/2", r"\boxed{-\frac{1}{2}}"),
    ("4", r"\boxed{\frac{8}{2}}"),
    ("10:30", "#### 10:31"),
    ("10:30", "#### 10"),
    ("x^2-1", r"\boxed{(x-1)(x+2)}"),
    (r"\frac{\pi}{4}", r"\boxed{45^\circ}"),
    ("B", "A or B"),
    ("B", r"\boxed{\text{A and B}}"),
    ("B", r"\boxed{\textbf{(B)}\ 12}"),
    ("no", "#### yes"),
    ("5", r"$\boxed{5}$ is wrong, it is $\boxed{6}$"),
    ("1000", "#### (1,000)"),
    ("10%", "0.1%"),
    ("11", "Answer: B. 11"),
    (r"\sqrt{2}", r"\boxed{1.41}"),
    ("12", "1 dozen"),
    (r"(-\infty,2]", r"\boxed{(-\infty,2)}"),
    ("3", "It is 3 because 6/2"),
    ("a+b", r"\boxed{a-b}"),
    ("18", "He has 18 marbles, which was 2 more than Tom's 16."),
]


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
