"""Kahneman-Tversky optimisation in one file: torch, transformers and peft, nothing else.

    python cookbook/kto.py MODEL rows.jsonl OUT         # rows: {"prompt": …, "completion": …, "label": true or false}

What it does: the model learns from single responses with a thumb up or down (arXiv:2402.01306). A response's reward is
its drift from the model as it was, log p(response) − log p_reference(response). A good response should drift above a
baseline, a bad one below it: weight · sigmoid(∓ beta (drift − baseline)), one half at the start. The baseline is the
mean drift of mismatched pairs, the prompt of one row with the response of the row before it, over the whole step: how
far the model has drifted in general. It is never below zero and carries no gradient.
What it leaves out: as dpo.py. The steps below the loss are those of sft.py.

Shape suffixes: B = rows of a micro-batch, T = tokens of its longest row, V = vocabulary.
"""

import argparse
import copy
import json
import math
import random
from pathlib import Path

import torch
from torch import Tensor, nn


def encode(tokenizer, prompt: str, response: str) -> tuple[list[int], list[int]]:
    """Token ids, and for each token 1 where it is scored: the response with the token that ends its turn."""
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    before = tokenizer.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
    if not text.startswith(before):
        raise ValueError("this template renders an answered prompt differently: the mask would be a guess")
    end = len(text.rstrip())  # the line break after the end token is the template's
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [int(len(before) <= start < end) for start, _ in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


def mismatched(rows: list[tuple[list[int], list[int]]]) -> list[tuple[list[int], list[int]]]:
    """The prompt of each row with the response of the row before it (the first one's is the last one's)."""
    if len(rows) < 2:
        raise ValueError("a step of one row has no mismatched pair: its baseline would be its own reward")
    begins = [mask.index(1) for _, mask in rows]
    return [
        (ids[:begin] + other[start:], [0] * begin + scored[start:])
        for (ids, _), begin, (other, scored), start in zip(
            rows, begins, rows[-1:] + rows[:-1], begins[-1:] + begins[:-1], strict=True
        )
    ]


def log_probabilities(model: nn.Module, rows: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    """For each row the log-probabilities of its scored tokens. Token t is predicted at position t − 1."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    mask_BT = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in rows], dtype=torch.bool)
    seen_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    logits_BTV = model(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False).logits[:, :-1]
    logp_BT = logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    return [logp_T[mask_T] for logp_T, mask_T in zip(logp_BT, mask_BT[:, 1:], strict=True)]


def drifts(model: nn.Module, reference: nn.Module, rows: list[tuple[list[int], list[int]]]) -> Tensor:
    """log p(response) − log p_reference(response) of each row: B. Token by token, because the sums are large."""
    with torch.no_grad():
        before = log_probabilities(reference, rows)
    now = log_probabilities(model, rows)
    return torch.stack([(ours - theirs).sum() for ours, theirs in zip(now, before, strict=True)])


def rate(step: int, total: int, warmup: int) -> float:
    """The share of the peak rate: a straight line up over `warmup` steps, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def train(model, reference, rows, good, steps, *, lr, beta=0.1, weights=(1.0, 1.0), micro=4, warmup=0, **adamw):
    """One optimiser step for each list of row numbers in `steps`. Returns the loss before each step, per row, and the
    baseline of each step.

    `good[i]` says whether row i is one to imitate; `weights` are those of good and of bad rows (the paper's lambda_D
    and lambda_U); `adamw` takes decay and eps.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed, plain = ([p for p in trainable if (p.ndim > 1) is wide] for wide in (True, False))  # not norms and biases
    decay, eps = adamw.get("decay", 0.01), adamw.get("eps", 1e-8)
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr, eps=eps)
    losses, baselines = [], []
    for step, chosen in enumerate(steps):
        with torch.no_grad():
            others = mismatched([rows[index] for index in chosen])
            parts = [drifts(model, reference, others[at : at + micro]) for at in range(0, len(others), micro)]
            baseline = torch.cat(parts).mean().clamp(min=0)
        total = 0.0
        for start in range(0, len(chosen), micro):
            some = chosen[start : start + micro]
            sign = torch.tensor([1.0 if good[index] else -1.0 for index in some])
            weight = torch.tensor([weights[0] if good[index] else weights[1] for index in some])
            above = drifts(model, reference, [rows[index] for index in some]) - baseline
            loss = (weight * torch.sigmoid(-sign * beta * above)).sum() / len(chosen)
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step, len(steps), warmup)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        baselines.append(baseline.item())
    return losses, baselines


def main() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "data", "out"):
        parser.add_argument(name)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    reference = copy.deepcopy(model).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    lines = [json.loads(line) for line in Path(args.data).read_text(encoding="utf-8").splitlines()]
    rows = [encode(tokenizer, line["prompt"], line["completion"]) for line in lines]
    order = random.Random(0).sample(range(len(rows)), len(rows))
    steps = [order[at : at + 16] for at in range(0, len(order), 16) if len(order) - at > 1]
    good = [bool(line["label"]) for line in lines]
    losses, _ = train(model, reference, rows, good, steps, lr=5e-6, warmup=len(steps) // 20)
    print("loss per step:", *(f"{loss:.3f}" for loss in losses))
    model.merge_and_unload().save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
