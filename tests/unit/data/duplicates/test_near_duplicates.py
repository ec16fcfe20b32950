"""Near-duplicates: all that are planted are found, by exact counts, and nothing else is dropped."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from planted import alike, chinese, english, is_plain, real, varied

from luthier.data.duplicates import keeping, minhash, near, shingles
from luthier.data.duplicates.keeping import Decision, Rows
from luthier.data.duplicates.shingles import Text
from luthier.errors import LuthierError


def measured(texts: Sequence[Text], threshold: float = 0.8) -> near.Measured:
    at = minhash.layout(threshold)
    keys, sketches = minhash.measured(texts, at)
    return near.Measured(lambda: keys, lambda: sketches, at)


def decided(texts: Sequence[Text], threshold: float = 0.8, order: Rows | None = None) -> Decision:
    order = keeping.first(len(texts)) if order is None else order
    return near.decide(measured(texts, threshold), lambda rows: [texts[row] for row in rows], threshold, order)


def plain(*texts: str) -> list[Text]:
    return [Text("", (text,)) for text in texts]


def dropped(texts: Sequence[Text], threshold: float = 0.8) -> list[int]:
    return np.flatnonzero(~decided(texts, threshold).kept).tolist()


def rows_of(source: str) -> list[Text]:
    rng = random.Random(5)
    made = {"made en": english, "made zh": chinese}
    rows = made[source](rng, 700) if source in made else real(source, 1500)
    if not rows:
        pytest.skip("the real rows are absent")
    rows = [row for row in rows if len(row.answers[0]) > 60 and is_plain(row)]
    return [rows[i] for i in np.flatnonzero(decided(rows, 0.4).kept)]


@pytest.mark.parametrize("source", ["made en", "made zh", "en", "zh"])
def test_planted_from_a_half_to_the_same(source: str) -> None:
    rng = random.Random(8)
    rows = rows_of(source)
    copies = [varied(rng, row, rng.choice((0.005, 0.02, 0.04, 0.06, 0.09, 0.13, 0.18))) for row in rows]
    truth = np.array([alike(row, copy) for row, copy in zip(rows, copies, strict=True)])
    decision = decided([*rows, *copies])
    assert decision.kept[: len(rows)].all()
    near_enough = truth >= 0.8
    assert near_enough.sum() > 150 and (truth < 0.8).sum() > 150
    assert (~decision.kept[len(rows) :] == near_enough).all()
    assert (decision.witness[len(rows) :][near_enough] == np.flatnonzero(near_enough)).all()
    assert decision.similarity[len(rows) :][near_enough] == pytest.approx(truth[near_enough], abs=1e-6)


@pytest.mark.parametrize("make", [english, chinese])
def test_chances_follow_the_curve(make) -> None:
    rng = random.Random(3)
    at = minhash.LAYOUTS[0]
    rows = [Text("", row.answers) for row in make(rng, 2000)]
    copies = [varied(rng, row, rng.choice((0.04, 0.055, 0.07, 0.09, 0.12))) for row in rows]
    truth = np.array([alike(row, copy) for row, copy in zip(rows, copies, strict=True)])
    keys, other = minhash.band_keys(rows, at), minhash.band_keys(copies, at)
    found = (keys[:, :-1] == other[:, :-1]).any(axis=1)
    for low in np.arange(0.5, 0.8, 0.05):
        inside = (truth >= low) & (truth < low + 0.05)
        expected = at.chance(truth[inside])
        spread = np.sqrt((expected * (1 - expected)).sum())
        assert inside.sum() > 60
        assert abs(found[inside].sum() - expected.sum()) < 4 * spread + 1


def test_the_curve_by_hand() -> None:
    assert minhash.LAYOUTS[0].chance(0.5) == pytest.approx(1 - (1 - 1 / 32) ** 28)
    assert [chance for _, chance in minhash.curve()][-1] == 1
    assert minhash.layout(0.8) == minhash.Layout(28, 3, 2) and minhash.layout(0.75) == minhash.Layout(31, 2, 2)
    assert minhash.layout(0.4) == minhash.Layout(63, 1, 1)
    with pytest.raises(LuthierError, match=r"threshold from 0\.\d+ to 1"):
        minhash.layout(0.1)


@pytest.mark.parametrize("threshold", [0.4, 0.75])
def test_lower_thresholds_have_layouts_that_find_them(threshold: float) -> None:
    rng = random.Random(2)
    rows = english(rng, 500)
    copies = [varied(rng, row, rng.choice((0.02, 0.08, 0.15, 0.25))) for row in rows]
    truth = np.array([alike(row, copy) for row, copy in zip(rows, copies, strict=True)])
    decision = decided([*rows, *copies], threshold)
    assert (~decision.kept[500:] == (truth >= threshold)).all()


def test_what_differs_in_figures_only_stays() -> None:
    long = "what does it cost to send {} boxes of {} kilograms each from the harbour to the market by cart and boat"
    rng = random.Random(1)
    rows = [
        Text(long.format(rng.randint(2, 99), 3), (f"add them up and it comes to {n} coins in all",)) for n in range(60)
    ]
    signs = [
        Text("Work this out for me, step by step, and say what comes out in the end: 17 - 5", ("It can be done.",)),
        Text("Work this out for me, step by step, and say what comes out in the end: 17 + 5", ("It can be done.",)),
        Text("Work this out for me, step by step, and say what comes out in the end: 1 7 + 5", ("It can be done.",)),
    ]
    signs_zh = [
        Text(f"请一步一步地算出下面这道题的结果，并且把答案写在最后一行：三十个苹果分给{n}个人", ("好",))
        for n in (5, 6)
    ]
    for texts in (rows, signs, signs_zh):
        assert dropped(texts) == []
    same = [Text(text.prompt.upper().replace(" ", "  "), text.answers) for text in rows]
    assert len(dropped([*rows, *same])) == 60


def test_marks_of_lists_are_no_signs_of_arithmetic() -> None:
    bread = "Take these things for a loaf of bread and mix them well in a large bowl:\n- 3 eggs\n- 500 g of flour"
    assert dropped(plain(bread, bread.replace("\n- ", "\n* "), bread.replace("\n- ", "\n"))) == [1, 2]
    assert dropped(plain(f"{bread}: 7 - 3", f"{bread}: 7 * 3", f"{bread}: 7 3")) == []


def test_full_width_figures_are_the_same_figures() -> None:
    assert dropped(plain("第１２章 从这里开始，请仔细阅读", "第12章从这里开始，请仔细阅读")) == [1]


def test_short_texts_do_not_share_an_empty_signature() -> None:
    assert (
        dropped(plain("cat sat", "dog ran", "hello world", "你好", "今天", "?", "!", "…", "", "😀", "😢", "C++", "C"))
        == []
    )
    assert dropped(plain("", "你好", "", "你 好", "!", "cat", "Cat.")) == [2, 3, 6]


def test_prompt_and_answer_both_count() -> None:
    question = "explain in your own words and at some length why the sky over the sea looks blue to us by day " * 3
    texts = [
        Text(question, ("because short waves scatter most",)),
        Text(question, ("nobody has ever found out why",)),
        Text("another question altogether", ("because short waves scatter most",)),
        Text("because short waves scatter most", (question,)),
        Text(question, ("because short waves scatter most", "nobody has ever found out why")),
    ]
    assert dropped(texts) == []


def test_answers_of_other_rank_and_other_labels_are_other_rows() -> None:
    better, worse = "the tide follows the moon around the earth", "the tide follows the fishing boats out to sea"
    texts = [Text("why is there a tide", (better, worse)), Text("why is there a tide", (worse, better))]
    labelled = [Text("why is there a tide", (better,), "good"), Text("why is there a tide", (better,), "bad")]
    assert dropped(texts) == [] and dropped(labelled) == []
    assert dropped([*labelled, labelled[1]]) == [2]


def test_no_chain_drops_what_is_unlike_all_that_stays() -> None:
    rng = random.Random(4)
    texts = english(rng, 1)
    for _ in range(150):
        texts.append(varied(rng, texts[-1], 0.02))
    decision = decided(texts)
    assert 5 < decision.kept.sum() < 75
    for row in np.flatnonzero(~decision.kept):
        witness = int(decision.witness[row])
        assert decision.kept[witness]
        assert alike(texts[row], texts[witness]) == pytest.approx(float(decision.similarity[row]), abs=1e-6)
        assert decision.similarity[row] >= 0.8
    kept = np.flatnonzero(decision.kept)
    for i, one in enumerate(kept):
        for other in kept[i + 1 :]:
            assert alike(texts[one], texts[other]) < 0.8


def test_a_rule_says_which_is_kept() -> None:
    long = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    texts = plain(long, f"{long} sixteen", "quite another thing", f"{long} sixteen.")
    lengths = keeping.highest(np.array([text.size for text in texts]))
    scores = keeping.highest(np.array([0.2, np.nan, 0.1, 0.9]))
    assert decided(texts).witness.tolist() == [-1, 0, -1, 0]
    assert decided(texts, order=lengths).witness.tolist() == [3, 3, -1, -1]
    assert decided(texts, order=scores).witness.tolist() == [3, 3, -1, -1]
    assert keeping.highest(np.array([np.nan, 1.0, 2.0, 1.0, np.nan])).tolist() == [2, 1, 3, 0, 4]


def test_clusters_are_shown_largest_first() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    decision = decided(plain("a b c", text, f"{text} more", "x y z", text, "A b c", f"{text} less"))
    assert [(kept, rows.tolist()) for kept, rows in decision.clusters()] == [(1, [4, 2, 6]), (0, [5])]
    assert len(decision.clusters(1)) == 1
    assert decided(plain("a", "b")).clusters() == []


def test_the_outcome_is_that_of_row_after_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order of keeping, and however the work is cut."""
    rng = random.Random(6)
    rows = english(rng, 25)
    texts = [varied(rng, rng.choice(rows), rng.choice((0.0, 0.01, 0.03, 0.05))) for _ in range(250)]
    order = np.array(rng.sample(range(250), 250))
    decision = decided(texts, order=order)
    kept: list[int] = []
    for row in order.tolist():
        if all(alike(texts[row], texts[other]) < 0.8 for other in kept):
            kept.append(row)
    assert np.flatnonzero(decision.kept).tolist() == sorted(kept)
    from luthier.data.duplicates import units, verifying

    for module, name, value in ((units, "BATCH", 300), (verifying, "HELD", 100), (verifying, "ASKED", 7)):
        monkeypatch.setattr(module, name, value)
    again = decided(texts, order=order)
    assert (again.witness == decision.witness).all() and (again.similarity == decision.similarity).all()


def test_keys_hang_on_the_row_alone_and_may_be_mapped(tmp_path) -> None:
    rows = [*english(random.Random(1), 30), *chinese(random.Random(1), 30)]
    keys = minhash.band_keys(rows)
    alone = np.concatenate([minhash.band_keys([row]) for row in rows])
    assert (keys == alone).all()
    assert keys[0, :3].tolist() == minhash.band_keys(rows[:1])[0, :3].tolist()
    texts = rows + rows
    for name, array in zip(("keys", "sketches"), minhash.measured(texts), strict=True):
        np.save(tmp_path / f"{name}.npy", np.asfortranarray(array))
    opened = [partial(np.load, tmp_path / f"{name}.npy", "r") for name in ("keys", "sketches")]
    mapped = near.Measured(*opened)
    decision = near.decide(mapped, lambda asked: [texts[row] for row in asked], 0.8, keeping.first(120))
    assert decision.kept.tolist() == [True] * 60 + [False] * 60


def test_copies_are_not_read_again() -> None:
    texts = english(random.Random(9), 20) * 50
    asked: list[int] = []

    def reread(rows: Rows) -> list[Text]:
        asked.extend(rows.tolist())
        return [texts[row] for row in rows]

    decision = near.decide(measured(texts), reread, 0.8, keeping.first(len(texts)))
    assert decision.kept.sum() == 20 and asked == []
    assert (decision.similarity[20:] == 1).all()


@pytest.mark.parametrize("at", minhash.LAYOUTS)
def test_sketches_agree_as_often_as_they_are_to(at: minhash.Layout) -> None:
    rng = random.Random(11)
    rows = [*english(rng, 400), *chinese(rng, 400)]
    copies = [varied(rng, row, rng.choice((0.01, 0.04, 0.1, 0.3))) for row in rows]
    truth = np.array([alike(row, copy) for row, copy in zip(rows, copies, strict=True)])
    sketches = [minhash.measured(texts, at)[1] for texts in (rows, copies)]
    differ = (sketches[0] ^ sketches[1]).reshape(len(rows), 2, -1)
    agree = 1 - np.bitwise_count(differ[:, 0] | differ[:, 1]).sum(axis=1) / (at.bands * at.rows)
    middle = (truth > 0.3) & (truth < 0.9)
    assert middle.sum() > 200 and agree[middle].mean() == pytest.approx((1 + 3 * truth[middle]).mean() / 4, rel=0.05)
    for threshold in (0.4, 0.8, 1.0):
        assert minhash.likely(*sketches, at, threshold)[truth >= threshold].all()
    assert minhash.likely(*sketches, at, 0.8)[truth < 0.4].mean() < 0.1


def test_most_that_share_a_key_and_are_unlike_are_not_read_again() -> None:
    rng = random.Random(4)
    rows = english(rng, 1500)
    texts = [*rows, *(varied(rng, row, 0.25) for row in rows)]  # about 0.3 alike
    asked: list[int] = []

    def reread(wanted: Rows) -> list[Text]:
        asked.extend(wanted.tolist())
        return [texts[row] for row in wanted]

    decision = near.decide(measured(texts), reread, 0.8, keeping.first(len(texts)))
    buckets = [len(column) - len(np.unique(column)) for column in minhash.band_keys(texts)[:, :-1].T]
    assert decision.kept.all() and sum(buckets) > 50 and len(asked) < 0.4 * sum(buckets)


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_rows(count: int) -> None:
    assert decided(plain("a b c")[:count]).kept.tolist() == [True] * count


def test_shingles_do_not_cross_from_prompt_to_answer() -> None:
    a, b = Text("one two three", ("four five six",)), Text("four five six", ("one two three four",))
    made = shingles.of([a, b])
    assert np.diff(made.starts).tolist() == [2, 3]
    assert not set(made.hashes[:2].tolist()) & set(made.hashes[2:].tolist())


def test_the_table_of_the_documents_is_the_curve() -> None:
    text = (Path(__file__).parents[4] / "docs/duplicates.md").read_text(encoding="utf-8")
    similarities = np.arange(0.5, 0.96, 0.05)
    for at in minhash.LAYOUTS:
        chances = " | ".join(f"{at.chance(s):.3f}" for s in similarities)
        assert f"| {at.bands} bands of {at.rows} | {chances} |" in text
