"""A whole step of GRPO by Luthier and by TRL: samples a second, peak memory, and where the time goes.

    python benchmarks/on_policy.py [--only NAME … [--merge]] [--steps 3] [--prompts 4] [--repeat 1]

The default model in fp32 with LoRA; prompts three times as long as answers; n = 8; one update for each draw; the same
prompts, reward function, threads and lengths for all: the prompts ask for so much that answers are cut at their limit,
and how many were is in the table. The first step of a run warms up and is not counted. `luthier-whole-rows` is Luthier
without prefix sharing in training. Each run is a fresh process; builds `.peers/trl` at first use.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import report
import results
from environments import PEERS, ROOT, environment, python_of
from learning import larger, varied
from measure import measured
from workload import model_folder, write_rows

SAMPLES_BAR, MEMORY_BAR, SHARING_BAR = 4.0, 2.0, 0.45
SYSTEM = (
    "You are a patient teacher of arithmetic for children of eight to ten years. You tell stories. Begin each "
    "with the morning of a day, the place and the weather. Then say which digits of the numbers you look at first "
    "and why, which ones you look at next, and what would have to be different for the answer to be another one. "
    "Give an example from everyday life, such as apples in a basket, pages of a book or steps on a stair. Never "
    "answer in fewer than two hundred words, and do not use lists, tables or formulas."
)
"""With the question it comes to 151 tokens, three times an answer."""
ASKED = "Tell a long story in which the numbers {} and {} meet, and say at its end which is larger."


@dataclass(frozen=True)
class OnPolicy:
    """What every tool does."""

    model: str
    train: str
    reward: str
    """The file of the reward function."""
    steps: int
    prompts: int
    n: int = 8
    max_new_tokens: int = 48
    rank: int = 16
    alpha: int = 32
    lr: float = 1e-4
    seed: int = 0

    @property
    def samples(self) -> int:
        """Answers of a step."""
        return self.prompts * self.n


@dataclass(frozen=True)
class Contender:
    """One tool with its settings."""

    name: str
    tool: str
    settings: dict[str, Any] = field(default_factory=dict)

    def command(self, work: OnPolicy, folder: Path) -> list[str]:
        """The command line that makes the steps and leaves what it found in the folder."""
        if self.tool == "luthier":
            recipe = folder / "recipe.yaml"
            recipe.write_text(json.dumps(luthier_recipe(work, folder)), encoding="utf-8")  # JSON is YAML
            overrides = [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]
            return [sys.executable, "-m", "luthier", "train", str(recipe), *overrides]
        told = folder / "workload.json"
        told.write_text(json.dumps(asdict(work)), encoding="utf-8")
        script = Path(__file__).parent / "peers" / "trl_grpo.py"
        return [str(python_of("trl")), str(script), str(told), str(folder / "out"), json.dumps(self.settings)]


CONTENDERS = (
    Contender("luthier", "luthier"),
    Contender("luthier-whole-rows", "luthier", {"train.share_prefix": False}),
    Contender("trl-defaults", "trl"),
    Contender("trl-best", "trl", {"gradient_checkpointing": False, "per_device_train_batch_size": 4}),
)


def luthier_recipe(work: OnPolicy, folder: Path) -> dict[str, Any]:
    """Luthier's defaults, and what the workload fixes for every tool."""
    return {
        "model": {"name": work.model, "dtype": "fp32"},
        "data": work.train,
        "objective": {"grpo": {"kl": 0.0}},  # TRL has none by default
        "adapt": {"lora": {"r": work.rank, "alpha": work.alpha}},
        "rollout": {"n": work.n, "prompts": work.prompts, "max_new_tokens": work.max_new_tokens},
        "reward": {"python": {"function": f"{work.reward}:varied"}},
        "train": {
            "steps": work.steps,
            "batch": work.prompts,
            "lr": work.lr,
            "schedule": "constant",
            "warmup": 0,
            "weight_decay": 0,
            "clip": 1.0,
            "save_every": 10**6,
        },
        "seed": work.seed,
        "output": str(folder / "out"),
    }


def prepared(steps: int, prompts: int, model: str | None) -> OnPolicy:
    """The workload, its prompts written."""
    asked = [ASKED.format(*pair) for pair in larger.rows(steps * prompts, 0)]
    turns = [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in asked]
    train, _ = write_rows("on-policy", [{"messages": one} for one in turns], [])
    return OnPolicy(model_folder(model), train, str(Path(varied.__file__).resolve()), steps, prompts)


def of_luthier(folder: Path, work: OnPolicy) -> dict[str, Any]:
    """Each step of a run, from its events: the whole of it, from the end of the one before."""
    events = [json.loads(line) for line in (folder / "out" / "events.jsonl").read_text().splitlines()]
    start = next(event for event in events if event["kind"] == "start")
    rollouts = [event for event in events if event["kind"] == "rollout"]
    steps = [event for event in events if event["kind"] == "step"]
    ends = [start["time"], *(event["time"] for event in steps)]
    found = [
        {
            "seconds": ends[number + 1] - ends[number],
            "sampling": said["speaking_seconds"],
            "scoring": said["scoring_seconds"],
            "training": steps[number]["training_seconds"],
            "tokens": round(said["length"] * work.samples),
            "cut": round(said["cut"] * work.samples),
        }
        for number, said in enumerate(rollouts)
    ]
    rewards = [said["reward"] for said in rollouts]
    return {"tool": "luthier", "steps": found, "rewards": rewards, "versions": start["versions"], "path": start["path"]}


def ran(contender: Contender, work: OnPolicy, given: argparse.Namespace) -> dict[str, Any]:
    """One measured run in a process of its own. Exits with the end of its log when it fails."""
    folder = PEERS / "runs" / f"on-policy-{contender.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    env = {**environment(contender.tool), "OMP_NUM_THREADS": str(given.threads)}
    taken = measured(contender.command(work, folder), log, env, folder, given.nice)
    if taken.status != 0:
        sys.exit(f"{contender.name} failed ({taken.status}):\n{log.read_text(errors='replace')[-3000:]}")
    said = of_luthier(folder, work) if contender.tool == "luthier" else report.of_peer(log)
    for step in said["steps"]:
        step.setdefault("training", step["seconds"] - step["sampling"] - step["scoring"])
    return {
        **said,
        "settings": contender.settings,
        "peak_gib": taken.peak_bytes / 2**30,
        "whole_seconds": taken.seconds,
        "busy_before": taken.busy_before,
    }


def middle(runs: list[dict[str, Any]], key: str) -> float:
    """The median of a step's number over all steps but each run's first."""
    return median(step[key] for run in runs for step in run["steps"][1:])


def table(runs: dict[str, list[dict[str, Any]]], work: OnPolicy) -> str:
    """A line a contender, then the bars."""
    heads = ["tool", "samples/s", "tokens/s", "step, s", "sampling", "scoring", "training", "peak GiB", "cut", "reward"]
    lines = [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]
    for name, found in sorted(runs.items()):
        seconds = middle(found, "seconds")
        cells = [
            name,
            f"{work.samples / seconds:.2f}",
            f"{middle(found, 'tokens') / seconds:.0f}",
            f"{seconds:.1f}",
            *(f"{middle(found, key):.2f}" for key in ("sampling", "scoring", "training")),
            f"{median(run['peak_gib'] for run in found):.2f}",
            f"{fmean(step['cut'] for run in found for step in run['steps'][1:]) / work.samples:.0%}",
            " ".join(f"{reward:.3f}" for reward in found[0]["rewards"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *bars(runs)]) + "\n"


def bars(runs: dict[str, list[dict[str, Any]]]) -> list[str]:
    """How Luthier stands to the best of TRL, and shared prompts to whole rows."""

    def verdict(met: bool) -> str:
        return "met" if met else "NOT met"

    found, rivals = [], [of for name, of in runs.items() if name.startswith("trl")]
    if "luthier" in runs and rivals:
        times = min(middle(of, "seconds") for of in rivals) / middle(runs["luthier"], "seconds")
        least = min(median(run["peak_gib"] for run in of) for of in rivals)
        lean = least / median(run["peak_gib"] for run in runs["luthier"])
        found.append(
            f"Luthier: {times:.2f} × the samples a second of TRL's fastest (bar {SAMPLES_BAR:g}: "
            f"{verdict(times >= SAMPLES_BAR)}); TRL's leanest holds {lean:.2f} × its memory (bar {MEMORY_BAR:g}: "
            f"{verdict(lean > MEMORY_BAR)})."
        )
    if {"luthier", "luthier-whole-rows"} <= set(runs):
        share = middle(runs["luthier"], "training") / middle(runs["luthier-whole-rows"], "training")
        found.append(
            f"Training with the prompt computed once costs {share:.2f} × whole rows (bar {SHARING_BAR:g}: "
            f"{verdict(share <= SHARING_BAR)})."
        )
    return found


def kept(given: argparse.Namespace, work: OnPolicy) -> dict[str, list[dict[str, Any]]]:
    """What the newest results say of the contenders that do not run now. Exits where they are of another workload."""
    before = results.latest("on-policy", given.results)
    own = json.loads(json.dumps(asdict(work)).replace(f"{ROOT}/", "").replace(str(Path.home()), "~"))
    differs = [key for key, value in own.items() if key != "steps" and before["workload"][key] != value]
    if differs or before["threads"] != given.threads:
        sys.exit(f"--merge: the newest results are of another workload ({', '.join(differs) or 'threads'})")
    return {name: found for name, found in before["runs"].items() if name not in given.only}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [one.name for one in CONTENDERS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--merge", action="store_true", help="keep the other contenders of the newest results")
    parser.add_argument("--steps", type=int, default=3, help="of each run; the first is not counted")
    parser.add_argument("--prompts", type=int, default=4, help="of a step")
    parser.add_argument("--repeat", type=int, default=1, help="rounds, the contenders in turn; the table shows medians")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every tool")
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--nice", type=int, default=0, help="for trials beside other work; not for numbers")
    given = parser.parse_args()
    if given.steps < 2:
        parser.error("--steps: at least 2, for the first is not counted")
    work = prepared(given.steps, given.prompts, given.model)
    runs = kept(given, work) if given.merge else {}
    for _ in range(given.repeat):
        for contender in (one for one in CONTENDERS if one.name in given.only):
            done = ran(contender, work, given)
            runs.setdefault(contender.name, []).append(done)
            print(
                f"{contender.name}: {done['steps'][-1]['seconds']:.1f} s a step, {done['peak_gib']:.2f} GiB", flush=True
            )
    document = {
        "hardware": results.output_of("hardware.py"),
        "workload": asdict(work),
        "threads": given.threads,
        "runs": runs,
    }
    results.write("on-policy", document, table(runs, work), given.results)


if __name__ == "__main__":
    main()
