"""The demo's orders: likelihood half teaches them to the default model from a few rows, GRPO goes on from there, paid
by `json_match` alone: an order is right as a whole or worth nothing.

Likelihood and reinforcement see different rows of the demo's 960; the 80 held-out ones, with other sentences and other
numbers of each thing, are seen by neither.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import yaml
from environments import ROOT
from workload import model_folder

from learning import runs
from learning.contest import RARELY, Method, Task
from learning.contest import result as held

DEMO = ROOT / "src" / "luthier" / "demo"
LONGEST = 64
ABOUT = (0.3, 0.6)
"""How much of what it answers the model that reinforcement begins with has right."""
LIKELIHOOD = {"batch": 2, "lr": 1e-3, "schedule": "constant", "warmup": 0, "save_every": RARELY}


def asked(path: str) -> dict[str, Any]:
    """Rows with the demo's own instruction before them."""
    return {"path": path, "system": yaml.safe_load((DEMO / "recipe.yaml").read_text())["data"]["system"]}


def parts() -> dict[str, dict[str, Any]]:
    """Rows to learn by likelihood, to be paid by, to choose the beginner by, and held-out ones."""
    rows = [json.loads(line) for line in (DEMO / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    taken = {"shown": rows[:160], "paid": rows[160:900], "tested": rows[900:]}
    found = {name: runs.write(runs.home("orders") / f"{name}.jsonl", some) for name, some in taken.items()}
    return {name: asked(path) for name, path in {**found, "held-out": str(DEMO / "heldout.jsonl")}.items()}


def half_taught(data: dict[str, dict[str, Any]], steps: Sequence[int]) -> str:
    """The run after the first of these numbers of steps that leaves the model half taught."""
    for count in steps:
        output = runs.home("orders") / f"half-{count}"
        recipe = {
            "model": model_folder(None),
            "data": data["shown"],
            "adapt": ["lora"],
            "train": {**LIKELIHOOD, "steps": count},
            "evaluate": [{"data": data["tested"], "scorers": ["json_match"], "max_new_tokens": LONGEST, "base": False}],
            "output": str(output),
        }
        right = runs.scored(runs.ran(recipe))["tuned"]["value"]
        print(f"  orders: {right:.3f} after {count} steps of likelihood", flush=True)
        if ABOUT[0] <= right <= ABOUT[1]:
            return str(output)
    sys.exit(f"orders: no half-taught model after any of {steps} steps")


def result(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """GRPO from the half-taught model. 14 steps at 2e-4, the learning rate of `larger`, taught nothing that could be
    seen; so there are more steps, and the rate is half of that by which likelihood taught."""
    data = parts()
    task = Task(
        "orders",
        (Method("GRPO", {"grpo": {"kl": 0.0}}),),
        half_taught(data, range(16, 40, 4)),
        data["paid"],
        data["held-out"],
        {"json_match": {}},
        {"n": 8, "prompts": 8, "max_new_tokens": LONGEST},
        {"batch": 8, "lr": 5e-4, "save_every": RARELY},
        "lora",
        32,
        temperature=0.0,
        large=True,
    )
    document, text = held(task, seeds, at_once)
    gains = [runs.shown(runs.scored(run)["difference"], sign=True) for run in document["runs"]["GRPO"]]
    return document, f"{text}\nHow much more is right, by seed: {', '.join(gains)}.\n"
