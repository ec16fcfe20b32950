"""Diversity, class balance and the tournament: against brute force, and what was planted is found."""

import json
import math
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from curated import ROWS, Speller, curated, write

from luthier.data.curation.calls import Calls
from luthier.data.reading.feeds import read
from luthier.data.selecting import covering
from luthier.data.selecting.diverse import evenly
from luthier.data.selecting.hashing import normed, weighed
from luthier.data.selecting.ratings import bradley_terry, intervals, swiss
from luthier.data.selecting.tournament import Tournament, verdict
from luthier.data.steps.columns import value
from luthier.data.steps.tools import Budget, Tools
from luthier.errors import LuthierError
from luthier.types import Completion, Example, Response, Source, Turn


@pytest.fixture
def vectors() -> np.ndarray:
    return normed(np.random.default_rng(1).normal(size=(12, 4)))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def test_centres_take_the_farthest_and_cover_all(vectors: np.ndarray):
    taken, gaps = covering.centres(vectors, 4)
    far = 1 - vectors @ vectors.T
    for k in range(1, 4):
        nearest = far[:, taken[:k]].min(1)
        assert nearest[taken[k]] == pytest.approx(nearest.max()) and gaps[k] == pytest.approx(nearest.max())
    # distances on the sphere are the roots of these: at most twice the best choice's radius
    radius = min(np.sqrt(np.maximum(2 * far[:, list(some)].min(1), 0)).max() for some in combinations(range(12), 4))
    assert np.sqrt(np.maximum(2 * far[:, taken].min(1), 0)).max() <= 2 * radius + 1e-6
    assert sorted(covering.centres(vectors, 50)[0]) == list(range(12))


def test_facility_location_is_the_plain_greedy_and_near_the_best(vectors: np.ndarray):
    alike = np.maximum(vectors @ vectors.T, 0)
    taken, gains = covering.facilities(vectors, 3, np.arange(12))
    covered, plain = np.zeros(12), []
    for _ in range(3):
        gain = np.maximum(alike - covered, 0).sum(1)
        plain.append(int(np.argmax(gain)))
        covered = np.maximum(covered, alike[plain[-1]])
    assert taken.tolist() == plain and gains.sum() == pytest.approx(covered.mean(), rel=1e-5)
    best = max(alike[list(some)].max(0).sum() for some in combinations(range(12), 3))
    assert covered.sum() >= (1 - 1 / math.e) * best


def test_score_first_takes_the_best_and_leaves_out_what_is_like_it():
    vectors = normed(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [-1, 0]], np.float32))
    taken, likeness, like = covering.score_first(vectors, [1, 0, 3, 2, 4], 5, 0.9)
    assert taken.tolist() == [1, 3, 4]
    assert like.tolist() == [1, -1, 3, -1, -1] and likeness[0] == pytest.approx(float(vectors[0] @ vectors[1]))
    assert covering.score_first(vectors, [1, 0, 3, 2, 4], 2, 0.9)[0].tolist() == [1, 3]


def test_clusters_and_as_many_of_each():
    vectors = normed(np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [1, 0.05]], np.float32))
    which = covering.clusters(vectors, 2)
    assert which[0] == which[1] == which[4] != which[2] == which[3]
    assert evenly(which, np.array([4, 1, 0, 3, 2]), 4).tolist() == [4, 3, 1, 2]


def test_tf_idf_by_hand():
    counts = np.array([[1.0, 0, 1], [1, 0, 0]])
    rare, usual = math.log(3 / 2) + 1, math.log(3 / 3) + 1
    np.testing.assert_allclose(weighed(counts)[0], np.array([usual, 0, rare]) / math.hypot(usual, rare), rtol=1e-6)


def rows(tmp_path: Path, given: list[dict[str, Any]]) -> list[str]:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, given)), encoding="utf-8")
    return [str(path)]


def test_one_of_each_planted_group_stays(tmp_path: Path):
    subjects = ["tea leaves and water", "the river flows north", "four plus four is eight"]
    said = [{"prompt": "?", "completion": f"{one} {'again ' * n}"} for n in range(4) for one in subjects]
    for how in ("centres", "facility", "clusters"):
        made = curated(rows(tmp_path, said), {"diverse": {"top": 3, "how": how, "groups": 3}})
        kept = [one.responses[0].turns[0].text.split()[0] for one in made.examples()]
        assert sorted(kept) == ["four", "tea", "the"], how
    keys = {"top": 4, "how": "score_first", "by": "length", "near": 0.5}
    made = curated(rows(tmp_path, said), {"diverse": keys})
    assert [one.responses[0].turns[0].text.count("again") for one in made.examples()] == [3, 3, 3]
    assert "= " in next(iter(made.ledger.steps[0].reasons["it is too like a better one"].rows))


def test_classes_are_as_many_as_the_smallest(tmp_path: Path):
    given = [{"prompt": "x" * n, "completion": "spam" if n % 4 else "ham"} for n in range(1, 13)]
    made = curated(rows(tmp_path, given), {"balance": "answer"})
    assert sorted(one.responses[0].turns[0].text for one in made.examples()) == ["ham"] * 3 + ["spam"] * 3
    (tally,) = made.ledger.steps
    assert tally.notes[0].startswith("2 classes: ") and "spam 3 of 9" in tally.notes[0] and tally.dropped == 6
    judged = [{"prompt": f"{n}", "completion": "x" * n, "label": n % 4 == 0} for n in range(1, 13)]
    made = curated(rows(tmp_path, judged), {"balance": {"column": "reward", "most": 2, "by": "length"}})
    assert [len(one.responses[0].turns[0].text) for one in made.examples()] == [8, 10, 11, 12]
    with pytest.raises(LuthierError, match="no row has a class in 'topic'"):
        curated(rows(tmp_path, given), {"balance": "topic"})


def test_columns_of_the_file_and_what_can_be_told_of_a_row(tmp_path: Path):
    given = [
        {
            "prompt": f"{n}",
            "completion": "Tea is a drink that people like." if n % 2 else "茶是一种饮料。",
            "topic": "abc"[n % 3],
            "stars": str(n),
        }
        for n in range(1, 8)
    ]

    def kept(step: dict[str, Any], data: list[dict[str, Any]] = given) -> list[str]:
        return [one.prompt[0].text for one in curated(rows(tmp_path, data), step).examples()]

    by_topic = kept({"balance": "topic"})
    assert sorted(int(n) % 3 for n in by_topic) == [0, 0, 1, 1, 2, 2]
    assert len(kept({"balance": "language"})) == 6, "three rows are Chinese"
    assert kept({"select": {"by": {"column": "stars"}, "top": 2}}) == ["6", "7"], "a table's numbers may be text"
    assert kept({"select": {"by": [{"column": "stars"}, "words"], "combine": "product", "top": 1}}) == ["7"]
    assert kept(
        {"dedup": {"semantic": 0.9, "embedding": "at", "keep": "stars"}},
        [{**row, "prompt": "?", "at": [1.0, 0.0]} for row in given[1:7:2]],
    ) == ["?"]
    with pytest.raises(LuthierError, match="no row has a class in 'topics'") as told:
        kept({"balance": "topics"})
    assert told.value.fix is not None
    assert told.value.fix.startswith("name what the rows have: prompt, completion, topic, stars, reward, answer, turns")
    with pytest.raises(LuthierError, match="none of 7 rows can be measured by") as told:
        kept({"select": {"by": {"column": "topic"}, "top": 2}})
    assert "as a number: prompt, completion, topic, stars" in str(told.value.fix)


def test_kinds_of_rows(tmp_path: Path):
    kinds = {kind: {value(row, "kind") for row in read(path)} for kind, path in zip(ROWS, write(tmp_path), strict=True)}
    assert kinds == {
        "english": {"question"},
        "chinese": {"question"},
        "unicode": {"question"},
        "turns": {"conversation"},
        "judged": {"compared"},
        "labelled": {"judged"},
        "stepwise": {"question"},
        "texts": {"text"},
        "dirty": {"question"},
        "called": {"conversation"},
        "tasks": {"task"},
    }
    (row,) = read(str(tmp_path / "turns.jsonl"))
    assert (value(row, "turns"), value(row, "file"), value(row, "moon")) == (6, str(tmp_path / "turns.jsonl"), None)


def test_bradley_terry_by_hand():
    games = [(0, 1, 1.0)] * 75 + [(0, 1, 0.0)] * 25
    found = bradley_terry(games, 2, prior=0)
    assert found[0] - found[1] == pytest.approx(190.85, abs=0.01)
    ring = bradley_terry([(0, 1, 1.0), (1, 2, 1.0), (2, 0, 1.0)], 3)
    assert ring == pytest.approx([1000] * 3)
    never_lost = bradley_terry([(0, 1, 1.0)] * 3, 2)
    assert np.isfinite(never_lost).all() and never_lost[0] > never_lost[1]
    assert bradley_terry([(0, 1, 0.5)] * 4, 2) == pytest.approx([1000, 1000])


def test_swiss_pairs_neighbours_that_have_not_met():
    ratings, order = np.array([5.0, 1, 4, 2, 3]), np.arange(5)
    assert swiss(ratings, set(), order) == [(0, 2), (4, 3)]
    assert swiss(ratings, {(0, 2)}, order) == [(0, 4), (2, 3)]


def test_a_planted_order_is_recovered_and_lies_within_its_intervals():
    chance, players = np.random.default_rng(3), 24
    true = np.linspace(600, 1400, players)
    games, met, ratings = [], set(), np.full(players, 1000.0)
    order = chance.permutation(players)
    for _ in range(12):
        for one, other in swiss(ratings, met, order):
            met.add((min(one, other), max(one, other)))
            wins = 1 / (1 + 10 ** ((true[other] - true[one]) / 400))
            games += [(one, other, float(chance.random() < wins)) for _ in range(4)]
        ratings = bradley_terry(games, players)
    ranks = np.argsort(np.argsort(ratings))
    assert np.corrcoef(ranks, np.arange(players))[0, 1] > 0.9
    low, high = intervals(games, players, 0)
    assert (low <= ratings + 1e-6).mean() > 0.9 and (high >= ratings - 1e-6).mean() > 0.9
    assert ((low <= true) & (true <= high)).mean() > 0.75


class Judge(Speller):
    """Says that the row with the higher number is better; it cannot be read at first of one in three."""

    identity = "a judge"

    def run(self, requests):  # type: ignore[no-untyped-def]
        for request in requests:
            self.asked.append(request)
            parts = request.turns[0].text.split("---\n")[1:4:2]
            one, other = (int(part.split("worth ")[1].split()[0]) for part in parts)
            said = f"Well.\nVerdict: {'A' if one > other else 'B'}"
            if not request.sampling.seed and (one + other) % 3 == 0:
                said = "I would rather not say."
            yield Completion((), said, "stop", length=3, request=request.id)


class Rows(list):  # type: ignore[type-arg]
    def source(self, index: int) -> Source:
        return Source("rows", index)

    @property
    def keys(self) -> np.ndarray:
        return np.random.default_rng(0).integers(0, 2**63, (len(self), 2)).astype(np.uint64)


def players(count: int) -> Rows:
    said = [f"worth {n} points" for n in np.random.default_rng(5).permutation(count).tolist()]
    return Rows(Example((Turn("user", "?"),), (Response((Turn("assistant", one),)),)) for one in said)


def test_a_tournament_keeps_the_best_and_asks_n_log_n_times(tmp_path: Path):
    model, given = Judge(), players(16)
    tools = Tools(speakers=lambda named: model, asking=Calls(tmp_path))
    found = Tournament(top=4, model="j").ready(tools).decide({}, given, 0)
    kept = [
        int(one.responses[0].turns[0].text.split()[1]) for one, stays in zip(given, found.keep, strict=True) if stays
    ]
    assert len(kept) == 4 and {14, 15} <= set(kept) and min(kept) >= 9
    first = [one for one in model.asked if not one.sampling.seed]
    assert 2 * 8 * 4 < len(first) <= 2 * 8 * 5 and len(model.asked) < 2 * len(first)
    assert "the judge said the same in both orders of 100%" in found.notes[1]
    asked = len(model.asked)
    more = Tournament(top=5, model="j").ready(tools).decide({}, given, 0)
    assert more.keep.sum() == 5 and (more.keep | ~found.keep).all() and len(model.asked) == asked
    with pytest.raises(LuthierError, match="budget of 5 calls"):
        Tournament(top=8, model="j", budget=Budget(calls=5)).ready(
            Tools(speakers=lambda named: model, asking=Calls(tmp_path))
        ).decide({}, given, 0)


def test_verdicts_are_read_from_the_end_and_nothing_else_is_one():
    assert [verdict(one) for one in ("B is weak. Verdict: A", "**Verdict:** tie", "B", "verdict: a\nVerdict: B")] == [
        1.0,
        0.5,
        0.0,
        0.0,
    ]
    assert verdict("A is better") is None and verdict("") is None
