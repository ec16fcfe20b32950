"""Methods of reinforcement on one task: the same model, rewards and keys for all, a line of the table each."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from learning import runs

GAE = {"lam": 1.0}
RARELY = 10**6
"""Steps between checkpoints that are never reached: a run's end alone is kept."""


@dataclass(frozen=True)
class Method:
    """One line of a table."""

    name: str
    objective: dict[str, Any]
    extra: int = 0
    """Steps at the start in which only the critic learns: the objective's `warm`, 20 in VAPO if nothing is said."""


@dataclass(frozen=True)
class Task:
    """What is taught, from where, and how."""

    name: str
    methods: Sequence[Method]
    model: dict[str, Any] | str
    train: Any
    held_out: Any
    scorer: dict[str, Any]
    rollout: dict[str, Any]
    keys: dict[str, Any]
    adapt: str
    steps: int
    temperature: float = 1.0
    large: bool = False
    """Does a run gain by more than one thread?"""
    rewards: Sequence[dict[str, Any]] = field(default_factory=tuple)

    def recipe(self, method: Method, seed: int) -> runs.Recipe:
        """What `luthier train` is given."""
        scored = {"data": self.held_out, "scorers": [self.scorer], "temperature": self.temperature}
        return {
            "model": self.model,
            "data": self.train,
            "objective": method.objective,
            "adapt": [self.adapt],
            "rollout": self.rollout,
            "reward": list(self.rewards) or [self.scorer],
            "seed": seed,
            "train": {**self.keys, "steps": self.steps + method.extra, "schedule": "constant", "warmup": 0},
            "evaluate": [{**scored, "max_new_tokens": self.rollout["max_new_tokens"]}],
            "output": str(runs.home(self.name) / f"{method.name}-{seed}".replace(" ", "_")),
        }


Found = dict[str, list[dict[str, Any]]]
"""The runs of each method, a seed each."""


def held(task: Task, seeds: Sequence[int], at_once: int) -> Found:
    """Every method by every seed."""
    wanted = [(method, seed) for method in task.methods for seed in seeds]
    done = runs.all_ran([task.recipe(*one) for one in wanted], at_once, large=task.large)
    found: Found = {}
    for (method, _), run in zip(wanted, done, strict=True):
        found.setdefault(method.name, []).append(run)
    return found


def drawn_tokens(found: dict[str, Any]) -> list[int]:
    """How many tokens each rollout drew, those of groups that gave way among them."""
    return [round(event["length"] * event["drawn"] * found["n"]) for event in found["rollouts"]]


def right_at(found: dict[str, Any], tokens: int) -> float:
    """The share of right draws in the five rollouts before so many tokens were drawn."""
    so_far = list(itertools.accumulate(drawn_tokens(found)))
    count = next((place for place, drawn in enumerate(so_far, 1) if drawn >= tokens), len(so_far))
    return fmean(event["right"] for event in found["rollouts"][max(0, count - 5) : count])


def text(task: Task, seeds: Sequence[int], found: Found) -> str:
    """A line a method, a column a seed."""
    heads = ["", "before", *(f"seed {seed}" for seed in seeds), "tokens drawn", "at GRPO's tokens", "warned"]
    least, lines = [sum(drawn_tokens(one)) for one in found["GRPO"]], []
    for name, done in found.items():
        before, *_ = (runs.scored(one)["base"]["value"] for one in done)
        after = [f"{runs.scored(one)['tuned']['value']:.3f}" for one in done]
        equal = ", ".join(f"{right_at(one, tokens):.3f}" for one, tokens in zip(done, least, strict=True))
        drawn = fmean(sum(drawn_tokens(one)) for one in done)
        warned = ", ".join(sorted({guard for one in done for guard in one["warned"]})) or "–"
        lines.append([name, f"{before:.3f}", *after, f"{drawn:,.0f}", equal, warned])
    return f"Held-out prompts right, temperature {task.temperature:g}.\n\n{runs.table(heads, lines)}\n"


def result(task: Task, seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """The contest, as it is written down: what is kept, and the table."""
    found = held(task, seeds, at_once)
    return {"runs": {name: [_kept(one) for one in done] for name, done in found.items()}}, text(task, seeds, found)


def _kept(found: dict[str, Any]) -> dict[str, Any]:
    """Without the steps, which the run folder has."""
    kept = {key: value for key, value in found.items() if key not in ("steps", "n")}
    return {**kept, "drawn_tokens": drawn_tokens(found)}
