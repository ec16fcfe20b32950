"""PPO against a reward model that learnt from people's preferences (HH-RLHF, harmless), as InstructGPT does it: the
default model with LoRA learns to answer as the better answers do, apart from that to judge, and goes on by PPO.

Of pairs with a short question and short answers some train all three; of held-out ones it is told

- how often the reward model likes the answer better that people liked better, before and after it learnt;
- what the reward model says of the policy's answers, before and after PPO;
- how often the policy moved towards the better answer: log policy(better) - log reference(better) above that of the
  worse one, which is the reward that a policy stands for where it was held back by KL (arXiv:2305.18290, eq. 5);
- how far the policy went, in nats an answer.

The rows are not shipped: `shared/data/hh-rlhf` (benchmarks/workload.py), or nothing is done.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from workload import model_folder, shared

from learning import runs
from learning.contest import RARELY

ROWS = "hh-rlhf/harmless-base/test.jsonl.gz"
LONGEST_QUESTION, LONGEST = 64, 48
"""Tokens of the talk so far, and of an answer."""
HELD_OUT, ASKED = 128, 64
"""Held-out pairs, and to how many of their prompts the policy answers."""
IMITATED, STEPS, N, PROMPTS = 24, 12, 4, 8
"""Steps by likelihood, after which answers end; those of PPO, and its answers a prompt and prompts a step."""
KEYS = {"lr": 2e-4, "schedule": "constant", "warmup": 0, "save_every": RARELY}
SPEAKS = "\n\nAssistant:"
TURN = re.compile(r"\n\n(Human|Assistant):")


def pairs() -> tuple[str, str]:
    """Short pairs to learn from, and held-out ones, in the file's order; no question on both sides."""
    from transformers import AutoTokenizer

    path = shared() / "data" / ROWS
    if not path.exists():
        sys.exit(f"preferred: there is no {path}")
    tokenizer = AutoTokenizer.from_pretrained(model_folder(None))
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    asked: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        question, better = row["chosen"].rsplit(SPEAKS, 1)
        same, worse = row["rejected"].rsplit(SPEAKS, 1)
        lengths = [len(tokenizer(text).input_ids) for text in (question, better, worse)]
        if question == same and min(lengths) > 2 and lengths[0] <= LONGEST_QUESTION and max(lengths[1:]) <= LONGEST:
            asked.setdefault(question, []).append({key: row[key] for key in ("chosen", "rejected")})
    short = [row for some in asked.values() for row in some[:1]]
    home = runs.home("preferred")
    return runs.write(home / "train.jsonl", short[:-HELD_OUT]), runs.write(home / "held-out.jsonl", short[-HELD_OUT:])


def better(train: str) -> str:
    """The better answers alone, as rows to imitate; where."""
    roles, found = {"Human": "user", "Assistant": "assistant"}, []
    for line in Path(train).read_text(encoding="utf-8").splitlines():
        _, *parts = TURN.split(json.loads(line)["chosen"])
        said = zip(parts[::2], parts[1::2], strict=True)
        found.append({"messages": [{"role": roles[who], "content": text.strip()} for who, text in said]})
    return runs.write(runs.home("preferred") / "better.jsonl", found)


def imitator(train: str) -> dict[str, Any]:
    """The recipe of the policy that PPO begins with."""
    return {
        "model": model_folder(None),
        "data": better(train),
        "adapt": ["lora"],
        "train": {**KEYS, "steps": IMITATED, "batch": 8, "loss_on": "last"},
        "output": str(runs.home("preferred") / "imitator"),
    }


def judge(train: str, held_out: str) -> dict[str, Any]:
    """A reward model's recipe."""
    return {
        "model": model_folder(None),
        "data": train,
        "objective": "reward",
        "adapt": ["lora"],
        "train": {**KEYS, "epochs": 1, "batch": 8},
        "evaluate": [{"data": held_out, "scorers": ["preference_accuracy"]}],
        "output": str(runs.home("preferred") / "judge"),
    }


def learner(model: str, train: str, held_out: str, reward: dict[str, Any], seed: int) -> dict[str, Any]:
    """PPO's recipe, everything but the sizes as it comes."""
    return {
        "model": model,
        "data": train,
        "objective": "ppo",
        "adapt": ["lora"],
        "rollout": {"n": N, "prompts": PROMPTS, "max_new_tokens": LONGEST},
        "reward": [reward],
        "seed": seed,
        "train": {**KEYS, "steps": STEPS, "batch": PROMPTS},
        "evaluate": [
            {
                "data": held_out,
                "scorers": [reward],
                "temperature": 1.0,
                "max_new_tokens": LONGEST,
                "limit": ASKED,
            }
        ],
        "output": str(runs.home("preferred") / f"ppo-{seed}"),
    }


def leanings(run: Path, held_out: str) -> list[float]:
    """For each held-out pair 1 where the policy moved more towards the better answer than towards the worse, else 0."""
    import numpy as np

    from luthier import models
    from luthier.data import Ledger, Template, read
    from luthier.forward.likelihoods import Likelihoods
    from luthier.recipe import Source
    from luthier.run import Run

    policy = models.open_run(Run(run))
    template = Template(policy.tokenizer)
    rows = [template.encode(example) for example in read([Source(path=held_out)], Ledger())]
    now = Likelihoods(policy.module).logprobs(rows)
    before = Likelihoods(policy.module, policy.adapter_off).logprobs(rows)
    found = []
    for row, now_S, before_S in zip(rows, now, before, strict=True):
        ends = np.cumsum([int((weights != 0).sum()) for weights in row.weights])[:-1]
        better, worse = (float(part.sum()) for part in np.split(now_S - before_S, ends))
        found.append(float(better > worse))
    return found


def result(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """The reward model and the model that PPO begins with, once; PPO by every seed."""
    train, held_out = pairs()
    judging, imitating = judge(train, held_out), imitator(train)
    judged, _ = runs.all_ran([judging, imitating], at_once, large=True)
    reward = {"reward_model": {"run": judging["output"]}}
    recipes = [learner(imitating["output"], train, held_out, reward, seed) for seed in seeds]
    found = runs.all_ran(recipes, at_once, large=True)
    told = []
    for recipe, run in zip(recipes, found, strict=True):
        last = [step for step in run["steps"] if "kl" in step][-5:]
        length = fmean(event["length"] for event in run["rollouts"][-5:])
        told.append(
            {
                "reward": runs.scored(run),
                "leans": runs.mean(leanings(Path(recipe["output"]), held_out)),
                "kl": fmean(step["kl"] for step in last) * length,
                "length": [run["rollouts"][0]["length"], length],
                "warned": run["warned"],
                "rollouts": run["rollouts"],
                "seconds": run["summary"]["seconds"],
            }
        )
    accuracy = runs.scored(judged)
    return {"judge": accuracy, "runs": told}, text(accuracy, seeds, told)


def text(accuracy: dict[str, runs.Scored], seeds: Sequence[int], told: Sequence[dict[str, Any]]) -> str:
    """A line a seed."""
    heads = ["seed", "reward before", "after", "difference", "leans to better", "nats an answer", "length", "warned"]
    lines = [
        [
            str(seed),
            runs.shown(one["reward"]["base"]),
            runs.shown(one["reward"]["tuned"]),
            runs.shown(one["reward"]["difference"], sign=True),
            runs.shown(one["leans"]),
            f"{one['kl']:.2f}",
            " → ".join(f"{length:.0f}" for length in one["length"]),
            ", ".join(sorted(set(one["warned"]))) or "–",
        ]
        for seed, one in zip(seeds, told, strict=True)
    ]
    return (
        f"The reward model ranks held-out pairs as people did: {runs.shown(accuracy['base'])} before it learnt, "
        f"{runs.shown(accuracy['tuned'])} after.\n\nPPO against it, {STEPS} steps of {PROMPTS} x {N} answers; held-out "
        f"prompts answered at temperature 1.\n\n{runs.table(heads, lines)}\n"
    )
