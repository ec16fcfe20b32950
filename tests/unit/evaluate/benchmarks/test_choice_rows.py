"""Multiple choice: hand-made rows in their published columns, and the very prompts that must come of them."""

import csv
import json
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks import BENCHMARKS
from luthier.types import Example


def lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def table(path: Path, *rows: list[str], separator: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)


def rows(name: str, path: Path, **keys: object) -> list[Example]:
    return BENCHMARKS.build(name, {"path": str(path), **keys}).rows(lambda _: None)


def asked(row: Example) -> str:
    (turn,) = row.prompt
    assert turn.role == "text"
    return turn.text


def choices(row: Example) -> list[str]:
    return [response.turns[0].text for response in row.responses]


def test_mmlu_puts_the_first_shots_of_the_subject_before_each_question(tmp_path: Path) -> None:
    table(tmp_path / "test" / "high_school_physics_test.csv", [" What falls? ", "a", "b", "c", "d", "C"])
    shots = [[f"shot {n}", "w", "x", "y", "z", "ABCD"[n]] for n in range(3)]
    table(tmp_path / "dev" / "high_school_physics_dev.csv", *shots)
    (row,) = rows("mmlu", tmp_path, shots=2)
    assert asked(row) == (
        "The following are multiple choice questions (with answers) about high school physics.\n\n"
        "shot 0\nA. w\nB. x\nC. y\nD. z\nAnswer: A\n\n"
        "shot 1\nA. w\nB. x\nC. y\nD. z\nAnswer: B\n\n"
        "What falls?\nA. a\nB. b\nC. c\nD. d\nAnswer:"
    )
    assert choices(row) == [" A", " B", " C", " D"] and row.meta["gold"] == (2,) and row.answer == "C"
    assert (row.meta["subject"], row.meta["field"]) == ("high_school_physics", "stem")
    (chat,) = rows("mmlu", tmp_path, shots=1, template=True)
    assert [turn.role for turn in chat.prompt] == ["system", "user", "assistant", "user"]
    assert chat.prompt[2].text == "A" and choices(chat) == ["A", "B", "C", "D"]
    (whole,) = rows("mmlu", tmp_path, shots=0, letters=False)
    assert asked(whole).endswith("What falls?\nAnswer:") and choices(whole) == [" a", " b", " c", " d"]


def test_limit_takes_from_all_subjects_by_seed(tmp_path: Path) -> None:
    for subject, count in (("anatomy", 40), ("law", 5), ("virology", 40)):
        table(tmp_path / "test" / f"{subject}_test.csv", *([f"{n}", "a", "b", "c", "d", "A"] for n in range(count)))
    table(tmp_path / "dev" / "anatomy_dev.csv", ["q", "a", "b", "c", "d", "A"])
    taken = rows("mmlu", tmp_path, shots=0, limit=21)
    counts = {name: sum(row.meta["subject"] == name for row in taken) for name in ("anatomy", "law", "virology")}
    assert counts == {"anatomy": 8, "law": 5, "virology": 8}
    again, other = rows("mmlu", tmp_path, shots=0, limit=21), rows("mmlu", tmp_path, shots=0, limit=21, seed=1)
    assert [str(row.source) for row in again] == [str(row.source) for row in taken]
    assert [str(row.source) for row in other] != [str(row.source) for row in taken]


def test_faults_name_file_and_row(tmp_path: Path) -> None:
    table(tmp_path / "test" / "law_test.csv", ["q", "a", "b", "c", "d", "E"])
    with pytest.raises(LuthierError, match=r"law_test\.csv:1: MMLU: the answer is 'E'"):
        rows("mmlu", tmp_path)
    with pytest.raises(LuthierError, match="no subject 'lwa'") as raised:
        table(tmp_path / "test" / "law_test.csv", ["q", "a", "b", "c", "d", "A"])
        rows("mmlu", tmp_path, subjects=["lwa"])
    assert "'law'" in str(raised.value)
    with pytest.raises(LuthierError, match="no file of the split 'dev'"):
        rows("mmlu", tmp_path)
    with pytest.raises(LuthierError, match="no such file or folder"):
        rows("piqa", tmp_path / "nowhere")
    lines(tmp_path / "p" / "valid.jsonl", {"goal": "g"})
    with pytest.raises(LuthierError, match="no file of the split 'validation' or 'val' or 'dev'"):
        rows("piqa", tmp_path / "p")


def test_cmmlu_and_ceval_name_their_subjects_in_chinese(tmp_path: Path) -> None:
    header = ["", "Question", "A", "B", "C", "D", "Answer"]
    table(tmp_path / "test" / "anatomy.csv", header, ["0", "心脏有几个腔？", "二", "三", "四", "五", "C"])
    table(tmp_path / "dev" / "anatomy.csv", header, ["0", "人有几只手？", "一", "二", "三", "四", "B"])
    (row,) = rows("cmmlu", tmp_path, shots=1)
    assert asked(row) == (
        "以下是关于解剖学的单项选择题，请直接给出正确答案的选项。\n\n"
        "人有几只手？\nA. 一\nB. 二\nC. 三\nD. 四\n答案： B\n\n心脏有几个腔？\nA. 二\nB. 三\nC. 四\nD. 五\n答案："
    )
    lines(
        tmp_path / "c" / "val" / "law_val.jsonl", dict(zip(("question", *"ABCD", "answer"), "问一二三四D", strict=True))
    )
    (row,) = rows("ceval", tmp_path / "c", shots=0)
    assert asked(row).startswith("以下是中国关于法学的单项选择题，请选出其中的正确答案。\n\n问\n")
    assert row.meta["gold"] == (3,)


def test_hellaswag_takes_marks_out_and_begins_the_second_part_large(tmp_path: Path) -> None:
    row = {
        "activity_label": "Baking", "ctx_a": "[header] How to bake [title] Mix.", "ctx_b": "she", "source_id": "w~1",
        "endings": ["eats [step] it.", "runs  off."], "label": "1",
    }  # fmt: skip
    lines(tmp_path / "val.jsonl", row)
    (made,) = rows("hellaswag", tmp_path)
    assert asked(made) == "Baking:  How to bake. Mix. She".replace(":  ", ": ")
    assert choices(made) == [" eats it.", " runs off."] and made.meta["gold"] == (1,)
    assert made.meta["lengths"] == (8, 9)


@pytest.mark.parametrize("published", [True, False])
def test_arc_in_both_shapes(tmp_path: Path, published: bool) -> None:
    row = (
        {"question": {"stem": "Why?", "choices": [{"text": "x", "label": "1"}, {"text": "y", "label": "2"}]}}
        if published
        else {"question": "Why?", "choices": {"text": ["x", "y"], "label": ["1", "2"]}}
    )
    lines(tmp_path / "ARC-Challenge" / "ARC-Challenge-Test.jsonl", {**row, "answerKey": "2"})
    lines(tmp_path / "ARC-Easy" / "ARC-Easy-Test.jsonl", {**row, "answerKey": "1"})
    (hard,), (easy,) = rows("arc", tmp_path), rows("arc", tmp_path, part="easy")
    assert asked(hard) == "Question: Why?\nAnswer:" and choices(hard) == [" x", " y"]
    assert (hard.meta["gold"], easy.meta["gold"]) == ((1,), (0,))


def test_boolq_piqa_and_winogrande(tmp_path: Path) -> None:
    lines(tmp_path / "b" / "dev.jsonl", {"passage": "Iron rusts.", "question": "does iron rust", "answer": True})
    (row,) = rows("boolq", tmp_path / "b")
    assert asked(row) == "Iron rusts.\nQuestion: does iron rust?\nAnswer:"
    assert choices(row) == [" no", " yes"] and row.meta["gold"] == (1,) and row.meta["cluster"] == "Iron rusts."
    lines(tmp_path / "p" / "dev.jsonl", {"goal": "cut", "sol1": "knife", "sol2": "spoon"})
    (tmp_path / "p" / "dev-labels.lst").write_text("0\n")
    (row,) = rows("piqa", tmp_path / "p")
    assert asked(row) == "Question: cut\nAnswer:" and row.meta["gold"] == (0,)
    sentence = "Ann beat Eve as _ was faster."
    lines(tmp_path / "w" / "dev.jsonl", {"sentence": sentence, "option1": "Ann", "option2": "Eve", "answer": "1"})
    (row,) = rows("winogrande", tmp_path / "w")
    assert row.meta["contexts"] == ("Ann beat Eve as Ann", "Ann beat Eve as Eve")
    assert choices(row) == [" was faster."] * 2 and row.meta["gold"] == (0,)
    with pytest.raises(LuthierError, match="leave `template` out"):
        rows("winogrande", tmp_path / "w", template=True)


def test_shots_are_the_same_before_all_and_never_the_question_itself(tmp_path: Path) -> None:
    every = [{"goal": f"goal {n}", "sol1": "a", "sol2": "b", "label": n % 2} for n in range(4)]
    lines(tmp_path / "train.jsonl", *every)
    lines(tmp_path / "validation.jsonl", *every)
    made = rows("piqa", tmp_path, shots=2)
    assert len({asked(row).rpartition("Question:")[0] for row in made}) == 1
    made = rows("piqa", tmp_path / "train.jsonl", shots=3)  # one file is all splits
    for n, row in enumerate(made):
        assert asked(row).count("Question:") == 4 and asked(row).count(f"goal {n}\n") == 1
    with pytest.raises(LuthierError, match="9 shots are asked for, and there are 4"):
        rows("piqa", tmp_path, shots=9)


@pytest.mark.parametrize("published", [True, False])
def test_truthfulqa_in_both_shapes(tmp_path: Path, published: bool) -> None:
    answers = {"No.": 0, "Yes.": 1, "Often.": 1}
    targets = answers if published else {"choices": list(answers), "labels": list(answers.values())}
    path = tmp_path / "mc_task.json"
    path.write_text(json.dumps([{"question": "So?", "mc1_targets": targets, "mc2_targets": targets}]))
    (row,) = rows("truthfulqa", path)
    assert asked(row).startswith("Q: What is human life expectancy in the United States?\nA: Human")
    assert asked(row).endswith("Barcelona, Spain.\n\nQ: So?\nA:") and row.meta["gold"] == (1, 2)
    assert choices(row) == [" No.", " Yes.", " Often."]
    assert list(BENCHMARKS.build("truthfulqa", {"targets": "mc1"}).metrics()) == ["mc1"]


GLUE = {
    "cola": ({"sentence": "He go."}, 0, "He go.\nQuestion: Does this sentence make sense?\nAnswer:", " no"),
    "sst2": ({"sentence": "Fine."}, 1, "Fine.\nQuestion: Is this sentence positive or negative?\nAnswer:", " positive"),
    "mrpc": (
        {"sentence1": "a", "sentence2": "b"},
        1,
        "Sentence 1: a\nSentence 2: b\nQuestion: Do both sentences mean the same thing?\nAnswer:",
        " yes",
    ),
    "qqp": (
        {"question1": "a", "question2": "b"},
        0,
        "Question 1: a\nQuestion 2: b\nQuestion: Do both questions ask the same thing?\nAnswer:",
        " no",
    ),
    "mnli": (
        {"premise": "p", "hypothesis": "h "},
        1,
        "p\nQuestion: h. True, False or Neither?\nAnswer:",
        " Neither",
    ),
    "qnli": (
        {"question": "q", "sentence": "s"},
        "not_entailment",
        "q\ns\nQuestion: Does this response answer the question?\nAnswer:",
        " no",
    ),
    "rte": ({"sentence1": "a", "sentence2": "b"}, "entailment", "a\nQuestion: b True or False?\nAnswer:", " True"),
    "wnli": ({"sentence1": "a", "sentence2": "b"}, 1, "a\nQuestion: b True or False?\nAnswer:", " True"),
}


@pytest.mark.parametrize("task", GLUE)
def test_glue_asks_each_of_its_tasks(tmp_path: Path, task: str) -> None:
    row, label, prompt, right = GLUE[task]
    lines(tmp_path / ("validation_matched.jsonl" if task == "mnli" else "dev.jsonl"), {**row, "label": label})
    (made,) = rows("glue", tmp_path, task=task)
    assert asked(made) == prompt
    assert choices(made)[made.meta["gold"][0]] == right


def test_glue_reads_the_tables_of_its_own_download(tmp_path: Path) -> None:
    table(tmp_path / "dev.tsv", ["index", "sentence1", "sentence2", "score"], ["0", "a", "b", "3.6"], separator="\t")
    (row,) = rows("glue", tmp_path, task="stsb")
    assert row.meta["grade"] == 3.6 and choices(row) == [" 0", " 1", " 2", " 3", " 4", " 5"]
    assert list(BENCHMARKS.build("glue", {"task": "stsb"}).metrics()) == ["pearson", "spearman"]
    assert next(iter(BENCHMARKS.build("glue", {"task": "cola"}).metrics())) == "mcc"
