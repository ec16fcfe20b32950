"""The task of running sums: a tiny transformer reads digits and writes their sums modulo 10, one by one.

Only some of what it writes pays: the last sum (all before it must be right for it), or the first (all after it is of
no account). A model is taught the task by half, by likelihood, and from there reinforcement goes on.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from learning import runs
from learning.contest import GAE, RARELY, Method, Task
from learning.contest import result as held

LAST, FIRST = r"(\d)\s*$", r"^\s*(\d)"
"""What pays, as a regular expression for `exact_match`."""
SYMBOLS = ("<pad>", "<end>", "<unk>", "=", *map(str, range(10)))
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ ' =' if m['role'] == 'user' else ' <end>' }}{% endfor %}"


def rows(count: int, digits: int, seed: int) -> list[dict[str, str]]:
    """Prompts of `digits` digits and their running sums; `seed` decides which."""
    draw, found = random.Random(seed), []
    for _ in range(count):
        said = [draw.randrange(10) for _ in range(digits)]
        sums = [sum(said[: k + 1]) % 10 for k in range(digits)]
        found.append({"prompt": " ".join(map(str, said)), "completion": " " + " ".join(map(str, sums))})
    return found


def write(path: Path, some: list[dict[str, str]], *, answers: bool) -> str:
    """The rows as JSON lines: with completions to learn by likelihood, or with answers to be paid by."""
    key = "completion" if answers else "answer"
    return runs.write(path, [{"prompt": row["prompt"], key: row["completion"]} for row in some])


def folder(path: Path, seed: int, *, hidden: int = 64, layers: int = 2) -> str:
    """A model of about 100,000 weights that knows nothing, with one token a digit."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(SYMBOLS)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", chat_template=TEMPLATE
    )
    settings: dict[str, Any] = {
        "vocab_size": len(SYMBOLS),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "max_position_embeddings": 128,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
    }
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def by_likelihood(model: str, data: str, steps: int, output: Path, tested: dict[str, Any]) -> runs.Recipe:
    """The recipe of a model that learns sums as they are written."""
    return {
        "model": {"name": model, "dtype": "fp32"},
        "data": data,
        "objective": "sft",
        "adapt": ["full"],
        "train": {
            "steps": steps,
            "batch": 64,
            "lr": 2e-3,
            "schedule": "constant",
            "warmup": 0,
            "save_every": RARELY,
        },
        "evaluate": [tested],
        "output": str(output),
    }


def half_taught(
    name: str, digits: int, pays: str, about: tuple[float, float], steps: Sequence[int], *, hidden: int = 64
) -> str:
    """A model that was taught running sums by likelihood, for the first of these numbers of steps after which so much
    of what it draws is paid."""
    home = runs.home(name)
    blank = folder(home / "blank", 0, hidden=hidden)
    taught = write(home / "taught.jsonl", rows(4096, digits, 1), answers=True)
    tested = write(home / "tested.jsonl", rows(512, digits, 4), answers=False)
    task = {"data": tested, "scorers": [{"exact_match": {"regex": pays}}], "temperature": 1.0, "base": False}
    for count in steps:
        half = home / f"half-{count}"
        recipe = by_likelihood(blank, taught, count, half, {**task, "max_new_tokens": digits + 6})
        paid = runs.scored(runs.ran(recipe))["tuned"]["value"]
        print(f"  {name}: {paid:.3f} after {count} steps of likelihood", flush=True)
        if about[0] <= paid <= about[1]:
            return str(half / "model")
    sys.exit(f"{name}: no such model after any of {steps} steps")


def of_sums(name: str, digits: int, model: str, pays: str, methods: Sequence[Method], steps: int, prompts: int) -> Task:
    """A task of running sums. The learning rate was tried with GRPO beside a third of it, from other starting models;
    nothing else was tuned."""
    home = runs.home(name)
    return Task(
        name,
        methods,
        {"name": model, "dtype": "fp32"},
        write(home / "paid.jsonl", rows(prompts, digits, 3), answers=False),
        write(home / "held-out.jsonl", rows(512, digits, 2), answers=False),
        {"exact_match": {"regex": pays}},
        {"n": 8, "prompts": 64, "max_new_tokens": digits + 6},
        {"batch": 16, "lr": 3e-4, "save_every": RARELY},
        "full",
        steps,
    )


def last(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """Of 14 sums the last pays."""
    methods = (
        Method("GRPO", {"grpo": {}}),
        Method("DAPO", {"dapo": {}}),
        Method("PPO", {"ppo": {}}),
        Method("VAPO", {"vapo": {}}, extra=20),
    )
    half = half_taught("sums", 14, LAST, (0.5, 0.7), range(310, 440, 2))
    return held(of_sums("sums", 14, half, LAST, methods, steps=96, prompts=512), seeds, at_once)


def first(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """Of 36 sums the first pays.

    The beginner is chosen by what it is paid alone, twice to four times what chance would pay. From one that is right
    by chance (0.08, after 20 steps of likelihood) no method learnt anything in 160 steps, nor GRPO in 320.
    """
    methods = (
        Method("GRPO", {"grpo": {"kl": 0.0}}),
        Method("PPO 0.95", {"ppo": {"kl": 0.0}}),
        Method("PPO 1", {"ppo": {"kl": 0.0, "credit": {"gae": GAE}}}),
        Method("VAPO", {"vapo": {"warm": 80}}, extra=80),
    )
    half = half_taught("first", 36, FIRST, (0.2, 0.4), range(120, 200, 8))
    return held(of_sums("first", 36, half, FIRST, methods, steps=160, prompts=256), seeds, at_once)
