"""Random ragged Rows for tests of objectives: examples of unequal lengths, judged as each objective needs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from luthier.objectives.rows import Rows
from luthier.types import Needs


@dataclass(frozen=True)
class Answer:
    """One response: its tokens' log-probabilities, and everything an objective may ask of it."""

    logp: Tensor
    ref: Tensor
    mean_logp: Tensor
    weight: Tensor
    reward: float
    margin: float
    row_weight: float
    value: Tensor
    """One reading for each step."""
    labels: Tensor
    tokens: dict[str, Tensor] = field(default_factory=dict)
    """What a rollout, a critic and a teacher say of each token: columns, `value`, and readouts by name."""


Example = Sequence[Answer]


def examples(count: int, seed: int = 0, responses: int = 2, at_start: bool = False) -> list[Example]:
    """`count` examples of `responses` responses; `at_start`: the policy is the reference, the head reads 0."""
    g = torch.Generator().manual_seed(seed)
    beside = torch.Generator().manual_seed(1000 + seed)

    def answer(place: int, example: int) -> Answer:
        tokens, steps = int(torch.randint(1, 9, (), generator=g)), int(torch.randint(1, 4, (), generator=g))
        ref = -3 * torch.rand(tokens, generator=g) - 0.01
        logp = ref if at_start else (ref + 0.7 * torch.randn(tokens, generator=g)).clamp(max=-0.01)
        return Answer(
            logp=logp,
            ref=ref,
            mean_logp=-8 * torch.rand(tokens, generator=g),
            weight=torch.ones(tokens),
            # pairs: the first response is the best; alone: labels alternate
            reward=1.0 - place / 2 if responses > 1 else float(example % 2 == 0),
            margin=float(torch.rand((), generator=g)) if not at_start else 0.0,
            row_weight=0.5 + float(torch.rand((), generator=g)),
            value=torch.randn(steps, generator=g) if not at_start else torch.zeros(steps),
            labels=torch.randint(-1, 2, (steps,), generator=g).float(),
            tokens=rolled(logp, beside, at_start),
        )

    return [[answer(place, example) for place in range(responses)] for example in range(count)]


def rolled(logp: Tensor, g: torch.Generator, at_start: bool) -> dict[str, Tensor]:
    """What is known of a drawn response's tokens besides: `at_start`, the policy is what drew them."""

    def noise(size: float) -> Tensor:
        return size * torch.randn(len(logp), generator=g) * (not at_start)

    old = logp + noise(0.3)
    return {
        "old_logp": old,
        "sampler_logp": old + noise(0.1),
        "advantage": torch.randn(len(logp), generator=g),
        "old_value": torch.randn(len(logp), generator=g),
        "return": torch.randn(len(logp), generator=g),
        "value": torch.randn(len(logp), generator=g),
        "entropy": 3 * torch.rand(len(logp), generator=g),
        "kl": torch.rand(len(logp), generator=g),
        "reverse_kl": torch.rand(len(logp), generator=g),
        "jsd 0.5": torch.rand(len(logp), generator=g),
    }


ROLLED = ("old_logp", "sampler_logp", "advantage", "old_value", "return")
"""The columns of tokens that a rollout fills."""


def rows(
    chosen: Sequence[Example],
    needs: Needs | None = None,
    *,
    kl_baseline: float = 0.3,
    state: dict[str, float] | None = None,
    weights: bool = False,
) -> Rows:
    """The examples laid end to end. With `needs`, what it does not declare is None, as the loop leaves it."""
    answers = [answer for example in chosen for answer in example]
    owner = [index for index, example in enumerate(chosen) for _ in example]
    pairs = [
        (i, j)
        for i, one in enumerate(answers)
        for j, other in enumerate(answers)
        if owner[i] == owner[j] and one.reward > other.reward
    ]
    better, worse = (torch.tensor([pair[side] for pair in pairs], dtype=torch.long) for side in (0, 1))
    per_step = needs is not None and needs.reward_head == "step"
    readings = [answer.value if per_step else answer.value[-1:] for answer in answers]
    every = {name: torch.cat([answer.tokens[name] for answer in answers]) for name in answers[0].tokens}
    row_S = owners([answer.logp for answer in answers])
    whole = Rows(
        logp_S=torch.cat([answer.logp for answer in answers]).clone().requires_grad_(),
        weight_S=torch.cat([answer.weight for answer in answers]),
        row_S=row_S,
        num_rows=len(answers),
        readouts={
            "mean_logp": torch.cat([answer.mean_logp for answer in answers]),
            **{name: every[name].clone().requires_grad_() for name in every if name not in (*ROLLED, "value")},
        },
        columns={
            "reward": torch.tensor([answer.reward for answer in answers]),
            "margin": torch.tensor([answer.margin for answer in answers]),
            "right": torch.tensor([float(answer.reward > 0.5) for answer in answers]),
            **{name: every[name] for name in ROLLED},
            "of_reference": torch.tensor([float(place % 2) for example in chosen for place in range(len(example))]),
            **({"step_reward": torch.cat([answer.labels for answer in answers])} if per_step else {}),
        },
        values={
            "reward": (torch.cat(readings).clone().requires_grad_(), owners(readings)),
            "value": (every["value"].clone().requires_grad_(), row_S),
        },
        ref_S=torch.cat([answer.ref for answer in answers]),
        group_N=torch.tensor(owner),
        best_N=best(answers, owner, better),
        better_P=better,
        worse_P=worse,
        kl_baseline=torch.tensor(kl_baseline),
        weight_N=torch.tensor([answer.row_weight for answer in answers]) if weights else None,
        state=state,
    )
    return whole if needs is None else only(whole, needs)


def owners(readings: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat([torch.full((len(values),), row, dtype=torch.long) for row, values in enumerate(readings)])


def best(answers: Sequence[Answer], owner: Sequence[int], better: torch.Tensor) -> torch.Tensor:
    """The better one of some pair of its example, else one that is not labelled bad."""
    compared = {owner[i] for i in better.tolist()}
    return torch.tensor(
        [i in better.tolist() if owner[i] in compared else answer.reward > 0.5 for i, answer in enumerate(answers)]
    )


def only(whole: Rows, needs: Needs) -> Rows:
    """The rows with what `needs` does not declare left out."""
    judged = needs.labels or needs.responses > 1 or needs.rollouts
    columns = {"reward"} if judged else set()
    columns |= {"margin"} if needs.responses > 1 else set()
    columns |= {*ROLLED, "right", "of_reference"} if needs.rollouts else set()
    columns |= {"step_reward"} if needs.reward_head == "step" else set()
    return replace(
        whole,
        readouts={name: whole.readouts[name] for name in needs.readouts if name in whole.readouts},
        columns={name: values for name, values in whole.columns.items() if name in columns},
        values={role: whole.values[role] for role, _ in needs.heads},
        ref_S=whole.ref_S if needs.reference else None,
        kl_baseline=whole.kl_baseline if needs.kl_baseline else None,
        better_P=whole.better_P if needs.responses > 1 else None,
        worse_P=whole.worse_P if needs.responses > 1 else None,
    )


def pair(
    better: Sequence[float],
    worse: Sequence[float],
    ref_better: Sequence[float] | None = None,
    ref_worse: Sequence[float] | None = None,
) -> Rows:
    """One pair by hand, in fp64. Without reference values there is no reference."""
    logp = torch.tensor([*better, *worse], dtype=torch.float64, requires_grad=True)
    ref = None if ref_better is None else torch.tensor([*ref_better, *(ref_worse or ())], dtype=torch.float64)
    return Rows(
        logp,
        torch.ones_like(logp),
        torch.tensor([0] * len(better) + [1] * len(worse)),
        2,
        ref_S=ref,
        columns={"reward": torch.tensor([1.0, 0.0])},
        best_N=torch.tensor([True, False]),
        better_P=torch.tensor([0]),
        worse_P=torch.tensor([1]),
    )
