"""Random rollouts through TRL's and verl's own functions, each in its own environment, and through ours.

TRL's is `.peers/trl` (`benchmarks/environments.py`). verl's is `.peers/verl`: torch, `pip install --no-deps
verl==0.9.1` and what its pure functions import (numpy, omegaconf, tensordict, transformers, …); ray is not needed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.objectives import ragged
from tests.unit.objectives.rolled import rollout

from luthier.forward.divergence import of
from luthier.objectives import OBJECTIVES
from luthier.objectives.credit import CREDITS, Judged
from luthier.objectives.policy.critic import Value

PEERS = Path(__file__).parents[3] / ".peers"
pytestmark = pytest.mark.slow


def asked(peer: str, script: str, cases: Sequence[dict[str, Any]]) -> list[Any]:
    python = PEERS / peer / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{peer}'s environment is not there (.peers/{peer})")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, Path(__file__).with_name(script)],
        input=json.dumps(list(cases)),
        capture_output=True,
        text=True,
        env=environment,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[Any] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    assert len(found) == len(cases)
    return found


@cache
def drawn() -> tuple[ragged.Answer, ...]:
    return tuple(answer for example in ragged.examples(5, seed=3, responses=3) for answer in example)


def lists(name: str, *, whole: bool = False) -> list[list[float]]:
    """What is known of each token, by response; `whole`: that of the first token at every token."""
    found = [(getattr(a, name) if name in ("logp", "ref") else a.tokens[name]).tolist() for a in drawn()]
    return [[one[0]] * len(one) for one in found] if whole else found


def ours(name: str, keys: dict[str, Any], *, whole: bool = False) -> tuple[float, list[float]]:
    """Our loss, and its gradient of each token."""
    objective = OBJECTIVES.build(name, keys)
    rows = rollout(
        lists("logp"), ref=lists("ref"), old_logp=lists("old_logp"), advantage=lists("advantage", whole=whole),
        sampler_logp=lists("sampler_logp"),
    )  # fmt: skip
    rows = replace(rows, readouts={"entropy": torch.cat([torch.tensor(one) for one in lists("entropy")]).double()})
    loss = objective.loss(rows).mean()
    return loss.item(), torch.autograd.grad(loss, rows.logp_S)[0].tolist()


def same(mine: tuple[float, list[float]], theirs: Any, case: Any, *, loss: bool = True) -> None:
    assert np.abs(theirs[1]).max() > 1e-4
    assert mine[1] == pytest.approx(theirs[1], rel=1e-6, abs=1e-6), case
    if loss:
        assert mine[0] == pytest.approx(theirs[0], rel=1e-6, abs=1e-6), case


GRPO = {"loss_type": "grpo", "low": 0.2, "high": 0.2}
TRL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("grpo", {}, {**GRPO, "beta": 0.04}),
    ("grpo", {"kl": 0.3, "kl_by": "k3_ratio"}, {**GRPO, "beta": 0.3, "by_ratio": True}),
    ("grpo", {"unit": "token", "kl": 0}, {**GRPO, "loss_type": "bnpo"}),
    ("dr_grpo", {"length": 30}, {**GRPO, "loss_type": "dr_grpo", "length": 30}),
    ("dapo", {}, {**GRPO, "loss_type": "dapo", "high": 0.28}),
    ("dapo", {"entropy": 0.1}, {**GRPO, "loss_type": "dapo", "high": 0.28, "entropy": 0.1}),
    ("dapo", {"correction": "truncate", "cap": 1.05}, {**GRPO, "loss_type": "dapo", "high": 0.28, "cap": 1.05}),
    ("gspo", {"clip_low": 0.1, "clip_high": 0.1}, {**GRPO, "level": "sequence", "low": 0.1, "high": 0.1}),
    ("gspo", {}, {**GRPO, "level": "sequence", "low": 3e-4, "high": 4e-4}),
]


def test_losses_and_gradients_equal_trls() -> None:
    cases = []
    for _, _, keys in TRL:
        case = {
            "trainer": "grpo", "logp": lists("logp"), "old": lists("old_logp"), "ref": lists("ref"), "keys": keys,
            "advantage": lists("advantage", whole=keys.get("level") == "sequence"), "entropy": lists("entropy"),
        }  # fmt: skip
        if "cap" in keys:
            pairs = zip(lists("old_logp"), lists("sampler_logp"), strict=True)
            gaps = [np.array(one) - np.array(other) for one, other in pairs]
            case["weight"] = [np.minimum(np.exp(gap), keys["cap"]).tolist() for gap in gaps]
        cases.append(case)
    for low, high in ((0.2, 0.2), (3.0, 3.0)):
        cases.append({**cases[-1], "trainer": "rloo", "keys": {"low": low, "high": high}})
    draw = np.random.default_rng(0)
    student, teacher = (3 * draw.normal(size=(2, 5, 11)) for _ in range(2))
    for beta in (0.0, 0.3, 0.5, 1.0):
        cases.append(
            {"trainer": "gkd", "student": student.tolist(), "teacher": teacher.tolist(), "keys": {"beta": beta}}
        )
    theirs = asked("trl", "trl_policy_losses.py", cases)
    for (name, keys, given), expected in zip(TRL, theirs, strict=False):
        same(ours(name, keys, whole=given.get("level") == "sequence"), expected, (name, keys))
    for expected, clip in zip(theirs[len(TRL) :], (0.2, 3.0), strict=False):
        # TRL's value has the ratio of a response once, ours at each of its tokens: their gradients are one
        keys = {"kl": 0.0, "clip_low": clip, "clip_high": clip}
        same(ours("rloo", keys, whole=True), expected, ("rloo", clip), loss=False)
    for case, expected in zip(cases[-4:], theirs[-4:], strict=True):
        same(distilled(case), expected, case["keys"])


def distilled(case: dict[str, Any]) -> tuple[float, list[float]]:
    student = torch.tensor(case["student"], dtype=torch.float64, requires_grad=True)
    p, q = student.log_softmax(-1).flatten(0, 1), torch.tensor(case["teacher"]).log_softmax(-1).flatten(0, 1)
    beta = case["keys"]["beta"]
    if beta in (0.0, 1.0):
        one, other = (q, p) if beta == 0 else (p, q)
        loss = (one.exp() * (one - other)).sum(-1).mean()
    else:
        loss = of(p, q, beta).mean()
    return loss.item(), torch.autograd.grad(loss, student)[0].flatten().tolist()


VERL: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("ppo", {}, {"mode": "token-mean", "low": 0.2, "high": 0.2}),
    ("ppo", {"dual_clip": 1.3}, {"mode": "token-mean", "low": 0.2, "high": 0.2, "dual": 1.3}),
    ("grpo", {"kl": 0}, {"mode": "seq-mean-token-mean", "low": 0.2, "high": 0.2}),
    ("dapo", {}, {"mode": "token-mean", "low": 0.2, "high": 0.28}),
    ("gspo", {}, {"mode": "seq-mean-token-mean", "low": 3e-4, "high": 4e-4, "gspo": True}),
]
CREDIT: list[tuple[str, dict[str, Any], str, dict[str, Any]]] = [
    ("gae", {"lam": 0.9, "gamma": 0.95}, "gae", {"lam": 0.9, "gamma": 0.95}),
    ("gae", {"lam": 1.0}, "gae", {"lam": 1.0, "gamma": 1.0}),
    ("group", {}, "grpo", {"scale": True}),
    ("group", {"scale": "none"}, "grpo", {"scale": False}),
    ("leave_one_out", {}, "rloo", {}),
    ("whitened", {}, "whitened", {"gamma": 1.0}),
    ("whitened", {"gamma": 0.9}, "whitened", {"gamma": 0.9}),
    ("whitened", {"baseline": "group"}, "baseline", {}),
]


def test_losses_and_advantages_equal_verls() -> None:
    draw = np.random.default_rng(1)
    answers = drawn()
    groups = [index // 3 for index in range(len(answers))]
    worth = draw.normal(size=len(answers))
    dense = [draw.normal(size=len(one.logp)) * 0.1 for one in answers]
    cases: list[dict[str, Any]] = [
        {
            "kind": "policy",
            "keys": keys,
            "logp": lists("logp"),
            "old": lists("old_logp"),
            "advantage": lists("advantage"),
        }
        for _, _, keys in VERL
    ]
    known = {"value": lists("value"), "old": lists("old_value"), "return": lists("return")}
    cases.append({"kind": "value", "keys": {"clip": 0.4}, **known})
    for name, _, estimator, keys in CREDIT:
        outcome = name in ("group", "leave_one_out") or estimator == "baseline"
        rewards = [
            (np.zeros(len(d)) if outcome else d) + np.eye(len(d))[-1] * r for d, r in zip(dense, worth, strict=True)
        ]
        cases.append(
            {
                "kind": "credit",
                "estimator": estimator,
                "keys": keys,
                "group": groups,
                "values": lists("value"),
                "rewards": [one.tolist() for one in rewards],
            }
        )
    theirs = asked("verl", "verl_losses.py", cases)
    for (name, keys, _), expected in zip(VERL, theirs, strict=False):
        same(ours(name, keys), expected, (name, keys))
    same(valued(), theirs[len(VERL)], "value")
    for (name, keys, estimator, _), expected in zip(CREDIT, theirs[len(VERL) + 1 :], strict=True):
        outcome = name in ("group", "leave_one_out") or estimator == "baseline"
        judged = [
            Judged(float(r), len(d), None if outcome else d, np.array(v))
            for r, d, v in zip(worth, dense, lists("value"), strict=True)
        ]
        split = [judged[start : start + 3] for start in range(0, len(judged), 3)]
        found = [one for each in CREDITS.build(name, keys)(split) for one in each]
        assert np.concatenate([one.advantage_T for one in found]) == pytest.approx(expected[0], abs=1e-6), name
        if name == "gae":
            returns = [one.return_T for one in found if one.return_T is not None]
            assert np.concatenate(returns) == pytest.approx(expected[1], abs=1e-6)


def valued() -> tuple[float, list[float]]:
    rows = rollout(lists("logp"), old_value=lists("old_value"), **{"return": lists("return")})
    value_S = torch.cat([torch.tensor(one) for one in lists("value")]).double().requires_grad_()
    loss = Value(0.4).loss(replace(rows, values={"value": (value_S, rows.row_S)})).mean()
    return loss.item(), torch.autograd.grad(loss, value_S)[0].tolist()
