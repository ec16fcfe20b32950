"""Run by verl's own interpreter: its losses with gradients, and its advantages, on rows read from stdin.

One JSON list on stdout. Only its pure functions are asked; ray, which its package imports on the way to them, is a name
that nothing calls.
"""

import importlib.machinery
import json
import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import torch


def without_ray():
    for name in ("ray", "ray.util", "ray.actor", "ray.exceptions", "ray.experimental", "ray.experimental.state"):
        sys.modules[name] = nothing(name)
    for name in ("ray.util.placement_group", "ray.util.scheduling_strategies", "ray.util.collective"):
        sys.modules[name] = nothing(name)
    sys.modules["ray.experimental.state.api"] = nothing("ray.experimental.state.api")


def nothing(name):
    module = MagicMock()
    module.__spec__, module.__path__ = importlib.machinery.ModuleSpec(name, None), []
    return module


def padded(rows):
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [0.0] * (longest - len(row)) for row in rows], dtype=torch.float64)


def mask_of(rows):
    return padded([[1.0] * len(row) for row in rows])


def policy(case, core):
    from verl.workers.config import ActorConfig

    keys, values = case["keys"], padded(case["logp"]).requires_grad_()
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio=keys["low"],
        clip_ratio_low=keys["low"],
        clip_ratio_high=keys["high"],
        clip_ratio_c=keys.get("dual", 1e9),
    )
    function = core.compute_policy_loss_gspo if keys.get("gspo") else core.compute_policy_loss_vanilla
    mask, old, advantage = mask_of(case["logp"]), padded(case["old"]), padded(case["advantage"])
    return values, function(old, values, advantage, mask, keys["mode"], config)[0]


def value(case, core):
    values = padded(case["value"]).requires_grad_()
    mask = mask_of(case["value"])
    return values, core.compute_value_loss(
        values, padded(case["return"]), padded(case["old"]), mask, case["keys"]["clip"]
    )[0]


def learnt(case, core):
    values, loss = {"policy": policy, "value": value}[case["kind"]](case, core)
    (gradient,) = torch.autograd.grad(loss, values)
    lengths = [len(row) for row in case.get("logp") or case["value"]]
    return [float(loss), torch.cat([row[:n] for row, n in zip(gradient, lengths, strict=True)]).tolist()]


def credit(case, core):
    rewards, mask = padded(case["rewards"]), mask_of(case["rewards"])
    index, keys = np.array(case["group"]), case["keys"]
    if case["estimator"] == "gae":
        found = core.compute_gae_advantage_return(rewards, padded(case["values"]), mask, keys["gamma"], keys["lam"])
    elif case["estimator"] == "grpo":
        found = core.compute_grpo_outcome_advantage(rewards, mask, index, 1e-4, keys["scale"])
    elif case["estimator"] == "rloo":
        found = core.compute_rloo_outcome_advantage(rewards, mask, index)
    elif case["estimator"] == "whitened":
        config = SimpleNamespace(gamma=keys["gamma"])
        found = core.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config=config)
    else:
        found = core.compute_reinforce_plus_plus_baseline_outcome_advantage(rewards, mask, index)
    lengths = [len(row) for row in case["rewards"]]
    return [torch.cat([row[:n] for row, n in zip(one, lengths, strict=True)]).tolist() for one in found]


if __name__ == "__main__":
    without_ray()
    from verl.trainer.ppo import core_algos

    cases = json.load(sys.stdin)
    found = [(credit if case["kind"] == "credit" else learnt)(case, core_algos) for case in cases]
    print("RESULT " + json.dumps(found))
