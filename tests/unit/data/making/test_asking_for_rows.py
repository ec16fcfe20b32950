"""What is asked of a model, how its answers are read, and what of them is counted."""

from pathlib import Path

import pytest
from making import asked, history, said, text, worked
from scripted import Scripted, place_of

from luthier.data.curation.lines import MADE, line, read
from luthier.data.steps.making import reading
from luthier.data.steps.making.faults import refuses
from luthier.data.steps.making.overlap import alike, common, numbers, rouge_l, units
from luthier.data.steps.making.prompts import language_of, phrase
from luthier.errors import LuthierError
from luthier.types import Request


def overlap(a: str, b: str) -> float:
    return rouge_l(units(a), units(b))


def test_overlap_is_worked_out_by_hand_in_both_languages():
    assert overlap("你好世界", "你好世界") == 1
    assert overlap("你好世界", "你好地球") == 2 * 2 / 8
    assert overlap("the cat sat on the mat", "the cat lay on a mat") == pytest.approx(2 * 4 / 12)
    assert overlap("A, b!", "a B") == 1 and overlap("", "") == 0 and overlap("天气很好", "hello there") == 0
    assert overlap("👩‍👩‍👧", "👩‍👩‍👧") == 1
    assert common("abcbdab", "bdcaba") == 4, "the textbook's"
    assert common("x" * 200, "yx" * 100) == 100
    assert alike(units("你好世界"), [units("再见"), units("你好，世界！")], 0.7) == 1
    assert alike(units("one"), [units("one two three four five six")], 0.7) is None
    assert numbers("在２０２４年，3.5 and 12") == sorted(["2024", "3", "5", "12"])


@pytest.mark.parametrize(
    ("answer", "is_one"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("I cannot assist with this request.", True),
        ("As an AI language model, I do not have opinions.", True),
        ("Unfortunately, I am unable to provide that.", True),
        ("很抱歉，我无法回答这个问题。", True),
        ("作为一个人工智能语言模型，我不能提供医疗建议。", True),
        ("I can help you with that: take the train.", False),
        ("Sorry to hear that. Rest, and drink some water.", False),
        ("He said: I cannot help you.", False),
        ("I cannot recommend this book highly enough.", False),
        ("我们不能忘记历史。", False),
        ("对不起的英文是 sorry。", False),
    ],
)
def test_refusals_are_told_from_answers(answer: str, is_one: bool):
    assert refuses(answer) is is_one


def test_answers_in_a_form_are_read_and_never_guessed():
    assert reading.score("It is fine. Score: 4", 1, 5) == 4 and reading.score("理由。\n分数：3分", 1, 5) == 3
    assert reading.score("**Score: 4/5**", 1, 5) == 4 and reading.score("4", 1, 5) == 4
    assert reading.score("Score: 9", 1, 5) is None and reading.score("I would say 4 or 5", 1, 5) is None
    assert reading.yes("Yes.", "en") is True and reading.yes("不是", "zh") is False and reading.yes("是", "zh") is True
    assert reading.yes("nobody knows", "en") is None and reading.yes("Perhaps", "en") is None
    assert reading.letter(" (b). ") == "B" and reading.letter("Answer A") == "A" and reading.letter("Both") is None
    assert (
        reading.listed("Sure:\n7. Name a bird.\n8) Sing") == ["Name a bird.", "Sing"] and reading.listed("no") is None
    )
    assert reading.pairs("Q: Who?\nA: Ann\n\n问：几岁？\n答：七岁") == [("Who?", "Ann"), ("几岁？", "七岁")]
    assert reading.instance("Input: none\nOutput: x\ny", "en") == ("", "x\ny")
    assert (
        reading.instance("输出：好\n输入：天气", "zh") == ("天气", "好") and reading.instance("Output: x", "en") is None
    )


def test_prompts_are_there_in_both_languages_with_the_same_gaps():
    def gaps(found: object) -> object:
        if isinstance(found, dict):
            return {key: gaps(value) for key, value in found.items()}
        return sorted(part.split("}")[0] for part in str(found).split("{")[1:])

    for name in ("evolve", "backtranslate", "rewrite", "round_trip", "questions", "pairs", "roleplay", "self_instruct"):
        assert gaps(phrase(name, "en")) == gaps(phrase(name, "zh"))
    assert (
        language_of("请解释 HTTP 协议", "auto") == "zh" and language_of("What does 茶 mean in English?", "auto") == "en"
    )


def test_what_cannot_be_read_is_asked_again_twice_and_then_left_out_with_a_reason(tmp_path: Path):
    told = iter(["four", "", "It is good. Score: 4", "four", "five", "six"])
    model = Scripted({"backtranslate.write": lambda _: "Tell me of it.", "backtranslate.score": lambda _: next(told)})
    ((rows, notes),) = worked("backtranslate", [text("Water boils at one hundred degrees.")], model, tmp_path / "a")
    assert history(rows[0])["score"] == 4 and notes == [] and model.asked["backtranslate.score.en"] == 3
    assert len({one.sampling.seed for one in model.requests if "score" in place_of(one.turns[-1].text)}) == 3
    ((why, notes),) = worked("backtranslate", [text("Water boils at one hundred degrees.")], model, tmp_path / "b")
    assert why == "a score: it is not in the form that was asked for" and len(notes) == 1
    assert model.asked["backtranslate.score.en"] == 6


def test_refused_cut_held_back_and_empty_answers_are_counted(tmp_path: Path):
    ends = {
        "one": ("I'm sorry, I can't help.", "stop"),
        "two": ("It", "length"),
        "three": ("", "stop"),
        "four": ("It", "filtered"),
    }

    def answer(request: Request) -> tuple[str, str]:
        return ends[request.turns[-1].text.split()[-1]]

    model = Scripted(
        {"evolve.frame": lambda r: f"Tell me all about it, {r.turns[-1].text.split()[-3]}", "answer": answer}
    )
    rows = [asked(f"Count {word}", "x", row) for row, word in enumerate(ends, 1)]
    found = worked("evolve", rows, model, tmp_path, compare=False)
    assert [notes for _, notes in found] == [
        ["an answer: it refuses"], ["an answer: it was cut off"], ["an answer: it is empty"],
        ["an answer: it was held back by a filter"],
    ]  # fmt: skip
    assert [made for made, _ in found] == [[row] for row in rows] and all(
        a[0] is b for (a, _), b in zip(found, rows, strict=True)
    )
    assert model.asked["answer"] == 1 + 1 + 3 + 1, "what is empty is asked for again"


def test_what_is_longer_than_the_model_reads_is_not_asked(tmp_path: Path):
    model = Scripted(context=1200)
    found = worked(
        "evolve", [asked("x " * 2000, "y"), asked("Why?", "y")], model, tmp_path, max_new_tokens=100, compare=False
    )
    assert found[0][1] == ["a question: the prompt is longer than the model reads"] and len(found[1][0]) == 2


def test_enough_is_enough_and_made_rows_know_where_they_come_from(tmp_path: Path):
    model = Scripted()
    rows = [asked(f"Question {n}?", "Answer.", n) for n in range(1, 200)]
    found = worked("evolve", rows, model, tmp_path, until=70, compare=False, model="m")
    assert sum(len(made) - 1 for made, _ in found) == 70 and model.asked["answer"] <= 80
    assert [made[0] for made, _ in found] == rows
    new = found[3][0][1]
    told = history(new)
    assert told["from"] == "a.jsonl:4" and told["by"] == "evolve" and told["model"] == "m"
    assert told["prompt"].startswith("evolve.") and ".en@" in told["prompt"]
    assert read(line(new)).meta[MADE] == told and said(read(line(new))) == said(new)


def test_a_budget_ends_it(tmp_path: Path):
    rows = [asked(f"Question {n}?", "Answer.", n) for n in range(1, 9)]
    with pytest.raises(LuthierError, match="evolve: its budget of 10 calls is used up"):
        worked("evolve", rows, Scripted(), tmp_path, compare=False, budget={"calls": 10})
    with pytest.raises(LuthierError, match="cals"):
        worked("evolve", rows, Scripted(), tmp_path, budget={"cals": 10})
