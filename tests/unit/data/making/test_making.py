"""The rows that steps make, worked by hand with a model that answers by rules."""

from pathlib import Path
from typing import Any

import pytest
from curated import curated, tools, write
from making import asked, history, said, text, worked
from scripted import Scripted, numbered, texts

from luthier.data.curation.calls import Calls
from luthier.data.steps import STEPS
from luthier.data.steps.making.questions import stands_in
from luthier.data.steps.tools import Tools
from luthier.errors import LuthierError
from luthier.types import Request


def last(request: Request) -> str:
    return request.turns[-1].text


def test_evolving_goes_on_from_what_was_accepted(tmp_path: Path):
    def harder(request: Request) -> str:
        (inner,) = texts(last(request))
        return {"Why?": "Why is it so at night?", "Why is it so at night?": "Rewrite the new request"}.get(inner, "?")

    model = Scripted({"evolve.frame": harder, "answer": lambda r: f"For {last(r)}"})
    ((rows, notes),) = worked("evolve", [asked("Why?", "So.")], model, tmp_path, rounds=3)
    assert [said(row) for row in rows] == [("Why?", "So."), ("Why is it so at night?", "For Why is it so at night?")]
    assert notes == ["a question: it speaks of its orders"] * 2 and history(rows[1])["round"] == 1


def test_evolved_questions_that_add_nothing_or_are_not_answered_go(tmp_path: Path):
    answers = {
        "One more?": "Sorry, no idea.",
        "Two more?": "it is, and the",
        "Three more?": "抱歉。",
        "Four more?": "Yes: Rome.",
    }
    for question, why in {
        "Why?": "a question: it asks for the same", "One more?": "an answer: it is sorry, and says little else",
        "Two more?": "an answer: it has no word that says something",
        "Three more?": "an answer: it is sorry, and says little else",
        "Four more?": None, "Five more?": "a question: it asks for the same",
    }.items():  # fmt: skip
        model = Scripted(
            {
                "evolve.frame": lambda _, question=question: question,
                "evolve.compare": lambda r: "Yes" if "Five" in last(r) else "No",
                "answer": lambda r: answers[last(r)],
            }
        )
        ((rows, notes),) = worked("evolve", [asked("Why?", "So.")], model, tmp_path / question[:3])
        assert notes == ([why] if why else []) and len(rows) == (1 if why else 2)


def test_back_translation_keeps_by_score_and_tries_another_question(tmp_path: Path):
    marks = {"Tell of tea.": 3, "How is tea made?": 4}
    told = iter(marks)
    model = Scripted(
        {
            "backtranslate.write": lambda _: next(told),
            "backtranslate.score": lambda r: f"So. Score: {marks[texts(last(r))[0]]}",
        }
    )
    ((rows, notes),) = worked("backtranslate", [text(" Leaves are poured over. ")], model, tmp_path, rounds=3)
    assert [said(row) for row in rows] == [("How is tea made?", "Leaves are poured over.")]
    assert notes == ["a question: it scores less than 4"] and history(rows[0])["score"] == 4
    assert history(rows[0])["round"] == 2 and sum(model.asked.values()) == 4
    copied = Scripted({"backtranslate.write": lambda _: "Leaves are poured"})
    ((why, _),) = worked("backtranslate", [text("Leaves are poured over.")], copied, tmp_path / "b")
    assert why == "a question: it is copied from the text"


def test_questions_have_answers_that_stand_in_the_passage(tmp_path: Path):
    passage = "The Danube flows through ten countries, from the Black Forest to the Black  Sea. It is 2850 km long."
    told = (
        "Q: Where does the Danube end?\nA: the black sea.\nQ: How long is it?\nA: 285\nQ: Where is its end?\n"
        "A: in the Atlantic\nQ: Is it 2850 km long?\nA: 2850 km\nQ: Where does the Danube end, please?\nA: Black Sea"
    )
    ((rows, notes),) = worked(
        "questions", [text(passage)], Scripted({"questions.write": lambda _: told}), tmp_path, count=9
    )
    assert [said(row) for row in rows] == [("Where does the Danube end?", "the black sea.")]
    assert rows[0].answer == "the black sea." and history(rows[0])["passage"] == passage
    assert sorted(notes) == sorted(
        ["an answer: it does not stand in the passage"] * 2
        + ["a question: it says its own answer", "a question: it asks for the same"]
    )
    zh = Scripted({"questions.write": lambda _: "问：长江流入哪里？\n答：东海"})
    ((rows, _),) = worked("questions", [text("长江流入 东海。")], zh, tmp_path / "zh", passage=True)
    assert said(rows[0]) == ("长江流入 东海。\n\n长江流入哪里？", "东海")
    assert stands_in("10", "at 10%") and not stands_in("1", "at 10%") and not stands_in("cat", "concatenate")
    assert stands_in("海洋", "在海洋里") and not stands_in("!", "Oh!")


def test_pairs_are_the_best_and_the_worst_that_the_judge_finds_so_in_both_orders(tmp_path: Path):
    words = ["poor", "fine", "good", "odd"]
    points = {"poor": "Score: 2", "fine": "Score: 5", "good": "Score: 9", "odd": "who knows"}

    def model(**rules: Any) -> Scripted:
        told = iter(words)
        usual = {"answer": lambda _: next(told), "pairs.score": lambda r: points[texts(last(r))[1]]}
        return Scripted({**usual, "pairs.compare": lambda r: "A" if texts(last(r))[1] == "good" else "B", **rules})

    ((rows, notes),) = worked("pairs", [asked("How?", "So.")], model(), tmp_path / "a")
    (row,) = rows
    assert [(one.turns[0].text, one.reward) for one in row.responses] == [("good", 1.0), ("poor", 0.0)]
    assert row.meta["margin"] == 7 and history(row)["scores"] == [9, 2] and history(row)["of"] == 3
    assert notes == ["a score: it is not in the form that was asked for"]
    first = model(**{"pairs.compare": lambda _: "A"})
    ((why, _),) = worked("pairs", [asked("How?")], first, tmp_path / "b")
    assert why in ("the judge does not prefer the better one in both orders", notes[0])
    alike = model(**{"pairs.score": lambda _: "Score: 7"})
    ((why, _),) = worked("pairs", [asked("How?")], alike, tmp_path / "c")
    assert why == "its answers are about equally good" and not alike.asked["pairs.compare.en"]
    ((why, _),) = worked("pairs", [asked("How?")], Scripted({"answer": lambda _: "Same."}), tmp_path / "d")
    assert why == "there are no two answers to compare"


def test_pairs_by_a_scorer_ask_for_answers_alone(tmp_path: Path):
    told = iter(["xx", "x", "xxx"])
    scripted = Scripted({"answer": lambda _: next(told)})

    def by_length(example: object, response: Any) -> float:
        return len(response.turns[0].text) / 10

    given = Tools(0, lambda named: scripted, lambda named: by_length, Calls(tmp_path))  # type: ignore[arg-type,return-value]
    step = STEPS.build("pairs", {"samples": 3, "by": "brief"}).ready(given)
    (made,) = step.apply(asked("How?"), given)
    assert [one.turns[0].text for one in made.responses] == ["xxx", "x"] and dict(scripted.asked) == {"answer": 3}


def test_what_is_rewritten_keeps_its_figures(tmp_path: Path):
    told = {
        "It is 4 km, and steep.": "Well, 4 km it is, uphill!",
        "It takes 20 minutes.": "It takes half an hour.",
        "Yes.": "Yes.",
    }
    model = Scripted({"rewrite.answer": lambda r: told[texts(last(r))[0]]})
    rows = [asked("How far?", answer, row) for row, answer in enumerate(told, 1)]
    found = worked("rewrite", rows, model, tmp_path, tone="friendly")
    assert (
        said(found[0][0][1]) == ("How far?", "Well, 4 km it is, uphill!") and history(found[0][0][1])["of"] == "answer"
    )
    assert [notes for _, notes in found] == [[], ["a text: its figures are others"], ["a text: it says the same words"]]
    assert all("friendly" in last(one) for one in model.requests)
    story = Scripted({"rewrite.question": lambda _: "I am 12 and walk to school. How far is 5 km on foot?"})
    ((made, _),) = worked("rewrite", [asked("How far is 5 km?", "An hour.")], story, tmp_path / "b", context=True)
    assert said(made[1]) == ("I am 12 and walk to school. How far is 5 km on foot?", "An hour.")
    with pytest.raises(LuthierError, match="nothing says how to write"):
        STEPS.build("rewrite", {})


def test_a_round_trip_goes_through_all_languages_and_home(tmp_path: Path):
    way = {"How old is he?": "Wie alt ist er?", "Wie alt ist er?": "他多大？", "他多大？": "What is his age?"}
    model = Scripted({"round_trip.translate": lambda r: way[texts(last(r))[0]]})
    ((rows, notes),) = worked(
        "round_trip", [asked("How old is he?", "Six.")], model, tmp_path, through=["German", "Chinese"]
    )
    assert [said(row) for row in rows] == [("How old is he?", "Six."), ("What is his age?", "Six.")] and not notes
    targets = [
        next(name for name in ("German", "Chinese", "English") if f"into {name}" in last(one)) for one in model.requests
    ]
    assert targets == ["German", "Chinese", "English"]


def test_synonyms_come_from_the_table_and_leave_code_alone(tmp_path: Path):
    table = tmp_path / "words.tsv"
    table.write_text("# words\nbig\tlarge\n茶\t茗\n红茶\t锡兰红茶\n", encoding="utf-8")
    given = Tools(0)
    step = STEPS.build("synonyms", {"table": str(table), "share": 1.0}).ready(given)
    assert said(step.apply(asked("Big bigger `big` big?", "x"), given)[1])[0] == "Large bigger `big` large?"
    assert said(step.apply(asked("喝红茶还是喝茶？", "x"), given)[1])[0] == "喝锡兰红茶还是喝茗？"
    assert step.apply(asked("Nothing here", "x"), given).notes == ("no word of it is in the table",)
    table.write_text("big\t\n", encoding="utf-8")
    with pytest.raises(LuthierError, match=r"words.tsv:1: .*no other"):
        STEPS.build("synonyms", {"table": str(table)}).ready(given)
    with pytest.raises(LuthierError, match=r"none.tsv: .*cannot be read"):
        STEPS.build("synonyms", {"table": str(tmp_path / "none.tsv")}).ready(given)


def test_two_roles_talk_until_it_is_done(tmp_path: Path):
    steps = ["Knead the dough.", "Let it rest.", "<DONE>"]
    model = Scripted(
        {
            "roleplay.user": lambda _: steps[0],
            "roleplay.assistant": lambda _: "It is kneaded for ten minutes.",
            "answer": lambda r: steps[len(r.turns) // 2] if last(r).startswith("It ") else "It rests for an hour now.",
        }
    )
    ((rows, notes),) = worked("roleplay", [asked("Bake bread.")], model, tmp_path, user="a baker", originals=False)
    (row,) = rows
    assert [turn.text for turn in row.prompt] == ["Knead the dough.", "It is kneaded for ten minutes.", "Let it rest."]
    assert [turn.role for turn in row.prompt] == ["user", "assistant", "user"]
    assert row.responses[0].turns[0].text == "It rests for an hour now."
    assert notes == ["a conversation ended: it was done"] and history(row)["roles"]["user"] == "a baker"
    assert all("a baker" in one.turns[0].text for one in model.requests)


@pytest.mark.parametrize(
    ("rules", "why"),
    [
        ({"roleplay.user": lambda _: "<DONE>"}, "it was done"),
        ({"roleplay.assistant": lambda _: "Do it now, all of it."}, "an answer was said again"),
        (
            {"roleplay.user": lambda _: "Thank you!", "roleplay.assistant": lambda _: "You're welcome."},
            "both said thanks",
        ),
        ({"roleplay.assistant": lambda _: "I'm sorry, I can't do that."}, "an answer: it refuses"),
    ],
)
def test_a_talk_that_leads_nowhere_makes_no_row(rules: dict[str, Any], why: str, tmp_path: Path):
    model = Scripted({"roleplay.user": lambda _: "Do it now, all of it.", **rules})
    ((found, notes),) = worked("roleplay", [asked("Bake.")], model, tmp_path)
    assert len(found) == 1 and notes == [f"a conversation ended: {why}", "a conversation has fewer than 2 turns"]


def test_new_tasks_are_unlike_the_known_ones_and_worked_out(tmp_path: Path):
    seeds = [asked(f"Tell me about {numbered(str(n))}", "So.", n) for n in range(1, 9)]
    lists = {
        0: "9. Explain why the sky is blue\n10. Explain why the sky is so blue\n11. Draw a picture of a cat\n12. Hi\n"
        "13. Is the mood of this message good or bad?",
        1: "9. 写一首关于秋天的短诗",
    }
    given: list[int] = []

    def write(_: Request) -> str:
        given.append(1)
        return lists[0 if len(given) <= 16 else 1]

    model = Scripted(
        {
            "self_instruct.write": write,
            "self_instruct.classify": lambda r: "yes" if "mood" in last(r) else "否" if "诗" in last(r) else "no",
            "self_instruct.instance": lambda _: "Input: none\nOutput: It scatters.",
            "self_instruct.labelled": lambda r: (
                f"Output: good\nInput: What a {last(r).split('be the ')[1].split()[0]} day"
            ),
        }
    )
    found = worked("self_instruct", seeds, model, tmp_path, until=5)
    made = [row for rows, _ in found for row in rows[1:]]
    assert [rows[0] for rows, _ in found] == seeds
    questions = [said(row)[0] for row in made]
    assert "Explain why the sky is blue" in questions and "写一首关于秋天的短诗" in questions
    assert sum("mood" in one for one in questions) == 3 == len({one for one in questions if "mood" in one})
    assert len(made) == 5
    notes = [note for _, told in found for note in told]
    assert notes.count("a task: it cannot be done in words") == 16 and "a task: it is too short" in notes
    assert "a task: it is like a known one" in notes
    told = history(next(row for row in made if "sky" in said(row)[0]))
    assert (
        len(told["from"]) == 6
        and set(told["from"]) <= {f"a.jsonl:{n}" for n in range(1, 9)}
        and len(told["prompt"]) == 2
    )


def test_without_new_tasks_it_ends_and_says_so(tmp_path: Path):
    seeds = [asked(f"Tell me about {numbered(str(n))}", "So.", n) for n in range(1, 3)]
    model = Scripted({"self_instruct.write": lambda _: f"3. {said(seeds[0])[0]}"})
    found = worked("self_instruct", seeds, model, tmp_path, until=5)
    assert [len(rows) for rows, _ in found] == [1, 1] and model.asked["self_instruct.write.en"] == 5 * 16
    assert "only 0 of 5 rows: no new task came any more" in found[0][1]


def test_other_steps_go_on_with_what_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    paths = write(tmp_path / "rows", "english", "chinese")
    steps: list[Any] = [
        {"length": {"min": 1}},
        {"evolve": {"until": 3, "compare": False}},
        "exact",
        {"sample": {"n": 4}},
    ]
    made = curated(paths, *steps)
    told = [(one.name, one.seen, one.made, one.dropped) for one in made.ledger.steps]
    # of equal rows equal ones are made: the first and the third are
    assert told == [("length", 5, 0, 0), ("evolve", 5, 3, 0), ("exact", 8, 0, 2), ("sample", 6, 0, 2)]
    assert len(list(made.examples())) == 4
    tally = made.ledger.sources[paths[0]]
    assert (tally.read, tally.made) == (3, 3) and sum(one.dropped for one in made.ledger.sources.values()) == 4
    again = curated(paths, *steps[:-1], {"sample": {"n": 2}})
    assert len(again) == 2 and again.ledger.steps[1].made == 3


def test_where_everything_scores_low_nothing_is_left_and_that_is_no_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    low = Scripted({"backtranslate.score": lambda _: "Score: 1"})
    made = curated(write(tmp_path / "rows", "texts"), "backtranslate", tools=tools(0, low), allow_drop=0.5)
    assert len(made) == 0 and list(made.ledger.steps[0].reasons) == ["a question: it scores less than 4"]
