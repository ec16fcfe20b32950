"""The steps dedup and decontaminate: what they compare, which row they keep, and what the ledger says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curated import curated, said

from luthier.data.curation.chain import Curated
from luthier.data.curation.feeds import opened
from luthier.data.curation.stages import Settings
from luthier.data.duplicates.rows import text_of
from luthier.data.steps import STEPS
from luthier.errors import LuthierError
from luthier.recipe import load
from luthier.types import Example, Response, Source, Turn

TEA = "Tea is a drink made of the leaves of a shrub, and people have drunk it for thousands of years in many lands"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def written(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def lines(made: Curated) -> list[int]:
    return [int(where.rpartition(":")[2]) for where, _ in said(made)]


def asked(*answers: str) -> list[dict[str, Any]]:
    return [{"prompt": "What is tea?", "completion": answer} for answer in answers]


def test_a_bare_number_is_the_threshold(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", asked(TEA, f"{TEA} indeed", "Something else altogether, I would say."))
    made = curated([rows], {"dedup": 0.8})
    assert lines(made) == [2, 3]
    (tally,) = made.ledger.steps
    ((reason, entry),) = tally.main_reasons()
    assert reason == "it says nearly the same as another row"
    assert entry.rows == [f"{rows}:1 = {rows}:2, likeness 0.9545"]  # 21 runs of three words of 22
    assert tally.notes == [f"1 row has duplicates: {rows}:2 stands for 1 more"]
    assert lines(curated([rows], {"dedup": 0.97})) == [1, 2, 3]
    assert lines(curated([rows], {"dedup": {}})) == [2, 3]


def test_which_is_kept_is_a_rule(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", asked(f"{TEA} indeed", TEA, f"{TEA} so", f"{TEA} by and by"))
    assert lines(curated([rows], {"dedup": {"keep": "first"}})) == [1]
    assert lines(curated([rows], {"dedup": {"keep": "longest"}})) == [4]


def test_the_best_score_is_kept(tmp_path: Path) -> None:
    rows = [
        Example((Turn("user", "What is tea?"),), (Response((Turn("assistant", TEA),)),), meta={"stars": n})
        for n in (1, 5, 2)
    ]
    step = STEPS.build("dedup", {"keep": "stars"})
    columns = step.measure(rows, None)
    assert columns["worth"].tolist() == [1, 5, 2]
    assert step.decide(columns, _Rows(rows), 0).witness.tolist() == [1, -1, 1]
    nothing = STEPS.build("dedup", {"keep": "moons"})
    with pytest.raises(LuthierError, match="no row has a number in the column 'moons'"):
        nothing.decide(nothing.measure(rows, None), _Rows(rows), 0)


class _Rows(list[Example]):
    def source(self, index: int) -> Source:
        return Source("rows", index + 1)


def test_exact_and_semantic(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", asked(TEA, TEA.upper(), TEA))
    assert lines(curated([rows], {"dedup": {"exact": True}})) == [1, 2]
    assert lines(curated([rows], {"dedup": {"exact": True, "keep": "first"}})) == [1, 2]
    examples = [
        Example((Turn("user", word),), meta={"vector": v})
        for word, v in zip("abc", ([1, 0], [0, 2], [3, 0.1]), strict=True)
    ]
    step = STEPS.build("dedup", {"semantic": 0.9, "embedding": "vector", "keep": "first"})
    assert step.decide(step.measure(examples, None), _Rows(examples), 0).witness.tolist() == [-1, -1, 0]
    odd = Example((Turn("user", "?"),), meta={"vector": [1, 2, 3]})
    for bad in (odd, Example((Turn("user", "?"),)), Example((Turn("user", "?"),), meta={"vector": "much"})):
        with pytest.raises(LuthierError, match="the row has no embedding in the column 'vector'"):
            step.measure([*examples, bad], None)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"near": 0.8, "exact": True}, "give one of near, exact and semantic"),
        ({"embedding": "vector"}, "give semantic, how alike rows must be"),
        ({"model": "m"}, "give semantic, how alike rows must be"),
        ({"semantic": 0.9, "model": "m", "embedding": "vector"}, "give one of embedding and model"),
        ({"near": 0.1}, "set a threshold from 0.37 to 1"),
        ({"near": 1.2}, "less than or equal to 1"),
        ({"clusters": 5}, "they need semantic"),
    ],
)
def test_keys_that_do_not_go_together(keys: dict[str, Any], told: str) -> None:
    with pytest.raises(LuthierError, match=told):
        STEPS.build("dedup", keys)


def test_other_figures_make_another_row_however_alike_the_vectors_are() -> None:
    said = ("Take 3 eggs.", "You need 3 eggs.", "Take 4 eggs.", "Three eggs, please.")
    rows = [Example((Turn("user", one),), meta={"vector": [1.0, n / 100]}) for n, one in enumerate(said)]
    step = STEPS.build("dedup", {"semantic": 0.99, "embedding": "vector", "keep": "first"})
    assert step.decide(step.measure(rows, None), _Rows(rows), 0).witness.tolist() == [-1, 0, -1, -1]


def test_rows_that_a_model_finds_alike(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", asked(TEA, "tea is a drink", "drink a tea is", "Something else, 7 times."))
    made = curated([rows], {"dedup": {"semantic": 0.999, "model": "a model", "keep": "first"}})
    assert lines(made) == [1, 2, 4], "to a model that counts letters, the same letters are the same"
    (tally,) = made.ledger.steps
    assert list(tally.reasons) == ["it says in other words what another row says"]
    assert tally.notes == [f"1 row has duplicates: {rows}:2 stands for 1 more"]
    assert lines(curated([rows], {"dedup": {"semantic": 0.2, "model": "a model", "keep": "first"}})) == [1, 4]


def test_rows_without_a_vector_stay() -> None:
    rows = [Example((Turn("user", word),)) for word in "abc"]
    step = STEPS.build("dedup", {"semantic": 0.9, "keep": "first"})

    class Half:
        identity = "half"

        def __call__(self, some: list[Example]) -> list[Any]:
            return [None if one.prompt[0].text == "b" else np.ones(3, np.float32) for one in some]

    at_work = step.holding(embeds=Half())
    columns = at_work.measure(rows, None)
    assert columns["embedding"].shape == (3, 3) and columns["read"].tolist() == [True, False, True]
    assert at_work.measure(rows[1:2], None)["embedding"].shape == (1, 3), "a batch without any has the same columns"
    assert at_work.decide(columns, _Rows(rows), 0).witness.tolist() == [-1, -1, 0]


def test_what_makes_rows_two_beside_their_words() -> None:
    def row(**given: Any) -> Example:
        said = given.pop("said", Turn("assistant", TEA))
        prompt = (*given.pop("before", ()), Turn("user", "What is tea?", media=given.pop("media", ())))
        return Example(prompt, (Response((said,), reward=given.pop("reward", None)),), **given)

    call = {"type": "function", "function": {"name": "look_up", "arguments": {"what": "tea"}}}
    rows = [
        row(),
        row(before=(Turn("system", "Be brief."),)),
        row(before=(Turn("system", "Be wordy."),)),
        row(media=("a.png",)),
        row(media=("b.png",)),
        row(reward=1.0),
        row(reward=0.0),
        row(tools=(call,)),
        row(answer="a drink"),
        row(said=Turn("assistant", TEA, calls=(call,))),
    ]
    step = STEPS.build("dedup", {"near": 0.8})
    assert step.decide(step.measure(rows, None), _Rows(rows), 0).keep.all()
    assert step.decide(step.measure(rows * 2, None), _Rows(rows * 2), 0).keep.tolist() == [True] * 10 + [False] * 10


def test_pairs_that_contradict_each_other_are_two() -> None:
    better, worse = Response((Turn("assistant", TEA),), 1.0), Response((Turn("assistant", "I do not know it."),), 0.0)
    first, swapped = (Example((Turn("user", "?"),), pair) for pair in ((better, worse), (worse, better)))
    assert text_of(first) == text_of(swapped)
    turned = Example((Turn("user", "?"),), (Response(better.turns, 0.0), Response(worse.turns, 1.0)))
    assert text_of(turned).answers == text_of(first).answers[::-1]


def test_tasks_are_told_apart_by_their_answers() -> None:
    rows = [Example((Turn("user", "How many are there?"),), answer=answer) for answer in ("42", "43", "42")]
    step = STEPS.build("dedup", {"near": 0.8})
    assert step.decide(step.measure(rows, None), _Rows(rows), 0).keep.tolist() == [True, True, False]


QUESTION = "How far has a train come by noon that leaves at nine and travels at forty miles in an hour?"


def recipe(tmp_path: Path, test: list[dict[str, Any]], **step: Any) -> Any:
    rows = asked("Nothing of it.", f"As they ask: {QUESTION.upper().replace(' ', '  ')}", TEA)
    content = {
        "model": "smollm2-135m-instruct",
        "output": str(tmp_path / "out"),
        "data": written(tmp_path / "rows.jsonl", rows),
        "steps": [{"decontaminate": step or "evaluate"}],
        "evaluate": {"data": written(tmp_path / "test.jsonl", test)},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(content), encoding="utf-8")
    return load(path).recipe


def run(made: Any) -> Curated:
    return opened(made.data, made.steps, Settings.of(made))[0].curated


TEST = [{"prompt": QUESTION, "answer": "120"}, {"prompt": "What else is there to be asked?", "answer": "a lot"}]


def test_against_what_the_recipe_is_scored_on(tmp_path: Path) -> None:
    made = run(recipe(tmp_path, TEST))
    assert lines(made) == [1, 3]
    (tally,) = made.ledger.steps
    ((reason, entry),) = tally.main_reasons()
    assert reason == "it holds a test item"
    assert entry.rows[0].startswith(f"{tmp_path}/rows.jsonl:2 {tmp_path}/test.jsonl:1: HOW  FAR  HAS")
    assert tally.notes[0] == "1 of 2 test items (50.0%) stand in 1 of 3 rows"


def test_other_test_rows_are_looked_for_anew(tmp_path: Path) -> None:
    assert lines(run(recipe(tmp_path, TEST))) == [1, 3]
    assert lines(run(recipe(tmp_path, TEST[1:]))) == [1, 2, 3]
    assert lines(run(recipe(tmp_path, [*TEST[1:], {"prompt": "What is tea?", "answer": "Nothing"}]))) == [2, 3]


def test_only_counted_or_an_error_above_a_share(tmp_path: Path) -> None:
    made = run(recipe(tmp_path, TEST, drop=False))
    assert lines(made) == [1, 2, 3]
    assert made.ledger.steps[0].notes[0] == "1 of 2 test items (50.0%) stand in 1 of 3 rows"
    with pytest.raises(LuthierError, match=r"rows.jsonl:2: 1 of 2 test items .50.0%. stand in rows to train on"):
        run(recipe(tmp_path, TEST, at_most=0.2))


def test_without_test_rows_it_says_so(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows.jsonl", asked(TEA))
    with pytest.raises(LuthierError, match=r"steps.0 decontaminate: there are no rows called 'evaluate'"):
        curated([rows], {"decontaminate": "evaluate"})
    made = recipe(tmp_path, TEST)
    with pytest.raises(LuthierError, match="no test items to look for: the recipe has no `evaluate:`"):
        run(replace(made, evaluate=()))
    made = recipe(tmp_path, TEST, against=["evaluate", f"{tmp_path}/test.jsonl"])
    assert lines(run(made)) == [1, 3]
    with pytest.raises(LuthierError, match="no test items to look for: the recipe has no `evaluate:`") as caught:
        run(replace(made, evaluate=()))
    assert f"{{against: [{tmp_path}/test.jsonl]}}" in str(caught.value.fix)
