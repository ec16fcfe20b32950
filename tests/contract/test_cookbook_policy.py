"""The library against cookbook/grpo.py and cookbook/ppo.py: the same credit, losses and weights."""

from __future__ import annotations

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from torch import Tensor, nn

from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.models import heads
from luthier.models.heads import HeadCard
from luthier.objectives import OBJECTIVES
from luthier.objectives.credit import CREDITS, Judged
from luthier.objectives.shown import means
from luthier.recipe import Plugin
from luthier.run import Run
from luthier.train import fit
from luthier.types import Encoded

COOKBOOK = Path(__file__).parents[2] / "cookbook"
STEPS, GROUPS, SAMPLES, EPS = 4, 5, 3, 1e-5
PATHS: list[dict[str, Any]] = [
    {"layout": "packed", "micro_tokens": 10_000},
    {"layout": "packed", "micro_tokens": 60},
    {"layout": "padded", "micro_tokens": 100},
]
ways = pytest.mark.parametrize("way", ["full", "lora"])
paths = pytest.mark.parametrize("path", PATHS, ids=lambda path: f"{path['layout']} {path['micro_tokens']}")
Rows = list[tuple[list[int], list[int]]]


def cookbook(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cookbook_{name}", COOKBOOK / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def drawn() -> tuple[Rows, list[float]]:
    """Prompts, each with several answers, and what these are worth."""
    draw, rows = np.random.default_rng(0), []
    for _ in range(GROUPS):
        prompt = draw.integers(3, tiny.VOCABULARY, int(draw.integers(9, 15))).tolist()
        rows += [(prompt, draw.integers(3, tiny.VOCABULARY, int(draw.integers(2, 8))).tolist()) for _ in range(SAMPLES)]
    return rows, draw.normal(size=len(rows)).tolist()


def models(way: str) -> tuple[tiny.Policy, nn.Module, nn.Module]:
    """Ours, the cookbook's of the same weights, and what both were before any adapter."""
    policy = tiny.Policy(tiny.lora() if way == "lora" else tiny.model())
    return policy, copy.deepcopy(policy.module), tiny.model().requires_grad_(False)


def groups(rows: Rows, **columns: list[Any]) -> tiny.Store:
    """The rows as a rollout leaves them: one example a prompt, columns of tokens behind a prompt of which nothing is
    known."""
    store = tiny.Store(GROUPS)
    store.encoded = []
    for start in range(0, len(rows), SAMPLES):
        some = range(start, start + SAMPLES)
        before = len(rows[start][0])

        def beside(values: Any, before: int = before) -> Any:
            return np.concatenate([np.zeros(before), np.asarray(values)]).astype(np.float32)

        ids = tuple(np.array([*rows[n][0], *rows[n][1]], np.int32) for n in some)
        weights = tuple(beside(np.ones(len(rows[n][1]))) for n in some)
        known = {name: tuple(beside(values[n]) for n in some) for name, values in columns.items()}
        store.encoded.append(Encoded(ids, weights, before, known))
    store.lengths = np.array([len(each) for each in store.encoded], np.int32)
    store.scored = np.array([each.scored for each in store.encoded], np.int32)
    return store


def learnt(folder: Path, policy: tiny.Policy, objective: Any, store: tiny.Store, path: dict[str, Any]) -> list[float]:
    """Our losses: every step takes all rows."""
    adamw = Plugin(name="adamw", args={"eps": EPS})
    keys = {"lr": 3e-3, "steps": STEPS, "warmup": 0, "schedule": "constant", "optimizer": adamw, "batch": GROUPS}
    fit(policy, objective, tiny.Prepared(store), tiny.recipe(folder, **keys, **path), Run(folder))
    return [event["loss"] for event in Run(folder).events("step")]


def agree(policy: tiny.Policy, theirs: nn.Module) -> None:
    weights = dict(theirs.named_parameters())
    for name, weight in policy.trainable():
        if name in weights:
            torch.testing.assert_close(weight.data, weights[name].data, atol=1e-6, rtol=0, msg=lambda m, n=name: n + m)


def apart(each: list[Tensor], seed: int, size: float = 0.2) -> list[Tensor]:
    """What drew was a little other."""
    draw = torch.Generator().manual_seed(seed)
    return [one.detach() + size * torch.randn(len(one), generator=draw) for one in each]


@ways
@paths
def test_grpo_follows_the_cookbook(way: str, path: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Losses to 1e-6 and weights to 1e-6 over several updates on the same answers, some of them clipped."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    oracle, (policy, theirs, reference), (rows, rewards) = cookbook("grpo"), models(way), drawn()
    old = apart(oracle.log_probabilities(theirs, rows), 1)
    credit = [one for n in range(0, len(rows), SAMPLES) for one in oracle.advantages(rewards[n : n + SAMPLES])]
    answers = [(*row, advantage, old_T) for row, advantage, old_T in zip(rows, credit, old, strict=True)]
    objective = OBJECTIVES.build("grpo", {})
    store = groups(
        rows, old_logp=old, advantage=[np.full(len(row[1]), one) for row, one in zip(rows, credit, strict=True)]
    )
    with torch.no_grad(), Forward(policy.module, layout="padded").opened() as forward:
        (batch,) = micro_batches(store.encoded, 10_000, layout="padded")
        shown = means({key: float(value) for key, value in objective.shown(forward.rows(batch)).items()})

    optimizer = oracle.optimizer_of(theirs, 3e-3, decay=0.1, eps=EPS)
    expected = [oracle.update(theirs, reference, optimizer, answers, micro=4) for _ in range(STEPS)]
    losses = learnt(tmp_path / "run", policy, objective, store, path)
    assert losses == pytest.approx([loss for loss, _ in expected], rel=1e-6, abs=1e-6)
    assert shown["clipped"] == pytest.approx(expected[0][1]) and 0.05 < expected[0][1] < 0.5
    assert losses[-1] < losses[0] - 0.02
    agree(policy, theirs)


def test_grpos_credit_is_the_librarys() -> None:
    oracle = cookbook("grpo")
    for rewards in ([0.1, 0.7, -0.4], [1.0, 1.0, 0.0, 0.0], [0.3, 0.3, 0.3]):
        (found,) = CREDITS.build("group", {})([[Judged(reward, 1) for reward in rewards]])
        assert [float(worth.advantage_T[0]) for worth in found] == pytest.approx(oracle.advantages(rewards), abs=1e-12)


@ways
@paths
def test_ppo_follows_the_cookbook(way: str, path: dict[str, Any], tmp_path: Path, monkeypatch: Any) -> None:
    """Losses, the model's weights and the critic's; what is taken off for leaving the reference; credit."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    oracle, (policy, theirs, reference), (rows, rewards) = cookbook("ppo"), models(way), drawn()
    policy.heads["value"] = heads.attach(policy.bare, policy.device, HeadCard("token"))
    policy.heads["value"].weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    head = nn.Linear(policy.heads["value"].weight.shape[1], 1, bias=False)
    head.weight.data.copy_(policy.heads["value"].weight.data)

    answers = oracle.judged(theirs, head, reference, rows, rewards, beta=0.3)
    objective = OBJECTIVES.build("ppo", {"kl": 0.3, "critic_lr": 5.0})
    now, before = (oracle.read(model, head, rows) for model in (theirs, reference))
    judged = [
        Judged(reward, len(logp_T), -objective.reward_kl * (logp_T - ref_T).detach().numpy(), value_T.detach().numpy())
        for (logp_T, value_T), (ref_T, _), reward in zip(now, before, rewards, strict=True)
    ]
    worths = [one for each in objective.estimator([judged[:7], judged[7:]]) for one in each]
    for worth, one in zip(worths, answers, strict=True):
        np.testing.assert_allclose(worth.advantage_T, one[4], atol=2e-6)
        np.testing.assert_allclose(worth.return_T, one[5], atol=2e-6)

    old = apart([one[2] for one in answers], 1)
    answers = [(prompt, said, logp, *rest) for (prompt, said, _, *rest), logp in zip(answers, old, strict=True)]
    names = ("old_logp", "old_value", "advantage", "return")
    columns = {name: [one[place] for one in answers] for place, name in enumerate(names, 2)}
    optimizer = oracle.optimizer_of(theirs, head, 3e-3, head_rate=5.0, decay=0.1, eps=EPS)
    expected = [oracle.update(theirs, head, optimizer, answers, micro=4) for _ in range(STEPS)]
    losses = learnt(tmp_path / "run", policy, objective, groups(rows, **columns), path)
    assert losses == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert losses[-1] < losses[0] - 0.02
    agree(policy, theirs)
    torch.testing.assert_close(policy.heads["value"].weight.data, head.weight.data, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_it_runs_on_a_model_of_its_own(name: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--steps", "2", "--prompts", "3"])
    cookbook(name).main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["0", "1"] and all("reward" in line for line in lines)


@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_answers_end_at_the_stop_token_which_belongs_to_them(name: str) -> None:
    oracle, model = cookbook(name), tiny.model()
    torch.manual_seed(0)
    found = oracle.answer(model, [[3, 4, 5]] * 200, 6, 7)
    assert all(len(one) == 6 or one[-1] == 7 for one in found) and all(7 not in one[:-1] for one in found)
    assert {len(one) for one in found} > {6} and len({tuple(one) for one in found}) > 150
