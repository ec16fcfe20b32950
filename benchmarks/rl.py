"""Does learning from what the model says teach what its papers say? Runs of minutes on a CPU, three seeds each.

    python benchmarks/rl.py [sums first larger] [--seeds 0 1 2] [--at-once 2]

    sums     running sums modulo 10 of 14 digits, of which the last alone pays: GRPO, DAPO, PPO, VAPO from one model
             that was half taught by likelihood. At equal steps, and DAPO at as many drawn tokens as GRPO, too.
    first    of 36 sums the first alone pays, and the model cannot do it yet: what a critic does with 35 tokens of no
             account. PPO with lambda 0.95 and 1, VAPO, GRPO.
    larger   the default model with LoRA: which of two numbers is larger, as JSON. GRPO, 30 steps of 16 x 8 answers.

One learning rate serves all methods of a task. That of sums was tried with GRPO beside a third of it, from other
starting models; nothing else was tuned. Each run is `luthier train` of a recipe, in a process and on a thread of its
own; seeds differ in reinforcement alone. What is done is not done again: remove .peers/work/rl for that.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import results
import yaml
from environments import PEERS
from learning import larger, sums
from workload import model_folder

WORK = PEERS / "work" / "rl"
GAE = {"lam": 1.0}


@dataclass(frozen=True)
class Method:
    """One line of a table."""

    name: str
    objective: dict[str, Any]
    extra: int = 0
    """Steps at the start in which only the critic learns."""


@dataclass(frozen=True)
class Task:
    """What is taught, from where, and how."""

    name: str
    methods: Sequence[Method]
    model: str
    train: str
    held_out: str
    scorer: dict[str, Any]
    rollout: dict[str, Any]
    keys: dict[str, Any]
    adapt: str
    steps: int
    temperature: float = 1.0
    large: bool = False
    """Does a run gain by more than one thread?"""
    rewards: Sequence[dict[str, Any]] = field(default_factory=tuple)

    def recipe(self, method: Method, seed: int) -> dict[str, Any]:
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
            "output": str(WORK / self.name / f"{method.name}-{seed}".replace(" ", "_")),
        }


def ran(recipe: dict[str, Any], threads: int) -> dict[str, Any]:
    """The recipe trained, if that is not done; what its run folder says."""
    output = Path(recipe["output"])
    path = output.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "luthier", "train", str(path), f"train.threads={threads}"]
    with output.with_suffix(".log").open("w", encoding="utf-8") as log:
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=log, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed; see {log.name}")
    events = [json.loads(line) for line in (output / "events.jsonl").read_text().splitlines()]
    rollouts = [event for event in events if event["kind"] == "rollout"]
    summary = json.loads((output / "summary.json").read_text())
    return {
        "summary": {key: summary[key] for key in ("scores", "seconds", "steps") if key in summary},
        "rollouts": rollouts,
        "drawn_tokens": [round(event["length"] * event["drawn"] * recipe["rollout"]["n"]) for event in rollouts],
        "warned": [event["guard"] for event in events if event["kind"] == "warning"],
    }


def half_taught(name: str, digits: int, pays: str, about: tuple[float, float], steps: range) -> str:
    """A model that was taught running sums by likelihood, for the fewest of these steps after which so much of what it
    draws is paid."""
    home = WORK / name
    home.mkdir(parents=True, exist_ok=True)
    blank = sums.folder(home / "blank", 0)
    taught = sums.write(home / "taught.jsonl", sums.rows(4096, digits, 1), answers=True)
    tested = sums.write(home / "tested.jsonl", sums.rows(512, digits, 4), answers=False)
    task = {"data": tested, "scorers": [{"exact_match": {"regex": pays}}], "temperature": 1.0, "base": False}
    for count in steps:
        shutil.rmtree(home / "half", ignore_errors=True)
        recipe = {
            "model": {"name": blank, "dtype": "fp32"},
            "data": taught,
            "objective": "sft",
            "adapt": ["full"],
            "train": {
                "steps": count,
                "batch": 64,
                "lr": 2e-3,
                "schedule": "constant",
                "warmup": 0,
                "save_every": 10**6,
            },
            "evaluate": [{**task, "max_new_tokens": digits + 6}],
            "output": str(home / "half"),
        }
        scored = next(iter(ran(recipe, threads=1)["summary"]["scores"].values()))
        paid = scored["scores"][0]["systems"]["tuned"]["value"]
        print(f"  {name}: {paid:.3f} after {count} steps of likelihood", flush=True)
        if about[0] <= paid <= about[1]:
            return str(home / "half" / "model")
    sys.exit(f"{name}: no such model among {steps}")


def of_sums(name: str, digits: int, model: str, pays: str, methods: Sequence[Method], **more: Any) -> Task:
    """A task of running sums."""
    home = WORK / name
    return Task(
        name,
        methods,
        {"name": model, "dtype": "fp32"},  # type: ignore[arg-type]
        sums.write(home / "paid.jsonl", sums.rows(512, digits, 3), answers=False),
        sums.write(home / "held-out.jsonl", sums.rows(512, digits, 2), answers=False),
        {"exact_match": {"regex": pays}},
        {"n": 8, "prompts": 64, "max_new_tokens": digits + 6},
        {"batch": 16, "lr": more.pop("lr"), "save_every": 10**6},
        "full",
        **more,
    )


def task(name: str) -> Task:
    """The task of this name, its model and data made."""
    if name == "sums":
        methods = (
            Method("GRPO", {"grpo": {}}),
            Method("DAPO", {"dapo": {}}),
            Method("PPO", {"ppo": {}}),
            Method("VAPO", {"vapo": {}}, extra=20),
        )
        half = half_taught("sums", 14, sums.LAST, (0.5, 0.7), range(310, 440, 2))
        return of_sums("sums", 14, half, sums.LAST, methods, steps=96, lr=3e-4)
    if name == "first":
        methods = (
            Method("GRPO", {"grpo": {"kl": 0.0}}),
            Method("PPO 0.95", {"ppo": {"kl": 0.0}}),
            Method("PPO 1", {"ppo": {"kl": 0.0, "credit": {"gae": GAE}}}),
            Method("VAPO", {"vapo": {}}, extra=20),
        )
        half = half_taught("first", 36, sums.FIRST, (0.05, 0.2), range(20, 400, 20))
        return of_sums("first", 36, half, sums.FIRST, methods, steps=160, lr=3e-4)
    if name == "larger":
        home = WORK / name
        home.mkdir(parents=True, exist_ok=True)
        train, held_out = larger.write(home)
        right = {"json_match": {}}
        return Task(
            name,
            (Method("GRPO", {"grpo": {"kl": 0.0}}),),
            model_folder(None),
            train,
            held_out,
            right,
            {"n": 8, "prompts": 16, "max_new_tokens": 24},
            {"batch": 16, "lr": 2e-4, "save_every": 10**6},
            "lora",
            30,
            temperature=0.0,
            large=True,
            rewards=({"json_match": {"weight": 0.8}}, {"format": {"regex": larger.FORM, "weight": 0.2}}),
        )
    sys.exit(f"there is no task {name!r}")


def scores(found: dict[str, Any]) -> tuple[float, float]:
    """Before and after, on held-out prompts."""
    (scored,) = found["summary"]["scores"].values()
    systems = scored["scores"][0]["systems"]
    return systems["base"]["value"], systems["tuned"]["value"]


def right_at(found: dict[str, Any], tokens: int) -> float:
    """The share of right draws in the five rollouts before so many tokens were drawn."""
    so_far = list(itertools.accumulate(found["drawn_tokens"]))
    count = next((place for place, drawn in enumerate(so_far, 1) if drawn >= tokens), len(so_far))
    return fmean(event["right"] for event in found["rollouts"][max(0, count - 5) : count])


def table(about: Task, found: dict[str, list[dict[str, Any]]]) -> str:
    """A line a method, a column a seed."""
    seeds = [f"seed {number}" for number in range(len(next(iter(found.values()))))]
    heads = ["", "before", *seeds, "tokens drawn", "at GRPO's tokens", "warned"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    least = [sum(one["drawn_tokens"]) for one in found["GRPO"]]
    for name, runs in found.items():
        after = " | ".join(f"{scores(one)[1]:.3f}" for one in runs)
        equal = ", ".join(f"{right_at(one, tokens):.3f}" for one, tokens in zip(runs, least, strict=True))
        drawn = fmean(sum(one["drawn_tokens"]) for one in runs)
        warned = ", ".join(sorted({guard for one in runs for guard in one["warned"]})) or "–"
        lines.append(f"| {name} | {scores(runs[0])[0]:.3f} | {after} | {drawn:,.0f} | {equal} | {warned} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", default=["sums", "first", "larger"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=2, help="runs side by side, a thread each")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    for name in given.tasks:
        about = task(name)
        wanted = [(method, seed) for method in about.methods for seed in given.seeds]
        threads = max(1, (os.cpu_count() or 1) // given.at_once) if about.large else 1
        recipes = [about.recipe(*one) for one in wanted]
        with ThreadPoolExecutor(given.at_once) as pool:
            done = list(pool.map(partial(ran, threads=threads), recipes))
        found: dict[str, list[dict[str, Any]]] = {}
        for (method, _), run in zip(wanted, done, strict=True):
            found.setdefault(method.name, []).append(run)
        text = f"Held-out prompts right, temperature {about.temperature:g}.\n\n{table(about, found)}\n"
        document = {"hardware": results.output_of("hardware.py"), "task": name, "seeds": given.seeds, "runs": found}
        results.write(f"rl-{name}", document, text, given.results)


if __name__ == "__main__":
    main()
