"""Words of answers: how varied, how usual, and what a small classifier learns of them. Numbers by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from luthier.data.selecting.taught import Taught
from luthier.data.selecting.wording import Frequency, TypeToken
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Example, Response, Turn


def row(*answers: str) -> Example:
    return Example((Turn("user", "?"),), tuple(Response((Turn("assistant", one),)) for one in answers))


def written(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def test_type_token_ratio():
    rows = [row("a b a b"), row("茶茶好"), row("One ONE"), row("a a", "a b"), row("…"), Example(())]
    found = TypeToken().measure(rows, Tools())
    assert found[:4].tolist() == [0.5, 2 / 3, 0.5, 1.0] and np.isnan(found[4:]).all()
    # of "a b a b" the windows of three hold two different words each; "a a b": windows of two hold one, then two
    assert TypeToken(window=3).measure([row("a b a b")], Tools())[0] == pytest.approx(2 / 3)
    assert TypeToken(window=2).measure([row("a a b")], Tools())[0] == pytest.approx(3 / 4)


def test_word_frequency_counts_the_rows_named(tmp_path: Path):
    path = written(tmp_path / "rows.jsonl", [{"prompt": "?", "completion": "tea tea tea milk"}] * 25)
    measure = Frequency((path,)).ready(Tools())
    found = measure.measure([row("tea"), row("tea milk"), row("quark"), row("!")], Tools())
    assert found[0] == pytest.approx(math.log10(0.75))
    assert found[1] == pytest.approx((math.log10(0.75) + math.log10(0.25)) / 2)
    assert found[2] == pytest.approx(math.log10(0.5 / 100)) and math.isnan(found[3])
    other = written(tmp_path / "other.jsonl", [{"prompt": "?", "completion": "tea"}])
    assert Frequency((other,)).ready(Tools()).identity() != measure.identity()


def test_a_classifier_learns_what_labels_say(tmp_path: Path):
    chance = np.random.default_rng(0)
    words = [f"w{n}" for n in range(60)]

    def drawn(good: bool) -> str:
        usual = chance.choice(words[:40], 8)
        return " ".join([*usual, *chance.choice(words[40:50] if good else words[50:], 3)])

    rows = [{"prompt": "?", "completion": drawn(n % 2 == 0), "label": n % 2 == 0} for n in range(200)]
    taught = Taught((written(tmp_path / "labelled.jsonl", rows),)).ready(Tools())
    assert taught.wants == frozenset()
    good = taught.measure([row(drawn(True)) for _ in range(100)], Tools())
    bad = taught.measure([row(drawn(False)) for _ in range(100)], Tools())
    assert np.mean(good[:, None] > bad[None, :]) > 0.95
    assert ((good > 0) & (good < 1)).all()


def test_the_fit_is_where_the_slope_is_nought(tmp_path: Path):
    from luthier.data.selecting.taught import SIZE, fit

    rows = [(np.array([n % 3, SIZE]), np.array([1.0, 1.0])) for n in range(30)]
    labels = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0] * 5)
    weights = fit(rows, labels, 0.5)
    probability = np.array([1 / (1 + math.exp(-(weights[at] @ value))) for at, value in rows])
    for place in range(3):
        mine = np.arange(30) % 3 == place
        assert (probability - labels)[mine].sum() + 0.5 * weights[place] == pytest.approx(0, abs=1e-6)
    assert (probability - labels).sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("labels", "said"), [([], "and it takes 20"), ([True] * 25, "all the same")])
def test_too_few_labels_are_told(tmp_path: Path, labels: list[bool], said: str):
    rows = [{"prompt": f"{n}", "completion": "a", "label": one} for n, one in enumerate(labels)]
    path = written(tmp_path / "rows.jsonl", rows or [{"prompt": "a", "completion": "b"}])
    with pytest.raises(LuthierError, match=said):
        Taught((path,)).ready(Tools())
