"""One yardstick for every tool's adapter: the loss on the held-out rows, by plain transformers and PEFT in fp32.

    python benchmarks/held_out.py WORKLOAD.json ADAPTER…

Prints one JSON object: the loss of the untuned model ("base") and of each adapter, in nats per token of the answers
with their end-of-turn token, and how many tokens the training rows have as the model's chat template renders them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.logging import disable_progress_bar

Row = tuple[list[int], int]
"""Token ids, and how many of them are the prompt."""


def rendered(path: str, tokenizer: PreTrainedTokenizerBase) -> list[Row]:
    """The rows of a file through the chat template."""
    rows = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        turns = json.loads(line)["messages"]
        ids = tokenizer.apply_chat_template(turns, return_dict=False)
        prompt = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
        assert ids[: len(prompt)] == prompt
        rows.append((ids, len(prompt)))
    return rows


@torch.inference_mode()
def loss(model: torch.nn.Module, rows: list[Row]) -> float:
    """Mean over the answers' tokens up to the end of the turn (the template's newline after it left out)."""
    total, count = 0.0, 0
    for ids, prompt in rows:
        target = torch.tensor(ids[prompt:-1])
        logits = model(input_ids=torch.tensor([ids])).logits[0, prompt - 1 : prompt - 1 + len(target)]
        total += float(cross_entropy(logits, target, reduction="sum"))
        count += len(target)
    return total / count


def main(workload: str, *adapters: str) -> None:
    disable_progress_bar()
    work = json.loads(Path(workload).read_text(encoding="utf-8"))
    tokenizer = AutoTokenizer.from_pretrained(work["model"])
    held_out, train = rendered(work["held_out"], tokenizer), rendered(work["train"], tokenizer)
    losses = {}
    for adapter in ("base", *adapters):
        # loaded anew for each: unloading an adapter leaves traces of rounding
        model = AutoModelForCausalLM.from_pretrained(work["model"], dtype=torch.float32)
        losses[adapter] = loss(PeftModel.from_pretrained(model, adapter) if adapter != "base" else model, held_out)
    counts = {"tokens": sum(len(ids) for ids, _ in train), "scored": sum(len(ids) - prompt for ids, prompt in train)}
    print(json.dumps({"losses": losses, "train": counts, "held_out_rows": len(held_out)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
