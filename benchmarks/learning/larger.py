"""Which of two numbers is larger, answered as JSON: what a small instruction model learns from rewards in half an hour.

No draw of the held-out questions trains: pairs are drawn without repetition, in whichever order they stand.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workload import model_folder

from learning import runs
from learning.contest import RARELY, Method, Task
from learning.contest import result as held

FORM = r'\s*\{"larger": \d+\}\s*'
ASKED = 'Which is larger, {} or {}? Answer with JSON alone, like {{"larger": 5}}.'


def rows(count: int, seed: int, *, apart: frozenset[frozenset[int]] = frozenset()) -> list[tuple[int, int]]:
    """Pairs of different numbers up to 999, none of them in `apart`."""
    draw, found, seen = random.Random(seed), [], set(apart)
    while len(found) < count:
        pair = draw.randrange(1000), draw.randrange(1000)
        if pair[0] != pair[1] and frozenset(pair) not in seen:
            seen.add(frozenset(pair))
            found.append(pair)
    return found


def write(folder: Path, train: int = 480, held_out: int = 64) -> tuple[str, str]:
    """Questions to learn from and to be tested by; their paths."""
    tested = rows(held_out, 1)
    learnt = rows(train, 0, apart=frozenset(frozenset(pair) for pair in tested))
    paths = folder / "train.jsonl", folder / "held-out.jsonl"
    for path, pairs in zip(paths, (learnt, tested), strict=True):
        some = [{"prompt": ASKED.format(*pair), "answer": json.dumps({"larger": max(pair)})} for pair in pairs]
        runs.write(path, some)
    return str(paths[0]), str(paths[1])


def result(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """GRPO from the default model."""
    task = Task(
        "larger",
        (Method("GRPO", {"grpo": {"kl": 0.0}}),),
        model_folder(None),
        *write(runs.home("larger")),
        {"json_match": {}},
        {"n": 8, "prompts": 16, "max_new_tokens": 24},
        {"batch": 16, "lr": 2e-4, "save_every": RARELY},
        "lora",
        30,
        temperature=0.0,
        large=True,
        rewards=({"json_match": {"weight": 0.8}}, {"format": {"regex": FORM, "weight": 0.2}}),
    )
    return held(task, seeds, at_once)
