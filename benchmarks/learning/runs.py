"""Runs of `luthier`, each in a process and on a thread of its own, and what their folders say.

Shape suffixes: N = rows, R = resamples.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from environments import PEERS

WORK = PEERS / "work" / "rl"
"""A folder for each task; what is done there is not done again."""

Recipe = dict[str, Any]
Scored = dict[str, float]
"""`value`, and `low` and `high` of its interval."""


def home(task: str) -> Path:
    """The folder of a task."""
    folder = WORK / task
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """The rows as JSON lines; where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def luthier(log: Path, *words: str, threads: int = 1) -> None:
    """Give `luthier` a command, and write what it says to `log`. Ends the program where it fails."""
    command = [sys.executable, "-m", "luthier", *words]
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(
            command, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, stdout=out, stderr=subprocess.STDOUT
        )
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed; see {log}")


def ran(recipe: Recipe, threads: int = 1) -> dict[str, Any]:
    """The recipe trained, if that is not done; what its run folder says."""
    output = Path(recipe["output"])
    path = output.parent / f"{output.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    luthier(output.parent / f"{output.name}.log", "train", str(path), f"train.threads={threads}", threads=threads)
    return {**read(output), "n": recipe.get("rollout", {}).get("n", 1)}


def all_ran(recipes: Sequence[Recipe], at_once: int, *, large: bool = False) -> list[dict[str, Any]]:
    """The recipes trained side by side; a `large` run gains by more than one thread."""
    threads = max(1, len(os.sched_getaffinity(0)) // at_once) if large else 1
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(partial(ran, threads=threads), recipes))


def read(run: Path) -> dict[str, Any]:
    """What a run folder says: the parts of its summary that are compared, its steps and rollouts, its warnings."""
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    summary = json.loads((run / "summary.json").read_text())
    of_kind = {kind: [event for event in events if event["kind"] == kind] for kind in ("rollout", "step", "warning")}
    return {
        "summary": {key: summary[key] for key in ("scores", "seconds", "steps", "peak_memory") if key in summary},
        "rollouts": of_kind["rollout"],
        "steps": of_kind["step"],
        "warned": [event["guard"] for event in of_kind["warning"]],
    }


def scored(found: dict[str, Any], task: str = "held-out", scorer: int = 0) -> dict[str, Scored]:
    """What a task's scorer found, by system (`base`, `tuned`), and `difference` where both were scored."""
    told = found["summary"]["scores"][task]["scores"][scorer]
    gain = told.get("difference", {}).get("tuned")
    return told["systems"] if gain is None else {**told["systems"], "difference": gain}


def mean(values: Sequence[float]) -> Scored:
    """Of values, one a row, with its interval by resampling rows."""
    import numpy as np

    from luthier.evaluate.intervals.bootstrap import of_mean

    each_N = np.array(values, dtype=np.float64)
    estimate = of_mean(each_N, np.ones(len(each_N)), (-math.inf, math.inf), 0)
    ends = [estimate.value if end is None else end for end in (estimate.low, estimate.high)]
    return {"value": estimate.value, "low": ends[0], "high": ends[1]}


def shown(one: Scored, *, sign: bool = False) -> str:
    """A figure with its interval."""
    form = "{:+.3f} [{:+.3f}, {:+.3f}]" if sign else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(one["value"], one["low"], one["high"])


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(heads), *lines))
