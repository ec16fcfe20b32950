"""Best of n: the scorer's best stands for the system, beside the first draw and the best there was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from rich.console import Console
from test_compare import Letters

from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, check, compare
from luthier.evaluate.asking import Outcome, best
from luthier.evaluate.comparison import Comparison
from luthier.recipe.schema import Task
from luthier.types import Completion, Example, Request, Turn

WORDS = ["one", "two", "three", "four", "five", "six"]


class Drawing:
    """An engine that says each word of WORDS or not, by the seed and the place of the prompt alone."""

    context = None

    def __init__(self, chance: float = 0.5) -> None:
        self.chance = chance
        self.said: dict[str, list[str]] = {}

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in requests:
            drawn = np.random.default_rng(request.sampling.seed).random(len(WORDS)) < self.chance
            text = " ".join(word for word, said in zip(WORDS, drawn, strict=True) if said)
            self.said.setdefault("".join(map(chr, request.prompt[:-1])), []).append(text)
            yield Completion((1,), text, "stop", request=request.id)


def rows(count: int = 90) -> list[Example]:
    return [Example((Turn("user", f"row {n}"),), answer=" ".join(WORDS)) for n in range(count)]


def compared(best_of: int, engine: Drawing | None = None, scorers: Sequence[str] = ("exact_match", "f1")) -> Comparison:
    keys = {"best_of": best_of, "by": "f1"} if best_of else {}
    task = Task(data=["x"], scorers=scorers, temperature=1.0, **keys)
    return compare(ScoredTask(task), rows(), Letters(), {"base": Drawing(0.3), "tuned": engine or Drawing()})


def values(comparison: Comparison, system: str = "tuned") -> dict[str, float]:
    return {score.scorer: score.systems[system].value for score in comparison.scores}


def f1(text: str) -> float:
    said = len(text.split())
    return 2 * said / (len(WORDS) + said)


def test_the_pick_is_the_scorers_best_and_the_earliest_of_equals():
    engine = Drawing()
    comparison = compared(4, engine)
    assert all(len(said) == 4 for said in engine.said.values())
    for sample in comparison.samples:
        said = engine.said[sample.example.prompt[0].text]
        assert sample.answers["tuned"].text == said[int(np.argmax([f1(text) for text in said]))]
    assert best([1.0, None, 3.0, 3.0, float("nan")]) == 2 and best([None, None]) == 0


def test_best_first_gain_and_oracle_are_reported():
    engine = Drawing()
    comparison = compared(4, engine, ["exact_match"])
    found = values(comparison)
    assert list(found) == [
        "exact_match, best of 4",
        "exact_match, first of 4",
        "exact_match, gain of best over first",
        "exact_match, oracle's best of 4",
        "f1, of the picks",
    ]
    whole = " ".join(WORDS)
    first = [said[0] for said in engine.said.values()]
    assert found["exact_match, first of 4"] == pytest.approx(np.mean([text == whole for text in first]))
    assert found["exact_match, oracle's best of 4"] == np.mean([whole in said for said in engine.said.values()])
    assert found["f1, of the picks"] == pytest.approx(np.mean([max(map(f1, said)) for said in engine.said.values()]))
    gain = comparison.scores[2]
    assert gain.range == (-1.0, 1.0)
    assert gain.systems["tuned"].value == pytest.approx(
        found["exact_match, best of 4"] - found["exact_match, first of 4"]
    )
    assert gain.systems["tuned"].low < gain.systems["tuned"].value < gain.systems["tuned"].high
    console = Console(file=StringIO(), width=120)
    console.print(comparison.table())
    assert "oracle's best of 4" in console.file.getvalue()


def test_one_answer_changes_nothing_and_more_never_do_worse():
    plain, one = compared(0), compared(1)
    assert values(plain) == values(one) and plain.scores[0].systems == one.scores[0].systems
    assert [s.answers["tuned"].text for s in plain.samples] == [s.answers["tuned"].text for s in one.samples]
    previous = values(one)["f1"]
    for count in (2, 4, 8):
        found = values(compared(count))
        assert found[f"f1, first of {count}"] == pytest.approx(values(plain)["f1"]), "the first is the plain sample"
        picked = found[f"f1, best of {count}"]
        assert picked == found[f"f1, oracle's best of {count}"] > previous
        assert "f1, of the picks" not in found, "the same number stands there already"
        previous = picked


def test_a_scorer_for_which_less_is_better_gains_by_falling():
    from luthier.evaluate.verdicts import Gain
    from luthier.scorers import SCORERS

    perplexity, exact = SCORERS.build("perplexity"), SCORERS.build("exact_match")
    # K = 2: likelihood and tokens; score and count
    assert Gain(perplexity).pooled(np.array([[0.0, 1.0, np.log(3.0), 1.0]]))[0] == pytest.approx(2.0)
    assert Gain(exact).pooled(np.array([[3.0, 4.0, 1.0, 4.0]]))[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"best_of": 4, "temperature": 1.0}, "best_of is 4, and nothing picks.* needs `by`"),
        ({"best_of": 4, "by": "f1"}, "needs a temperature above 0"),
        ({"best_of": 0, "by": "f1", "temperature": 1.0}, "greater than 0"),
    ],
)
def test_what_makes_no_sense_is_refused(keys, message):
    with pytest.raises(ValidationError, match=message):
        Task(data=["x"], **keys)


@pytest.mark.parametrize(
    ("keys", "answers", "message"),
    [
        ({"by": "perplexity"}, True, "picks by 'perplexity', which does not judge an answer that a model drew"),
        ({"by": "preference_accuracy"}, True, "picks by 'preference_accuracy', which does not judge an answer"),
        ({"by": "f1", "scorers": ["perplexity"]}, True, "draws 4 answers to each prompt, and no scorer judges"),
        ({"by": "f1"}, False, "'exact_match' can judge none of the 3 rows .* no .answer"),
    ],
)
def test_what_cannot_pick_is_refused_before_there_is_a_model(keys, answers, message):
    task = Task(data=["x"], best_of=4, temperature=1.0, **keys)
    asked = [row if answers else replace(row, answer=None) for row in rows(3)]
    with pytest.raises(LuthierError, match=message):
        check(ScoredTask(task), asked, Letters(), None)


def test_an_answer_keeps_the_tokens_it_was_drawn_as():
    """The stop token with them; a scorer that counts tokens counts these."""
    outcome = Outcome(None, None, [], None, 0.0, "tuned")
    assert outcome.response(Completion((7, 8), "ab", "stop", sampled=(7, 8, 2))).ids == (7, 8, 2)
    assert outcome.response(Completion((), "ab", "stop")).ids is None, "an endpoint tells text alone"


class Planted:
    """An engine whose answers are worth numbers drawn evenly from 0 to 1: they say their worth."""

    context = None

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        for request in requests:
            yield Completion(
                (1,), str(np.random.default_rng(request.sampling.seed).random()), "stop", request=request.id
            )


@pytest.mark.parametrize("judge", ["exact", "noisy"])
def test_the_best_of_n_of_planted_worths_has_the_mean_of_their_maximum(judge: str, tmp_path: Path) -> None:
    """E[max of n] = n / (n + 1) by a judge who knows; by one who errs less than that, and more with n all the same."""
    (tmp_path / "judges.py").write_text(
        "import hashlib\n"
        "def exact(response): return float(response)\n"
        "def noisy(response):\n"
        "    return float(response) + int(hashlib.md5(response.encode()).hexdigest()[:4], 16) / 65536\n"
    )
    found = []
    for count in (1, 2, 4, 8):
        keys = {"best_of": count, "by": {"python": f"{tmp_path}/judges.py:{judge}"}} if count > 1 else {}
        task = Task(data=["x"], scorers=[{"python": f"{tmp_path}/judges.py:exact"}], temperature=1.0, **keys)
        scores = compare(ScoredTask(task), rows(600), Letters(), {"tuned": Planted()}).scores
        found.append(scores[0].systems["tuned"].value)
        assert scores[1].systems["tuned"].value == found[0] if count > 1 else len(scores) == 1, (
            "the first of n is n = 1"
        )
    assert found == sorted(found) and found[-1] - found[0] > 0.2
    if judge == "exact":
        assert found == pytest.approx([1 / 2, 2 / 3, 4 / 5, 8 / 9], abs=0.03)  # four standard errors at most
    else:
        assert found[-1] < 0.85
