"""Direct preference optimisation in one file: torch, transformers and peft, nothing else.

    python cookbook/dpo.py MODEL pairs.jsonl OUT        # rows: {"prompt": …, "chosen": …, "rejected": …}, all text

What it does: the model learns to prefer one response to another, measured against itself as it was (arXiv:2305.18290).
A response's reward is beta times its drift, log p(response) − log p_reference(response), and the loss of a pair is
−log sigmoid(reward of the chosen − reward of the rejected): log 2 at the start, when nothing has drifted. The mean is
over the pairs of the whole step, so that the same step cut into other micro-batches is the same step.
What it leaves out: packing, the prompt computed once for both responses, kept reference values, checkpoints, mixed
precision, everything that makes it fast or safe. The steps below the loss are those of sft.py.

Shape suffixes: B = rows of a micro-batch, T = tokens of its longest row, V = vocabulary.
"""

import argparse
import copy
import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
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


def train(model, reference, pairs, steps: list[list[int]], *, lr, beta=0.1, micro=2, warmup=0, decay=0.01, eps=1e-8):
    """One optimiser step for each list of pair numbers in `steps`. Returns the loss before each step, per pair, and the
    share of its pairs whose chosen response has the greater reward (one half for a tie).

    `pairs` holds (chosen, rejected), each as `encode` gives it; `micro` pairs go through the model at once.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed, plain = ([p for p in trainable if (p.ndim > 1) is wide] for wide in (True, False))  # not norms and biases
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr, eps=eps)
    losses, accuracies = [], []
    for step, chosen in enumerate(steps):
        total, right = 0.0, 0.0
        for start in range(0, len(chosen), micro):
            some = [pairs[index] for index in chosen[start : start + micro]]
            rewards = beta * drifts(model, reference, [row for pair in some for row in pair])
            margins = rewards[0::2] - rewards[1::2]
            loss = -F.logsigmoid(margins).sum() / len(chosen)
            loss.backward()
            total += loss.item()
            right += ((margins > 0).float() + 0.5 * (margins == 0).float()).sum().item()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step, len(steps), warmup)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        accuracies.append(right / len(chosen))
    return losses, accuracies


def main() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--full", action="store_true", help="train every weight instead of LoRA")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--beta", type=float, default=0.1)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    reference = copy.deepcopy(model).requires_grad_(False)
    if not args.full:
        model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    rows = [json.loads(line) for line in Path(args.data).read_text(encoding="utf-8").splitlines()]
    pairs = [tuple(encode(tokenizer, row["prompt"], row[side]) for side in ("chosen", "rejected")) for row in rows]
    steps = []
    for epoch in range(args.epochs):
        order = random.Random(epoch).sample(range(len(pairs)), len(pairs))
        steps += [order[start : start + 16] for start in range(0, len(order), 16)]
    lr = 5e-7 if args.full else 5e-6
    losses, accuracies = train(model, reference, pairs, steps, lr=lr, beta=args.beta, warmup=len(steps) // 20)
    print("loss per step:", *(f"{loss:.3f}" for loss in losses))
    print("pairs told right:", *(f"{accuracy:.0%}" for accuracy in accuracies))
    if not args.full:
        model = model.merge_and_unload()
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
