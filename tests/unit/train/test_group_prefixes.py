"""A group's prompt is computed once where it learns, and its gradients are those of whole rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from rollout_runs import prompts

from luthier.forward.batches import micro_batches
from luthier.forward.forward import Forward
from luthier.objectives import OBJECTIVES
from luthier.train.rollouts import rows
from luthier.train.rollouts.drawn import Answer, Group
from luthier.types import Encoded

ANSWERS, LONGEST = 8, 5
Gradients = Mapping[str, torch.Tensor]


def groups(count: int) -> list[Group]:
    """Prompts three times as long as the answers to them."""
    draw, found = np.random.default_rng(0), []
    for place, prompt in enumerate(prompts(count, length=3 * LONGEST)):
        answers = []
        for number in range(ANSWERS):
            length = LONGEST - number % 2
            logp_T = draw.uniform(-4, -2, length).astype(np.float32)
            answers.append(Answer(tuple(draw.integers(10, 40, length).tolist()), logp_T, "said", "length"))
        found.append(Group(place, place, prompt, answers, rewards=draw.uniform(0, 1, ANSWERS).tolist()))
    return found


def learnt(objective: Any, examples: list[Encoded], module: Any, *, share: bool) -> tuple[int, Gradients]:
    """Tokens computed, and the gradient of each weight that trains."""
    with Forward(module, share_prefix=share).opened() as forward:
        batches = micro_batches(examples, 100_000, share_prefix=share)
        torch.stack([objective.loss(forward.rows(batch)).sum() for batch in batches]).sum().backward()  # type: ignore[no-untyped-call]
    gradients = {name: weight.grad for name, weight in module.named_parameters() if weight.grad is not None}
    return sum(len(batch.ids_T) for batch in batches), gradients


@pytest.mark.parametrize("name", ["grpo", "dapo", "gspo"])
@pytest.mark.parametrize("adapted", [True, False], ids=["lora", "all weights"])
def test_a_shared_prompt_gives_the_gradients_of_whole_rows(name: str, adapted: bool) -> None:
    objective = OBJECTIVES.build(name, {"kl": 0.0} if name == "grpo" else {})
    given = groups(3)
    worth = rows.credited(given, objective.estimator, rows.Computed())
    old = [[answer.logp_T for answer in group.answers] for group in given]  # far from now: ratios count
    made = [rows.row(group, i, worth[i], rows.Computed(old_logp=old)) for i, group in enumerate(given)]
    tokens, whole = learnt(objective, made, tiny.lora() if adapted else tiny.model(), share=False)
    fewer, shared = learnt(objective, made, tiny.lora() if adapted else tiny.model(), share=True)
    assert fewer < 0.4 * tokens, "each prompt is computed once"
    assert whole.keys() == shared.keys() and max(float(one.abs().max()) for one in whole.values()) > 1e-3
    for key, one in whole.items():
        assert torch.allclose(shared[key], one, atol=1e-6, rtol=1e-5), f"{key} {(shared[key] - one).abs().max():.1e}"
