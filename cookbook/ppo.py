"""Proximal policy optimisation with a critic in one file: torch and transformers, nothing else.

    python cookbook/ppo.py        # a tiny model learns which of two digits is larger: half a minute on one core

What it does: the model answers prompts, a function says what an answer is worth, part of each token's log-ratio from
the model as it was is taken off (arXiv:2203.02155), and generalised advantage estimation (arXiv:1506.02438) spreads it
over the tokens: what came, less what a critic expected before each. The policy's loss is clipped at 0.8 … 1.2
(arXiv:1707.06347), the critic's within 0.2 of what it said; both are means over all tokens of the step. The critic is a
linear map, at a rate of its own, on the hidden states in which tokens are predicted; it does not change the model.
What it leaves out: all that grpo.py does, and a critic with a body of its own.

Shape suffixes: B = answers of a micro-batch, T = tokens of its longest row or of one answer, D = hidden size.
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


def read(model: nn.Module, head: nn.Module, rows: list[tuple[list[int], list[int]]]) -> list[tuple[Tensor, Tensor]]:
    """For each prompt and answer the log-probabilities of the answer's tokens, and what the critic expects before each
    of them. Token t is predicted at t − 1."""
    longest = max(len(prompt) + len(said) for prompt, said in rows)
    ids_BT, seen_BT = torch.zeros(2, len(rows), longest, dtype=torch.long)
    for row, (prompt, said) in enumerate(rows):
        ids_BT[row, : len(prompt) + len(said)] = torch.tensor(prompt + said)
        seen_BT[row, : len(prompt) + len(said)] = 1
    found = model(input_ids=ids_BT, attention_mask=seen_BT, use_cache=False, output_hidden_states=True)
    logp_BT = found.logits[:, :-1].float().log_softmax(-1).gather(-1, ids_BT[:, 1:, None]).squeeze(-1)
    value_BT = head(found.hidden_states[-1][:, :-1].detach().float()).squeeze(-1)
    spans = [slice(len(prompt) - 1, len(prompt) - 1 + len(said)) for prompt, said in rows]
    return [(logp_BT[row, span], value_BT[row, span]) for row, span in enumerate(spans)]


def estimate(reward_T: Tensor, value_T: Tensor, lam: float = 0.95, gamma: float = 1.0) -> tuple[Tensor, Tensor]:
    """An answer's advantages, and what the critic should have expected. Nothing comes after the last token."""
    advantage_T, ahead, after = torch.zeros_like(value_T), 0.0, 0.0
    for t in range(len(value_T) - 1, -1, -1):
        ahead = float(reward_T[t] + gamma * after - value_T[t]) + gamma * lam * ahead
        advantage_T[t], after = ahead, float(value_T[t])
    return advantage_T, advantage_T + value_T


def whitened(each: list[Tensor]) -> list[Tensor]:
    """Mean 0 and variance 1 over all tokens."""
    every = torch.cat(each)
    return [(one_T - every.mean()) / (every.var() + 1e-8).sqrt() for one_T in each]


def loss_of(
    now_T, value_T, old_T, old_value_T, advantage_T, return_T, *, clip=0.2, value_clip=0.2, weight=0.1
) -> Tensor:
    """An answer's loss, summed over its tokens: the policy's, and `weight` times the critic's."""
    ratio_T = (now_T - old_T).exp()
    policy_T = -torch.minimum(ratio_T * advantage_T, ratio_T.clamp(1 - clip, 1 + clip) * advantage_T)
    near_T = old_value_T + (value_T - old_value_T).clamp(-value_clip, value_clip)
    critic_T = 0.5 * torch.maximum((value_T - return_T) ** 2, (near_T - return_T) ** 2)
    return (policy_T + weight * critic_T).sum()


def optimizer_of(model, head, lr: float, head_rate=10.0, decay=0.0, eps=1e-8) -> torch.optim.Optimizer:
    """AdamW, which lets matrices decay, and no norms or biases; the critic at `head_rate` times the rate."""
    wide, narrow = ([p for p in model.parameters() if (p.ndim > 1) is large] for large in (True, False))
    groups = [{"params": wide, "weight_decay": decay}, {"params": narrow, "weight_decay": 0.0}]
    groups.append({"params": list(head.parameters()), "weight_decay": decay, "lr": lr * head_rate})
    return torch.optim.AdamW(groups, lr, eps=eps)


def update(model, head, optimizer, answers, *, micro=64, **keys) -> float:
    """One optimiser step on `answers`: (prompt, answer, then of each token log-probability and value when it was drawn,
    advantage, return). Returns the loss before it."""
    total, tokens = 0.0, sum(len(one[1]) for one in answers)
    for start in range(0, len(answers), micro):
        some = answers[start : start + micro]
        found = read(model, head, [(prompt, said) for prompt, said, *_ in some])
        loss = sum(loss_of(*now, *one[2:], **keys) for now, one in zip(found, some, strict=True)) / tokens
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_([*model.parameters(), *head.parameters()], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


@torch.no_grad()
def judged(model, head, reference, rows, rewards: list[float], beta: float = 0.05):
    """What `update` learns from: each token's reward is −beta times its log-ratio, the last one's the answer's, too."""
    now, before = read(model, head, rows), read(reference, head, rows)
    found = []
    for (old_T, value_T), (ref_T, _), reward in zip(now, before, rewards, strict=True):
        reward_T = -beta * (old_T - ref_T)
        reward_T[-1] += reward
        found.append((old_T, value_T, *estimate(reward_T, value_T)))
    advantages = whitened([advantage_T for _, _, advantage_T, _ in found])
    each = zip(rows, found, advantages, strict=True)
    return [(*row, old_T, value_T, white_T, return_T) for row, (old_T, value_T, _, return_T), white_T in each]


def worth(prompt: list[int], said: list[int]) -> float:
    """The task: the larger of the prompt's two digits, and nothing after it."""
    larger = max(prompt[1:3])
    return float(said == [larger, STOP]) + 0.1 * float(said[:1] == [larger])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, default in (("steps", 60), ("prompts", 192), ("updates", 2), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--beta", type=float, default=0.0)  # a model that knows nothing is nothing to stay near
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    draw = random.Random(args.seed)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=13, tie_word_embeddings=True, **sizes))
    reference, head = copy.deepcopy(model).requires_grad_(False), nn.Linear(64, 1, bias=False)
    nn.init.zeros_(head.weight)
    optimizer = optimizer_of(model, head, 3e-3, head_rate=3.0)
    for step in range(args.steps):
        prompts = [[START, draw.randrange(10), draw.randrange(10), IS] for _ in range(args.prompts)]
        said = answer(model, prompts, 3, STOP)
        rewards = [worth(prompt, one) for prompt, one in zip(prompts, said, strict=True)]
        answers = judged(model, head, reference, list(zip(prompts, said, strict=True)), rewards, args.beta)
        for _ in range(args.updates):
            loss = update(model, head, optimizer, answers)
        if step % 5 == 0 or step == args.steps - 1:
            print(f"step {step:3d}  reward {statistics.fmean(rewards):.3f}  loss {loss:+.3f}")


if __name__ == "__main__":
    main()
