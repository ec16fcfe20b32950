"""Supervised fine-tuning in one file: torch and transformers, nothing else.

    python cookbook/sft.py MODEL rows.jsonl OUT          # rows: {"messages": [{"role": …, "content": …}, …]}

What it does: the exact mask (only the assistant's words and the token that ends its turn train), LoRA or full
fine-tuning, AdamW with warm-up and a cosine, and a loss that is divided by the scored tokens of the whole step, so
that the same step cut into other micro-batches is the same step.
What it leaves out: packing, caching, checkpoints, mixed precision, tools, everything that makes it fast or safe.

Shape suffixes: B = rows of a micro-batch, T = tokens of its longest row, V = vocabulary, S = scored tokens.
"""

import argparse
import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def encode(tokenizer, messages: list[dict]) -> tuple[list[int], list[int]]:
    """Token ids, and for each token 1 where it trains: the assistant's words with the end of its turn.

    The chat template is rendered up to each assistant turn, without and with it; what the turn adds is its own.
    """

    def render(turns: int, ask: bool) -> str:
        return tokenizer.apply_chat_template(messages[:turns], tokenize=False, add_generation_prompt=ask)

    text, spans = render(len(messages), ask=False), []
    for index, message in enumerate(messages):
        if message["role"] == "assistant":
            before, after = render(index, ask=True), render(index + 1, ask=False)
            if not (text.startswith(after) and after.startswith(before)):
                raise ValueError("this template changes earlier turns: the mask would be a guess")
            spans.append((len(before), len(after.rstrip())))  # the line break after the end token is the template's
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    mask = [int(any(a <= start < b for a, b in spans)) for start, _ in encoded["offset_mapping"]]
    return encoded["input_ids"], mask


class LoRALinear(nn.Module):
    """y = W x + (alpha / r) B A x, with A random and B zero at the start (arXiv:2106.09685, §4.1)."""

    def __init__(self, base: nn.Linear, r: int, alpha: float) -> None:
        super().__init__()
        self.base, self.scale = base, alpha / r
        self.lora_A = nn.Parameter(torch.empty(r, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, r))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + (x @ self.lora_A.T @ self.lora_B.T) * self.scale


def places(model: nn.Module, kind: type) -> list[tuple[nn.Module, str, nn.Module]]:
    """Where modules of a kind stand: parent, name, module."""
    return [(p, name, child) for p in model.modules() for name, child in p.named_children() if isinstance(child, kind)]


def add_lora(model: nn.Module, r: int = 16, alpha: float = 32) -> None:
    """Freeze the model and put LoRA beside every linear layer but the output head."""
    model.requires_grad_(False)
    for parent, name, child in places(model, nn.Linear):
        if child is not model.get_output_embeddings():
            setattr(parent, name, LoRALinear(child, r, alpha))


def merge_lora(model: nn.Module) -> None:
    """Fold every LoRA into its layer: one plain matrix that computes the same."""
    for parent, name, child in places(model, LoRALinear):
        child.base.weight.data += child.scale * (child.lora_B @ child.lora_A)
        setattr(parent, name, child.base)


def nll(model: nn.Module, rows: list[tuple[list[int], list[int]]]) -> Tensor:
    """−Σ log p over the scored tokens of a padded micro-batch. Token t is predicted at position t − 1."""
    longest = max(len(ids) for ids, _ in rows)
    ids_BT = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    mask_BT = torch.tensor([mask + [0] * (longest - len(mask)) for _, mask in rows], dtype=torch.bool)
    seen_BT = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows])
    logits_BTV = model(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False).logits
    scored_BT = mask_BT[:, 1:]
    return F.cross_entropy(logits_BTV[:, :-1][scored_BT].float(), ids_BT[:, 1:][scored_BT], reduction="sum")


def rate(step: int, total: int, warmup: int) -> float:
    """The share of the peak rate: a straight line up over `warmup` steps, then half a cosine down to zero."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))


def train(model, rows, steps: list[list[int]], *, lr: float, micro=4, warmup=0, decay=0.01, eps=1e-8):
    """One optimiser step for each list of row numbers in `steps`. Returns the loss before each step, per scored token.

    `micro` rows go through the model at once; it changes memory and time, and nothing else.
    """
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decayed, plain = ([p for p in trainable if (p.ndim > 1) is wide] for wide in (True, False))  # not norms and biases
    groups = [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr, eps=eps)
    losses = []
    for step, chosen in enumerate(steps):
        scored = sum(sum(rows[index][1][1:]) for index in chosen)
        total = 0.0
        for start in range(0, len(chosen), micro):
            loss = nll(model, [rows[index] for index in chosen[start : start + micro]]) / scored
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(trainable, 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr * rate(step, len(steps), warmup)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
    return losses


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "data", "out"):
        parser.add_argument(name)
    parser.add_argument("--full", action="store_true", help="train every weight instead of LoRA")
    parser.add_argument("--epochs", type=int, default=1)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    if not args.full:
        add_lora(model)
    lines = Path(args.data).read_text(encoding="utf-8").splitlines()
    rows = [encode(tokenizer, json.loads(line)["messages"]) for line in lines]
    steps = []
    for epoch in range(args.epochs):
        order = random.Random(epoch).sample(range(len(rows)), len(rows))
        steps += [order[start : start + 16] for start in range(0, len(order), 16)]
    losses = train(model, rows, steps, lr=2e-5 if args.full else 2e-4, warmup=len(steps) // 20)
    print("loss per step:", *(f"{loss:.3f}" for loss in losses))
    merge_lora(model)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
