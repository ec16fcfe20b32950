"""One yardstick for every tool's adapter: the held-out rows, by plain transformers and PEFT in fp32.

    python benchmarks/held_out.py WORKLOAD.json ADAPTER…

Prints one JSON object. `scores`: for the untuned model ("base") and for each adapter

- on answers: `loss`, in nats per token of the answers with their end-of-turn token;
- on pairs: DPO's `loss` with the untuned model as reference, `accuracy` (the share of pairs whose chosen response has
  the higher reward; an exact tie counts half) and `margin` (chosen reward less rejected reward, mean), all at the
  workload's beta.

And how many tokens the training rows have as the model's chat template renders them, cut to the workload's longest
row; both responses of a pair count with their prompt. The held-out rows are not cut.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy, softplus
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

Sequence = tuple[list[int], int]
"""Token ids, and how many of them are the prompt."""


def conversations(row: dict[str, Any]) -> Iterator[tuple[list[dict[str, str]], dict[str, str]]]:
    """The prompt and the response of a row; of a pair the chosen one first, then the rejected one."""
    if "chosen" in row:
        yield row["messages"], row["chosen"]
        yield row["messages"], row["rejected"]
    else:
        yield row["messages"][:-1], row["messages"][-1]


def rendered(path: str, tokenizer: PreTrainedTokenizerBase) -> list[Sequence]:
    """The rows of a file through the chat template, a pair as two neighbouring sequences."""
    sequences = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        for asked, answer in conversations(json.loads(line)):
            ids = tokenizer.apply_chat_template([*asked, answer], return_dict=False)
            prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
            assert ids[: len(prompt)] == prompt
            sequences.append((ids, len(prompt)))
    return sequences


@torch.inference_mode()
def losses(model: torch.nn.Module, sequences: list[Sequence]) -> torch.Tensor:
    """Of each sequence the answer's negative log-probability, end token included, the newline after it not."""
    summed = []
    for ids, prompt in sequences:
        target = torch.tensor(ids[prompt:-1])
        logits = model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : prompt - 1 + len(target)]
        summed.append(cross_entropy(logits, target, reduction="sum").double())
    return torch.stack(summed)


def answer_scores(tuned: torch.Tensor, sequences: list[Sequence]) -> dict[str, float]:
    """Mean over all tokens of the answers."""
    return {"loss": float(tuned.sum()) / sum(len(ids) - 1 - prompt for ids, prompt in sequences)}


def pair_scores(tuned: torch.Tensor, base: torch.Tensor, beta: float) -> dict[str, float]:
    """DPO's loss, its rewards' accuracy and their margin, of neighbouring chosen and rejected sequences."""
    rewards = beta * (base - tuned).view(-1, 2)
    margins = rewards[:, 0] - rewards[:, 1]
    right = (margins > 0).double() + (margins == 0).double() / 2
    return {"loss": float(softplus(-margins).mean()), "accuracy": float(right.mean()), "margin": float(margins.mean())}


def main(workload: str, *adapters: str) -> None:
    disable_progress_bar()
    work = json.loads(Path(workload).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    held_out, train = rendered(work["held_out"], tokenizer), rendered(work["train"], tokenizer)
    found = {}
    for adapter in ("base", *adapters):
        # loaded anew for each: unloading an adapter leaves traces of rounding
        model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
        found[adapter] = losses(PeftModel.from_pretrained(model, adapter) if adapter != "base" else model, held_out)
    paired = work["stage"] == "dpo"
    scores = {
        adapter: pair_scores(one, found["base"], work["beta"]) if paired else answer_scores(one, held_out)
        for adapter, one in found.items()
    }
    cut = [(min(len(ids), work["max_tokens"]), prompt) for ids, prompt in train]
    counts = {"tokens": sum(ids for ids, _ in cut), "scored": sum(max(ids - prompt, 0) for ids, prompt in cut)}
    counts["prompt"] = counts["tokens"] - counts["scored"]
    print(json.dumps({"scores": scores, "train": counts, "held_out_rows": len(held_out) // (1 + paired)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
