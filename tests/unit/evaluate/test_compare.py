"""compare(): who is asked what, what comes of it, and what is refused. The engine here knows its answers by heart."""

import json
import math
from collections.abc import Iterator, Sequence
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, compare, record
from luthier.evaluate.compare import BATCH
from luthier.recipe.schema import Task
from luthier.run import Run
from luthier.types import Completion, Encoded, Example, Request, Response, Source, Turn


class Letters:
    """A template whose token ids are code points: prompts end in `:` and answers in `.`."""

    def prompt_ids(self, turns: Sequence[Turn], tools: Sequence[object] = ()) -> list[int]:
        return [ord(char) for char in "/".join(turn.text for turn in turns) + ":"]

    def encode(self, example: Example, loss_on: str = "assistant") -> Encoded:
        assert loss_on == "last"
        prompt = self.prompt_ids(example.prompt) if example.prompt else [0]
        answer = [ord(char) for char in example.responses[0].turns[-1].text + "."]
        weights = np.array([0.0] * len(prompt) + [1.0] * len(answer), dtype=np.float32)
        return Encoded((np.array(prompt + answer, dtype=np.int32),), (weights,))


class ByHeart:
    """An engine that answers from a table; every token of a reference has the same likelihood."""

    context: int | None = None

    def __init__(self, answers: dict[str, str], likelihood: float = 0.5) -> None:
        self.answers, self.likelihood = answers, likelihood
        self.asked: list[Sequence[Request]] = []
        self.scored = 0

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.asked.append(requests)
        for request in reversed(requests):  # in an order of its own
            text, most = self.answers["".join(map(chr, request.prompt[:-1]))], request.sampling.max_new_tokens
            yield Completion((1,), text[:most], "length" if len(text) > most else "stop", request=request.id)

    def logprobs(self, rows: Sequence[Encoded]) -> list[np.ndarray]:
        self.scored += len(rows)
        return [np.full((row.weights[0] > 0).sum(), math.log(self.likelihood), dtype=np.float32) for row in rows]


def task(*scorers: object, **keys: object) -> ScoredTask:
    return ScoredTask(Task(name="sums", data=["sums.jsonl"], scorers=scorers or ("exact_match",), **keys))


def sums(count: int) -> list[Example]:
    return [
        Example((Turn("user", f"{n}+{n}" + " " * (n % 7)),), answer=str(2 * n), source=Source("sums.jsonl", n + 1))
        for n in range(count)
    ]


def right(examples: list[Example]) -> dict[str, str]:
    return {example.prompt[0].text: str(example.answer) for example in examples}


def wrong(examples: list[Example], share: int) -> dict[str, str]:
    """Right only in every `share`-th row."""
    return {
        example.prompt[0].text: str(example.answer) if index % share == 0 else "no idea"
        for index, example in enumerate(examples)
    }


def test_shares_difference_and_interval_of_base_against_tuned():
    rows = sums(100)
    engines = {"base": ByHeart(wrong(rows, 4)), "tuned": ByHeart(right(rows))}
    comparison = compare(task("exact_match", "contains"), rows, Letters(), engines)
    headline = comparison.headline
    assert (headline.scorer, headline.rows, headline.unscored) == ("exact_match", 100, 0)
    assert headline.systems["base"].value == 0.25 and headline.systems["tuned"].value == 1.0
    assert headline.difference["tuned"].value == 0.75
    assert 0.6 < headline.difference["tuned"].low < 0.75 < headline.difference["tuned"].high < 0.9
    assert [sample.answers["base"].scores["exact_match"] for sample in comparison.samples[:5]] == [1, 0, 0, 0, 1]
    assert comparison.samples[3].expected == "6" and comparison.samples[3].answers["base"].text == "no idea"
    assert json.loads(json.dumps(comparison.as_json(), allow_nan=False))["scores"][0]["systems"]["tuned"]["value"] == 1


def test_answers_come_back_in_order_whatever_the_batches():
    rows = sums(2 * BATCH + 3)
    engine = ByHeart(right(rows))
    comparison = compare(task(temperature=1.0, max_new_tokens=9), rows, Letters(), {"only": engine}, seed=5)
    assert comparison.headline.systems["only"].value == 1.0 and comparison.headline.difference == {}
    (asked,) = engine.asked
    assert len({request.sampling.seed for request in asked}) == len(asked) == len(rows)
    assert all(request.sampling.temperature == 1.0 and request.sampling.max_new_tokens == 9 for request in asked)
    assert {request.turns[0].text: request.prompt for request in asked} == {
        row.prompt[0].text: tuple(Letters().prompt_ids(row.prompt)) for row in rows
    }, "an endpoint that renders messages itself is given them"


def test_limit_and_cut_answers():
    rows = sums(9)
    comparison = compare(task(limit=4, max_new_tokens=3), rows, Letters(), {"base": ByHeart(wrong(rows, 2))})
    assert len(comparison.samples) == 4 and comparison.cut == {"base": 2}
    assert comparison.samples[1].answers["base"].finish == "length"
    assert any("2 of 4 answers were cut off" in note for note in comparison.notes())


def test_perplexity_alone_generates_nothing():
    text = [Example((), (Response((Turn("text", "abcd"),)),)), Example((), (Response((Turn("text", "ab"),)),))]
    engine = ByHeart({}, likelihood=0.25)
    comparison = compare(task("perplexity"), text, Letters(), {"base": engine})
    assert engine.asked == [] and engine.scored == 2
    assert comparison.headline.systems["base"].value == pytest.approx(4.0)
    assert comparison.samples[0].answers["base"].text is None
    assert comparison.samples[0].answers["base"].scores == {"perplexity": pytest.approx(4.0)}


def test_perplexity_beside_words_and_rows_without_a_reference():
    rows = [*sums(3), Example((Turn("user", "?"),))]
    answers = {**right(rows[:3]), "?": "!"}
    engines = {"base": ByHeart(answers, 0.1), "tuned": ByHeart(answers, 0.5)}
    comparison = compare(task("exact_match", "perplexity"), rows, Letters(), engines)
    exact, perplexity = comparison.scores
    assert (exact.rows, exact.unscored, perplexity.rows, perplexity.unscored) == (3, 1, 3, 1)
    assert perplexity.systems["base"].value == pytest.approx(10, rel=1e-5) and not perplexity.higher_is_better
    assert perplexity.difference["tuned"].value == pytest.approx(-8, rel=1e-5)
    assert comparison.samples[3].expected is None and comparison.samples[3].answers["base"].scores["perplexity"] is None


def test_plain_text_with_an_answer_stays_plain_and_training_weights_do_not_count():
    class Strict(Letters):
        def encode(self, example: Example, loss_on: str = "assistant") -> Encoded:
            (turn,) = example.responses[0].turns
            assert turn.role == example.prompt[0].role.replace("user", "assistant") and turn.weight is None
            return super().encode(example, loss_on)

    untrained = Response((Turn("assistant", "4", weight=0.0),))
    rows = [Example((Turn("text", "2+2="),), answer="4"), Example((Turn("user", "2+2"),), (untrained,))]
    comparison = compare(task("perplexity"), rows, Strict(), {"base": ByHeart({})})
    assert comparison.headline.rows == 2


def test_same_scorer_with_other_keys_has_its_own_line():
    rows = sums(3)
    comparison = compare(task({"rouge": {"variant": 1}}, "rouge"), rows, Letters(), {"base": ByHeart(right(rows))})
    assert [loss_on.scorer for loss_on in comparison.scores] == ["rouge (variant=1)", "rouge"]


def test_what_cannot_end_in_a_score_is_refused_before_generating():
    engine = ByHeart({})
    for examples, scorers, message in [
        ([], ["exact_match"], "no rows"),
        (
            [Example((), (Response((Turn("text", "abc"),)),), source=Source("a.txt", 7))],
            ["f1"],
            r"a\.txt:7.*without a prompt",
        ),
        ([Example((Turn("user", "?"),))], ["exact_match"], "can judge none of the 1 rows"),
        ([Example((Turn("user", "?"),), answer="prose")], ["contains", "json_match"], "'json_match' can judge none"),
        ([Example((Turn("user", "?"),), answer="x")], ["exact_mtch"], "exact_match"),
        ([Example((Turn("user", "?"),))], ["perplexity"], "'perplexity' can judge none .* no answer"),
    ]:
        with pytest.raises(LuthierError, match=message):
            compare(task(*scorers), examples, Letters(), {"base": engine})
    assert engine.asked == []


def test_rows_longer_than_the_context_are_named_before_generating():
    """A letter is a token, and a prompt ends with one more."""
    engine = ByHeart({"abc": "x"})
    engine.context = 4
    row = Example((Turn("user", "abc"),), answer="x", source=Source("held-out.jsonl", 3))
    for scorer, message in [
        ("exact_match", r"held-out\.jsonl:3: the prompt has 4 tokens, the model's context is 4"),
        ("perplexity", r"held-out\.jsonl:3: prompt and response have 6 tokens, the model's context is 4"),
    ]:
        with pytest.raises(LuthierError, match=message):
            compare(task(scorer), [row], Letters(), {"base": engine})
    assert engine.asked == [] and engine.scored == 0
    engine.context = 6
    compare(task("exact_match", "perplexity"), [row], Letters(), {"base": engine})


def test_record_replaces_its_own_task_and_keeps_the_rest(tmp_path):
    run, rows = Run(tmp_path), sums(3)
    run.write_json(run.summary_path, {"seconds": 12.5})
    engines = {"base": ByHeart(wrong(rows, 2)), "tuned": ByHeart(right(rows))}
    other = ScoredTask(Task(name="其他", data=["x.jsonl"]))
    for each in (task(), other, task()):
        record(run, compare(each, rows, Letters(), engines))
    lines = [json.loads(line) for line in run.samples_path.read_text(encoding="utf-8").splitlines()]
    assert [(line["task"], line["row"]) for line in lines] == [
        *(("其他", row) for row in range(3)),
        *(("sums", row) for row in range(3)),
    ]
    assert lines[4] == {
        "task": "sums",
        "row": 1,
        "source": "sums.jsonl:2",
        "prompt": [{"role": "user", "text": "1+1 "}],
        "expected": "2",
        "systems": {
            "base": {"text": "no idea", "finish": "stop", "scores": {"exact_match": 0.0}},
            "tuned": {"text": "2", "finish": "stop", "scores": {"exact_match": 1.0}},
        },
    }
    summary = run.read_json(run.summary_path)
    assert summary["seconds"] == 12.5 and set(summary["scores"]) == {"sums", "其他"}


def test_tables_show_values_intervals_and_markup_as_it_is():
    rows = [Example((Turn("user", "[bold]tag[/bold]"),), answer="[red]x[/]"), *sums(5)]
    answers = {**right(rows[1:]), "[bold]tag[/bold]": "[/nonsense]"}
    base, tuned = ByHeart(answers), ByHeart({**answers, "[bold]tag[/bold]": "[red]x[/]"})
    comparison = compare(task("exact_match", "perplexity"), rows, Letters(), {"base": base, "tuned": tuned})
    console = Console(width=120, record=True, file=StringIO())
    console.print(comparison.table())
    console.print(comparison.sample_table(2))
    shown = console.export_text()
    assert "0.833" in shown and "tuned − base" in shown and "+" not in shown.split("exact_match")[0]
    assert "[/nonsense]" in shown and "[red]x[/]" in shown and "[bold]tag[/bold]" in shown


def test_a_scorer_of_a_third_party_needs_no_more_than_a_call():
    from dataclasses import dataclass

    from luthier.scorers import SCORERS

    @SCORERS.register("length_of_answer")
    @dataclass(frozen=True)
    class LengthOfAnswer:
        def __call__(self, example: Example, response: Response) -> float | None:
            return float(len(response.turns[0].text))

    try:
        rows = sums(4)
        comparison = compare(task("length_of_answer"), rows, Letters(), {"base": ByHeart(right(rows))})
        assert comparison.headline.systems["base"].value == 1.0
    finally:
        del SCORERS._targets["length_of_answer"]
