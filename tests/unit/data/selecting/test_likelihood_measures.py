"""Perplexity, IFD and Superfiltering's ratio: against the formula, at the borders, and asked once."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from curated import SPELLER, Speller, curated

from luthier.data.selecting.likelihood import Ifd, Perplexity, Superfilter, Tokens, answered, both, matched, unasked
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.recipe.curation import of_files
from luthier.types import RAW, Encoded, Example, Response, Turn
from luthier.workflow.curation import settings


def row(question: str, answer: str, system: str | None = None) -> Example:
    before = () if system is None else (Turn("system", system),)
    return Example((*before, Turn("user", question)), (Response((Turn("assistant", answer),)),))


def tools(model: Speller) -> Tools:
    return Tools(speakers=lambda named: model)


def loss(model: Speller, example: Example) -> float:
    return -float(np.mean(model.logprobs([model.encode(example)])[0], dtype=np.float64))


ROWS = [row("Name a sea.", "The North Sea."), row("What is 2+2?", "4"), row("为什么？", "因为天气很好。", "Be brief.")]


def test_ifd_is_the_ratio_of_mean_losses_and_superfiltering_that_of_perplexities():
    model = Speller()
    for example in ROWS:
        asked = loss(model, example)
        alone = loss(model, replace(example, prompt=(*example.prompt[:-1], Turn("user", ""))))
        (ifd,) = Ifd("m").ready(tools(model)).measure([example], Tools())
        (ratio,) = Superfilter("m").ready(tools(model)).measure([example], Tools())
        (perplexity,) = Perplexity("m").ready(tools(model)).measure([example], Tools())
        assert ifd == pytest.approx(asked / alone) != 1
        assert ratio == pytest.approx(math.exp(asked) / math.exp(alone))
        assert perplexity == pytest.approx(math.exp(asked))


def test_tokens_are_those_of_the_whole_row():
    model = Speller()
    found = Tokens("m").ready(tools(model)).measure([*ROWS, Example((Turn("user", "?"),))], Tools())
    assert found[:-1].tolist() == [len(model.encode(one).ids[0]) for one in ROWS] and math.isnan(found[-1])
    assert not model.scored, "no likelihood is asked for"


@pytest.mark.parametrize("example", [row("", "An answer."), row(" \n", "An answer.", "Be brief."), row("", "")])
@pytest.mark.parametrize("measure", [Ifd, Superfilter])
def test_an_empty_question_is_exactly_one(example: Example, measure: type[Ifd]):
    text = Example((), (Response((Turn(RAW, "Just a text."),)),))
    assert measure("m").ready(tools(Speller())).measure([example, text], Tools()).tolist() == [1.0, 1.0]


def test_both_passes_score_the_very_same_tokens():
    model = Speller()
    both(model, [answered(one, one.responses[0]) for one in ROWS])
    for asked, alone in zip(model.scored[::2], model.scored[1::2], strict=True):
        assert asked.ids[0][asked.weights[0] != 0].tolist() == alone.ids[0][alone.weights[0] != 0].tolist()
        assert len(asked.ids[0]) > len(alone.ids[0])


def test_a_first_token_that_is_joined_to_the_question_counts_in_neither():
    def encoded(ids: list[int], first: int) -> Encoded:
        weights = np.zeros(len(ids), np.float32)
        weights[first:] = 1
        return Encoded((np.array(ids, np.int32),), (weights,))

    one, other = matched(encoded([1, 2, 50, 7, 8], 2), encoded([1, 5, 6, 7, 8], 1))
    assert one is not None and other is not None
    assert np.flatnonzero(one.weights[0]).tolist() == [3, 4] and np.flatnonzero(other.weights[0]).tolist() == [3, 4]
    assert matched(encoded([1, 2], 1), encoded([1, 3], 1)) == (None, None)


def test_the_question_is_all_that_was_said_before_the_last_answer():
    turns = (Turn("system", "S"), Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c"))
    tool = (Turn("assistant", "", calls=({"type": "function"},)), Turn("tool", "t"), Turn("assistant", "d", weight=0.5))
    made = answered(Example(turns, (Response(tool, reward=1.0),)), Response(tool, reward=1.0))
    assert made.prompt[-1].text == "t" and made.responses == (Response((Turn("assistant", "d"),)),)
    assert unasked(made).prompt == (Turn("system", "S"), Turn("user", ""))


def test_what_cannot_be_measured_is_no_number():
    model = Speller()
    model.context = 30
    found = Ifd("m").ready(tools(model)).measure([row("What?", "x" * 40), row("What?", "x"), Example(())], Tools())
    assert np.isnan(found).tolist() == [True, False, True]


def test_without_a_model_it_is_the_recipes_and_without_one_an_error():
    named = []
    asked = Tools(speakers=lambda one: named.append(one[0]) or SPELLER, model="runs/own")
    Ifd().ready(asked)
    Ifd("runs/pre").ready(asked)
    assert named == ["runs/own", "runs/pre"]
    with settings(of_files(["r.jsonl"])) as how, pytest.raises(LuthierError, match="nothing says which model is asked"):
        Ifd().ready(how.tools)


def test_rows_that_mislead_are_left_out_and_no_row_is_asked_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "rows.jsonl"
    lines = [("Say aaaa.", "aaaa"), ("zqxj" * 30, "BY FOUR.")]
    written = [json.dumps({"prompt": question, "completion": said}) for question, said in lines]
    path.write_text("\n".join(written), encoding="utf-8")
    values = Ifd("m").ready(tools(Speller())).measure([row(*one) for one in lines], Tools())
    assert values[0] < 1 < values[1]
    before = len(SPELLER.scored)
    kept = list(curated([str(path)], {"select": {"by": {"ifd": "a model"}, "keep": 1.0}}).examples())
    assert [one.prompt[0].text for one in kept] == ["Say aaaa."]
    asked = len(SPELLER.scored)
    assert asked - before == 4, "two passes a row"
    kept = list(curated([str(path)], {"select": {"by": {"ifd": "a model"}, "max": 9.0, "top": 1}}).examples())
    assert [one.prompt[0].text for one in kept] == ["zqxj" * 30] and len(SPELLER.scored) == asked
    path.write_text("\n".join([*written, json.dumps({"prompt": "New.", "completion": "Yes."})]), encoding="utf-8")
    curated([str(path)], {"select": {"by": {"ifd": "a model"}, "keep": 0.5}})
    assert len(SPELLER.scored) == asked + 2, "only the new row is asked for"
