"""Group relative policy optimisation in one file: torch and transformers, nothing else.

    python cookbook/grpo.py        # a tiny model learns which of two digits is larger: half a minute on one core

What it does: the model answers each prompt several times, a function says what each answer is worth, and what was drawn
becomes likelier by how much better than its group's mean it did, in spreads of the group (arXiv:2402.03300). Updates
on the same answers count by the ratio of the policy to the one that drew, clipped to 0.8 … 1.2; 0.04 of k3 holds it to
the model as it was. Each answer is a mean over its tokens, the step a mean over answers, however it is cut.
What it leaves out: packing, prompts computed once for a group, a cache of keys and values while drawing, checkpoints,
mixed precision, everything that makes it fast or safe. DAPO's form is one mean over all tokens, 1.28 above, no k3.

Shape suffixes: B = answers of a micro-batch, T = tokens of its longest row, V = vocabulary.
"""

import argparse
import copy
import random
import statistics

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

STOP, START, IS = 10, 11, 12  # the digits are themselves


@torch.no_grad()
def answer(model: nn.Module, prompts: list[list[int]], longest: int, stop: int) -> list[list[int]]:
    """One answer to each of the prompts, which are equally long, drawn at temperature 1: up to `stop`, which belongs to
    it, or to `longest` tokens."""
    ids_BT = torch.tensor(prompts)
    for _ in range(longest):
        logits_BV = model(input_ids=ids_BT, use_cache=False).logits[:, -1]
        ids_BT = torch.cat([ids_BT, torch.multinomial(logits_BV.float().softmax(-1), 1)], 1)
    drawn = [row[len(prompts[0]) :] for row in ids_BT.tolist()]
    return [row[: row.index(stop) + 1] if stop in row else row for row in drawn]


def log_probabilities(model: nn.Module, rows: list[tuple[list[int], list[int]]]) -> list[Tensor]:
    """For each prompt and answer the log-probabilities of the answer's tokens. Token t is predicted at t − 1."""
    longest = max(len(prompt) + len(said) for prompt, said in rows)
    ids_BT, seen_BT = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for row, (prompt, said) in enumerate(rows):
        ids_BT[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
        seen_BT[row, : len(prompt) + len(said)] = 1
    logits_BTV = model(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False).logits[:, :-1]
    logp_BT = logits_BTV.float().log_softmax(-1).gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    return [logp_T[len(p) - 1 : len(p) - 1 + len(s)] for logp_T, (p, s) in zip(logp_BT, rows, strict=True)]


def advantages(rewards: list[float]) -> list[float]:
    """How much better each answer of a group is than their mean, in spreads; a group of equals teaches nothing."""
    if max(rewards) == min(rewards):
        return [0.0] * len(rewards)
    mean, spread = statistics.fmean(rewards), statistics.stdev(rewards)
    return [(reward - mean) / (spread + 1e-4) for reward in rewards]


def loss_of(
    now_T: Tensor, old_T: Tensor, before_T: Tensor, advantage: float, *, low=0.2, high=0.2, beta=0.04
) -> Tensor:
    """An answer's loss: the clipped ratio times its advantage, and k3 of the distance from the model as it was."""
    ratio_T = (now_T - old_T).exp()
    gain_T = torch.minimum(ratio_T * advantage, ratio_T.clamp(1 - low, 1 + high) * advantage)
    apart_T = before_T - now_T
    return (beta * (apart_T.exp() - apart_T - 1) - gain_T).mean()


def optimizer_of(model: nn.Module, lr: float, decay: float = 0.0, eps: float = 1e-8) -> torch.optim.Optimizer:
    """AdamW, which lets matrices decay, and no norms or biases."""
    wide, narrow = ([p for p in model.parameters() if (p.ndim > 1) is large] for large in (True, False))
    groups = [{"params": wide, "weight_decay": decay}, {"params": narrow, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr, eps=eps)


def update(model, reference, optimizer, answers, *, micro=64, **keys) -> tuple[float, float]:
    """One optimiser step on `answers`: (prompt, answer, advantage, log-probabilities when it was drawn). Returns the
    loss before it, and the share of tokens whose ratio is past the bound that stops them."""
    total, clipped, tokens = 0.0, 0, 0
    for start in range(0, len(answers), micro):
        some = answers[start : start + micro]
        rows = [(prompt, said) for prompt, said, _, _ in some]
        with torch.no_grad():
            before = log_probabilities(reference, rows)
        now = log_probabilities(model, rows)
        loss = torch.zeros(())
        for now_T, before_T, (_, _, advantage, old_T) in zip(now, before, some, strict=True):
            loss = loss + loss_of(now_T, old_T, before_T, advantage, **keys) / len(answers)
            ratio_T = (now_T - old_T).exp().detach()
            past_T = ratio_T > 1 + keys.get("high", 0.2) if advantage > 0 else ratio_T < 1 - keys.get("low", 0.2)
            clipped, tokens = clipped + int(past_T.sum()) * (advantage != 0), tokens + len(now_T)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total, clipped / tokens


def worth(prompt: list[int], said: list[int]) -> float:
    """The task: the larger of the prompt's two digits, and nothing after it."""
    larger = max(prompt[1:3])
    return float(said == [larger, STOP]) + 0.1 * float(said[:1] == [larger])


def tiny() -> LlamaForCausalLM:
    """A model of 100,000 weights that knows nothing."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=13, tie_word_embeddings=True, **sizes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("steps", 60), ("prompts", 24), ("samples", 8), ("updates", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--beta", type=float, default=0.0)  # a model that knows nothing is nothing to stay near
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    draw, model = random.Random(args.seed), tiny()
    reference = copy.deepcopy(model).requires_grad_(False)
    optimizer = optimizer_of(model, args.lr)
    for step in range(args.steps):
        prompts = [[START, draw.randrange(10), draw.randrange(10), IS] for _ in range(args.prompts)]
        prompts = [prompt for prompt in prompts for _ in range(args.samples)]
        said = answer(model, prompts, 3, STOP)
        rewards = [worth(prompt, one) for prompt, one in zip(prompts, said, strict=True)]
        groups = [rewards[start : start + args.samples] for start in range(0, len(rewards), args.samples)]
        credit = [advantage for group in groups for advantage in advantages(group)]
        with torch.no_grad():
            old = log_probabilities(model, list(zip(prompts, said, strict=True)))
        answers = list(zip(prompts, said, credit, old, strict=True))
        for _ in range(args.updates):
            loss, clipped = update(model, reference, optimizer, answers, beta=args.beta)
        if step % 5 == 0 or step == args.steps - 1:
            print(f"step {step:3d}  reward {statistics.fmean(rewards):.3f}  loss {loss:+.3f}  clipped {clipped:.0%}")


if __name__ == "__main__":
    main()
