"""Test items are found in rows, however spaced and written; short answers and how tests are worded are not."""

from __future__ import annotations

import csv
import json
import random

import pytest
from planted import DATA, chinese, english, real

from luthier.data.duplicates import contamination
from luthier.data.duplicates.contamination import Index, Item, Leaks
from luthier.data.duplicates.shingles import Text
from luthier.errors import LuthierError

LONG = "A train leaves the old station at nine and travels for three hours; how far has it come by noon, at most?"
ZH = "小明有三个苹果，小红给了他两个苹果，请问小明现在一共有多少个苹果？"


def found(items: list[Item], *texts: Text) -> list[tuple[int, int]]:
    return [(hit.row, hit.item) for hit in Index(items).search(texts)]


def otherwise(text: str) -> str:
    """The same words in other spacing, case and punctuation."""
    return (
        text.upper()
        .replace(", ", " --\n\n")
        .replace(" ", "   ")
        .replace("?", " !!")
        .replace("，", "\n")
        .replace("？", " ")
    )


@pytest.mark.parametrize("question", [LONG, ZH, "Who wrote the Iliad and when?"])
def test_other_spacing_case_and_punctuation(question: str) -> None:
    items = [
        Item("test:1", "What else is there to be asked about on such a fine day as this?"),
        Item("test:2", question),
    ]
    plain = Text("tell me", ("nothing",))
    for asked in (question, otherwise(question)):
        assert found(items, plain, Text(asked, ("so far",)), plain) == [(1, 1)]
        assert found(items, Text("Here is some text. " + asked + " And more of it.", ("so far",))) == [(0, 1)]
        assert found(items, Text("say a question", (asked,)), plain) == [(0, 1)]


def test_chinese_by_signs_with_other_spaces() -> None:
    spread = " ".join(ZH)
    assert found([Item("t:1", ZH)], Text("背景：" + spread, ("五个",))) == [(0, 0)]
    assert found([Item("t:1", ZH)], Text(ZH[:12], ("五个",))) == []
    assert found([Item("t:1", ZH)], Text(ZH[5:22], ("五个",))) == [(0, 0)]


def test_thirteen_words_are_enough_and_twelve_are_not() -> None:
    words = LONG.split()
    assert found([Item("t:1", LONG)], Text(" ".join(words[2:15]))) == [(0, 0)]
    assert found([Item("t:1", LONG)], Text(" ".join(words[2:14]))) == []
    assert found([Item("t:1", LONG)], Text(" ".join(words[2:9]), (" ".join(words[9:15]),))) == [(0, 0)]


def test_an_answer_alone_never_counts() -> None:
    answer = "the answer to all of it is that nobody knows, or ever will, how far trains have come by noon"
    items = [Item("t:1", LONG, answer), Item("t:2", "Is it far?", "Yes"), Item("t:3", "Pick one", "B")]
    assert found(items, Text("say something", (answer,)), Text("B", ("B",)), Text("say", ("Yes",))) == []


def test_short_questions_need_their_answer_or_a_row_that_asks_nothing_else() -> None:
    items = [Item("t:1", "What is the capital of France?", "Paris"), Item("t:2", "Hi there!", "Hello.")]
    told = "Answer this. what is the capital of france - I wonder"
    assert found(items, Text(told, ("It is Paris.",))) == [(0, 0)]
    assert found(items, Text(told, ("I do not know.",))) == []
    assert found(items, Text("what is the capital of France", ("I do not know.",))) == [(0, 0)]
    assert found(items, Text("hi there", ("hello",)), Text("Hi there", ("hey",)), Text("hi there you", ("hello",))) == [
        (0, 1)
    ]


def test_how_a_test_is_worded_is_no_leak() -> None:
    frame = "Choose the right one of the four answers below and give its letter and nothing else. "
    rng = random.Random(1)
    items = [
        Item(f"t:{i}", frame + text.answers[0] + " A yes B no C both D none") for i, text in enumerate(english(rng, 40))
    ]
    asked = Text(frame + "Is water wet? A yes B no C both D none", ("A",))
    assert found(items, asked) == []
    assert found(items, Text(items[7].question, ("A",))) == [(0, 7)]


def test_an_order_before_each_question_is_no_leak_however_the_question_goes_on() -> None:
    order = "Prove this in the language of Coq. Answer with the tactics only."
    things = (
        "rivers",
        "stones",
        "clouds",
        "houses",
        "birds",
        "boats",
        "trees",
        "roads",
        "hills",
        "lamps",
        "coins",
        "doors",
    )
    items = [Item(f"t:{n}", f"{order} For all {' '.join(things[n:] + things[:n])}.") for n in range(len(things))]
    other = f"{order} For all rivers that flow east there is a sea, and no sea flows."
    assert found(items, Text(other), Text(items[3].question)) == [(1, 3)]


def test_other_signs_between_the_words_make_another_question() -> None:
    plus = "Show for all numbers a, b, c of the ring R: a + b + c = c + b + a = b + a + c"
    assert found([Item("t:1", plus)], Text(plus.replace("+", "*")), Text(plus.upper().replace(" ", "  "))) == [(1, 0)]


def test_what_cannot_be_searched_for_is_told() -> None:
    index = Index([Item("t:1", "?!"), Item("t:2", LONG), *(Item(f"u:{i}", "Say it all again then") for i in range(11))])
    assert index.unsearchable == (0, *range(2, 13))
    assert Index([]).search([Text("a")]) == [] and Index([Item("t:1", LONG)]).search([]) == []


def test_the_item_and_the_words_in_common_are_reported() -> None:
    row = Text("Note. " + LONG.upper(), ("far",))
    (hit,) = Index([Item("t:1", LONG)]).search([row])
    assert hit.text == "A TRAIN LEAVES THE OLD STATION AT NINE AND TRAVELS FOR THREE HOURS;"


def test_a_share_above_which_it_is_an_error() -> None:
    index = Index([Item("gsm:1", LONG), Item("gsm:2", ZH)])
    leaks = Leaks(index, rows=3)
    leaks.add(["a.json:1", "a.json:2"], index.search([Text("no"), Text(LONG)]))
    leaks.add(["a.json:3"], index.search([Text(LONG)]))
    assert (leaks.rows, leaks.hit, leaks.items, leaks.share) == (3, 2, {0: "a.json:2"}, 0.5)
    leaks.check(0.5)
    with pytest.raises(LuthierError, match=r"a.json:2: 1 of 2 test items \(50.0%\).*the first is gsm:1"):
        leaks.check(0.4)
    Leaks(index).check(0.0)


def test_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(2)
    rows = [*english(rng, 40), *chinese(rng, 40)]
    items = [Item(f"t:{i}", rows[i].answers[0][:150]) for i in range(0, 80, 3)]
    index = Index(items)
    hits = index.search(rows)
    assert [hit.row for hit in hits] == list(range(0, 80, 3))
    monkeypatch.setattr(contamination.units, "BATCH", 200)
    assert index.search(rows) == hits


def test_real_tests_planted_in_real_rows() -> None:
    rows = real("en", 3000)
    file = DATA / "gsm8k/test.jsonl"
    if not rows or not file.exists():
        pytest.skip("the real rows are absent")
    asked = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    items = [Item(f"gsm8k:{i}", one["question"], one["answer"].split("####")[1]) for i, one in enumerate(asked)]
    for path in sorted((DATA / "mmlu/test").glob("*.csv"))[:10]:
        with path.open(encoding="utf-8") as lines:
            items += [
                Item(f"{path.name}:{i}", "\n".join(line[:5]), line[5]) for i, line in enumerate(csv.reader(lines))
            ]
    index = Index(items)
    assert len({hit.row for hit in index.search(rows)}) <= 3
    leaked = [Text(otherwise(one["question"]), (one["answer"],)) for one in asked]
    assert {(hit.row, hit.item) for hit in index.search(leaked)} >= {(i, i) for i in range(len(asked))}
