"""One yardstick for every tool's preference adapter: DPO's loss and accuracy on the held-out pairs, in fp32.

    python benchmarks/held_out_pairs.py WORKLOAD.json ADAPTER…

Plain transformers and PEFT. Prints one JSON object: loss and accuracy of each adapter against the base on pairs whose
rows fit, and how many tokens the training rows have as the model's chat template renders them (each row cut at the
workload's limit).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar


def rendered(path: str, tokenizer: Any) -> list[tuple[int, list[list[int]]]]:
    """Each pair as the prompt's length and the two rows' ids, chosen first."""
    pairs = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        both = [
            tokenizer.apply_chat_template(row["prompt"] + row[which], return_dict=False)[:-1]
            for which in ("chosen", "rejected")
        ]
        pairs.append((len(prompt), both))
    return pairs


@torch.inference_mode()
def logp(model: torch.nn.Module, prompt: int, ids: list[int]) -> float:
    """log pi of the response, its end token included."""
    target = torch.tensor(ids[prompt:])
    logits = model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : len(ids) - 1]
    return float(torch.log_softmax(logits, -1).gather(1, target[:, None]).sum())


def main(workload: str, *adapters: str) -> None:
    disable_progress_bar()
    work = json.loads(Path(workload).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    train = rendered(work["train"], tokenizer)
    held_out = [pair for pair in rendered(work["held_out"], tokenizer) if max(map(len, pair[1])) <= work["max_tokens"]]
    model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
    reference = [[logp(model, prompt, ids) for ids in both] for prompt, both in held_out]
    found = {}
    for adapter in adapters:
        model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
        tuned = PeftModel.from_pretrained(model, adapter)
        margins = []
        for (prompt, both), base in zip(held_out, reference, strict=True):
            better, worse = (logp(tuned, prompt, ids) - was for ids, was in zip(both, base, strict=True))
            margins.append(work["beta"] * (better - worse))
        losses = [math.log1p(math.exp(-margin)) for margin in margins]
        right = sum(margin > 0 for margin in margins) / len(margins)
        found[adapter] = {"loss": sum(losses) / len(losses), "accuracy": right}
    cut = [[min(len(ids), work["max_tokens"]) for ids in both] for _, both in train]
    scored = [[max(length - prompt, 0) for length in both] for (prompt, _), both in zip(train, cut, strict=True)]
    counts = {"tokens": sum(map(sum, cut)), "scored": sum(map(sum, scored))}
    print(json.dumps({"found": found, "train": counts, "held_out_rows": len(held_out)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
