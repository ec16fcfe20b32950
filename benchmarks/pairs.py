"""The preference rows: real pairs of mixed lengths, and pairs whose prompt is long beside their responses."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from workload import Workload, model_folder, shared, write_rows

Row = dict[str, Any]
"""`messages` (the prompt's turns), `chosen` and `rejected` (a turn each)."""

DEMO = "llamafactory-demo/dpo_en_demo.json"
SOLUTIONS = "gsm8k-model-solutions/pairs.jsonl"
EXAMPLES = "gsm8k/train.jsonl"
ROLES = {"system": "system", "human": "user", "gpt": "assistant"}
TRAINED = 48
HYPERPARAMETERS: dict[str, Any] = {"stage": "dpo", "max_tokens": 1024, "lr": 5e-6, "beta": 0.1}


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def from_sharegpt(row: Row) -> Row:
    """A pair in ShareGPT's keys as messages."""
    asked, *judged = row["conversations"], row["chosen"], row["rejected"]
    chosen, rejected = (turn(ROLES[one["from"]], one["value"]) for one in judged)
    return {
        "messages": [turn(ROLES[one["from"]], one["value"]) for one in asked],
        "chosen": chosen,
        "rejected": rejected,
    }


def prompt_tokens(tokenizer: Any, messages: Sequence[dict[str, str]]) -> int:
    """How long the prompt is in the model's chat template, up to where the assistant begins."""
    return len(tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, return_dict=False))


def response_tokens(tokenizer: Any, row: Row) -> float:
    """Mean length of the two responses, each with its end token."""
    texts = (row["chosen"]["content"], row["rejected"]["content"])
    return sum(len(tokenizer(text, add_special_tokens=False).input_ids) + 1 for text in texts) / 2


def demo(rows: int, held_out: int, model: str | None, data: str | None) -> Workload:
    """The first `rows` pairs of LLaMA-Factory's English DPO demo; held out are those after the 48th.

    Pairs whose prompt alone fills the window are left out of training for every tool: two of the three would drop them,
    and the third would train on responses to half a prompt.
    """
    from transformers import AutoTokenizer

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    path = Path(data) if data else shared() / "data" / DEMO
    everything = [from_sharegpt(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    held_from = max(rows, TRAINED)
    fits = [
        row for row in everything[:rows] if prompt_tokens(tokenizer, row["messages"]) < HYPERPARAMETERS["max_tokens"]
    ]
    paths = write_rows(f"pairs-{rows}", fits, everything[held_from : held_from + held_out])
    return Workload(
        "pairs", folder, *paths, len(fits), left_out=min(rows, len(everything)) - len(fits), **HYPERPARAMETERS
    )


def _lines(path: Path) -> Iterator[dict[str, str]]:
    return (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def with_examples(
    row: Row, examples: Iterator[dict[str, str]], count: Callable[[list[Any]], int], target: float
) -> Row:
    """The row with worked examples as earlier turns, as many as bring the prompt nearest to `target` tokens.

    Takes its examples from the iterator, so that no two rows share one and only a row's own two responses have the
    prompt in common.
    """
    front: list[dict[str, str]] = []
    length = count(row["messages"])
    while True:
        example = next(examples)
        longer = [*front, turn("user", example["question"]), turn("assistant", example["answer"])]
        now = count([*longer, *row["messages"]])
        if now - target > target - length:
            return {**row, "messages": [*front, *row["messages"]]}
        front, length = longer, now


def few_shot(rows: int, held_out: int, model: str | None) -> Workload:
    """GSM8K questions behind worked examples, prompt : response 3 : 1; a right and a wrong solution by a model.

    Of each question's first pair in gsm8k-model-solutions the 48 + `held_out` with the longest shorter response, in the
    file's order, each behind its own next examples of GSM8K's training set. The first `rows` train; those after the
    48th are held out. Nothing is cut: the longest row has 1,863 tokens.
    """
    from transformers import AutoTokenizer

    folder = model_folder(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    first: dict[str, Row] = {}
    for line in _lines(shared() / "data" / SOLUTIONS):
        judged = {key: turn("assistant", line[key]) for key in ("chosen", "rejected")}
        first.setdefault(line["prompt"], {"messages": [turn("user", line["prompt"])], **judged})
    everything = list(first.values())
    shorter = [min(len(row["chosen"]["content"]), len(row["rejected"]["content"])) for row in everything]
    longest = sorted(range(len(everything)), key=lambda index: -shorter[index])[: max(rows, TRAINED) + held_out]
    examples, count = _lines(shared() / "data" / EXAMPLES), partial(prompt_tokens, tokenizer)
    chosen = [
        with_examples(row, examples, count, 3 * response_tokens(tokenizer, row))
        for row in (everything[index] for index in sorted(longest))
    ]
    held_from = max(rows, TRAINED)
    paths = write_rows(f"long-prompts-{rows}", chosen[:rows], chosen[held_from:])
    return Workload("long-prompts", folder, *paths, rows, **{**HYPERPARAMETERS, "max_tokens": 2048})
