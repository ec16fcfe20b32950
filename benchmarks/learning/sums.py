"""The task of running sums: a tiny transformer reads digits and writes their sums modulo 10, one by one.

Only some of what it writes pays: the last sum (all before it must be right for it), or the first (all after it is of
no account). A model is taught the task by half, by likelihood, and from there reinforcement goes on.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

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
    lines = [json.dumps({"prompt": row["prompt"], key: row["completion"]}) for row in some]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


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
