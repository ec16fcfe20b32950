"""lm-evaluation-harness with our engine as its model; and do our own benchmarks pick what it picks, item by item?

Needs `lm_eval`, which is an extra of its own: skipped where it is absent."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.data.encode.template import Template
from luthier.engines.local import LocalEngine
from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, compare
from luthier.evaluate.benchmarks.benchmark import Asked
from luthier.evaluate.comparison import Comparison
from luthier.recipe.schema import Task

pytest.importorskip("lm_eval", reason="the extra `harness` is not installed")

MMLU = """
task: my_law
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/law.jsonl, dev: {folder}/law.dev.jsonl}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 2
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about law.\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. \\
{{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
SCENES = """
task: my_scenes
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/scenes.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{query}}}}"
doc_to_choice: choices
doc_to_target: "{{{{gold}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
SUMS = """
task: my_sums
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/sums.jsonl, train: {folder}/sums.train.jsonl}}}}
test_split: test
fewshot_split: train
fewshot_config: {{sampler: first_n}}
num_fewshot: 1
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["Question:"], do_sample: false, max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""
SURPRISE = """
task: my_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/text.jsonl}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LUTHIER_CACHE", "HF_HOME", "HF_DATASETS_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ("<|im_start|>", "<|im_end|>")
    return letters(*special, eos_token="<|im_end|>", chat_template=CHATML)


@pytest.fixture(scope="module")
def module(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny.model(vocab_size=len(tokenizer), max_position_embeddings=1024, initializer_range=0.3).eval()


def lines(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def harness(folder: Path, tokenizer: Any, module: Any, *tasks: str, **keys: Any) -> Comparison:
    template = Template(tokenizer)
    task = Task(benchmark={"lm_eval": {"tasks": list(tasks), "path": str(folder), **keys}})
    benchmark = ScoredTask(task).benchmark
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    return benchmark.compare(Asked(task, (), template, {"base": engine}, 0, lambda: pytest.fail("not asked")))


def own(entry: dict[str, Any], tokenizer: Any, module: Any) -> Comparison:
    template, scored = Template(tokenizer), ScoredTask(Task(benchmark=entry))
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    return compare(scored, scored.benchmark.rows(lambda _: None), template, {"base": engine})


def of(comparison: Comparison, metric: str) -> list[float | None]:
    return [sample.answers["base"].scores[metric] for sample in comparison.samples]


def test_mmlu_picks_what_the_harness_picks(tmp_path, tokenizer, module):
    rows = [{"question": f"Question {n}?", "choices": [f"{n}", "b", "c c", "d"], "answer": n % 4} for n in range(24)]
    lines(tmp_path / "law.jsonl", rows)
    lines(tmp_path / "law.dev.jsonl", rows[:3])
    (tmp_path / "law.yaml").write_text(MMLU.format(folder=tmp_path))
    for split, some in (("test", rows), ("dev", rows[:3])):
        (tmp_path / "mmlu" / split).mkdir(parents=True)
        text = "".join(f"{row['question']},{','.join(row['choices'])},{'ABCD'[row['answer']]}\n" for row in some)
        (tmp_path / "mmlu" / split / f"law_{split}.csv").write_text(text)
    theirs = harness(tmp_path, tokenizer, module, "my_law")
    ours = own({"mmlu": {"path": str(tmp_path / "mmlu"), "shots": 2}}, tokenizer, module)
    assert of(ours, "acc") == of(theirs, "acc") and 0 < sum(map(float, of(ours, "acc"))) < 24
    assert [one.example.prompt[0].text for one in ours.samples] == [
        one.example.prompt[0].text for one in theirs.samples
    ]
    assert ours.headline.systems["base"] == theirs.headline.systems["base"]


def test_hellaswag_picks_what_the_harness_picks_by_length_too(tmp_path, tokenizer, module):
    rows = [
        {
            "activity_label": "Play", "ctx_a": f"Child {n} plays.", "ctx_b": "it", "label": str(n % 4),
            "source_id": str(n), "endings": [f"falls {n}.", "laughs loudly about it all.", "runs.", "goes home to eat"],
        }
        for n in range(24)
    ]  # fmt: skip
    lines(tmp_path / "val.jsonl", rows)
    put = [{"query": f"Play: {row['ctx_a']} It", "choices": row["endings"], "gold": int(row["label"])} for row in rows]
    lines(tmp_path / "scenes.jsonl", put)
    (tmp_path / "scenes.yaml").write_text(SCENES.format(folder=tmp_path))
    theirs = harness(tmp_path, tokenizer, module, "my_scenes")
    ours = own({"hellaswag": str(tmp_path / "val.jsonl")}, tokenizer, module)
    for metric in ("acc", "acc_norm"):
        assert of(ours, metric) == of(theirs, metric)
    assert of(ours, "acc") != of(ours, "acc_norm")


def test_gsm8k_says_what_the_harness_has_it_say(tmp_path, tokenizer, module):
    rows = [{"question": f"{n} + 1?", "answer": f"So\n#### {n + 1}"} for n in range(6)]
    lines(tmp_path / "sums.jsonl", rows)
    lines(tmp_path / "sums.train.jsonl", rows[:1])
    (tmp_path / "gsm8k").mkdir()
    lines(tmp_path / "gsm8k" / "test.jsonl", rows)
    lines(tmp_path / "gsm8k" / "train.jsonl", rows[:1])
    (tmp_path / "sums.yaml").write_text(SUMS.format(folder=tmp_path))
    theirs = harness(tmp_path, tokenizer, module, "my_sums")
    entry = {"gsm8k": {"path": str(tmp_path / "gsm8k"), "shots": 1, "max_new_tokens": 12}}
    ours = own(entry, tokenizer, module)
    said = [sample.answers["base"].text for sample in ours.samples]
    assert [sample.answers["base"].text for sample in theirs.samples] == [str([text]) for text in said]


def test_texts_are_as_surprising(tmp_path, tokenizer, module):
    text = "The sea is wide, and I cannot get over. " * 3
    lines(tmp_path / "text.jsonl", [{"text": text}])
    (tmp_path / "text.yaml").write_text(SURPRISE.format(folder=tmp_path))
    theirs = harness(tmp_path, tokenizer, module, "my_text")
    (tmp_path / "t.txt").write_text(text)
    ours = own({"perplexity": {"path": str(tmp_path / "t.txt"), "window": 500, "stride": 500}}, tokenizer, module)
    by_name = {score.scorer: score for score in theirs.scores}
    bits = {score.scorer: score for score in ours.scores}["bits per byte"]
    assert by_name["bits_per_byte"].systems["base"].value == pytest.approx(bits.systems["base"].value, rel=1e-5)
    assert not by_name["bits_per_byte"].higher_is_better


def test_a_task_that_is_not_there_is_told(tmp_path, tokenizer, module):
    with pytest.raises(LuthierError, match="has no task 'hellaswga'"):
        harness(tmp_path, tokenizer, module, "hellaswga")
