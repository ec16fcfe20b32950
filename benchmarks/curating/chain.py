"""JSON → clean → PII → dedup → JSON by `luthier curate`: rows for each second of a processor, memory, two processes
against one, and what another threshold costs. The rows are Alpaca's by varied copies (`synthetic`), 1 M are 480 MB.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from curating import synthetic

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".peers"
"""Where the rows lie, for the next time."""
STEPS = ("clean", "{pii: mask}")
RARELY = 0.05
"""Seconds between two looks at the memory."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    wall: float
    processor: float
    """Of all its processes."""
    highest: float
    """MB of the process that took the most."""
    together: float
    """MB of all processes, at their highest together; pages that they share count each time."""


def rows_of(alpaca: list[dict[str, Any]], count: int) -> tuple[Path, int]:
    """The file, made where it is not there, and its near-duplicates and copies."""
    path, told = KEPT / f"curate-{count}.jsonl", KEPT / f"curate-{count}.json"
    if not told.exists():
        KEPT.mkdir(exist_ok=True)
        planted = synthetic.write(alpaca, count, path)
        told.write_text(json.dumps({"near": len(planted.near), "exact": len(planted.exact)}))
    return path, sum(json.loads(told.read_text()).values())


def cost(command: list[str], cache: Path) -> Cost:
    """Run it, and look on."""
    environment = {**os.environ, "LUTHIER_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), environment.get("PYTHONPATH", "")])
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        top, highest, together = psutil.Process(process.pid), 0.0, 0.0
        while True:
            pid, status, used = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            now = []
            for one in (top, *_children(top)):
                try:
                    now.append(one.memory_info().rss / 1e6)
                except psutil.Error:  # it has ended meanwhile
                    continue
            highest, together = max(highest, *now, 0.0), max(together, sum(now))
            time.sleep(RARELY)
        process.returncode = os.waitstatus_to_exitcode(status)
        said = process.stdout.read().decode() if process.stdout else ""
    if process.returncode:
        raise SystemExit(said)
    wall = time.perf_counter() - start
    return Cost(wall, used.ru_utime + used.ru_stime, max(highest, used.ru_maxrss / 1e3), together)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def figures(alpaca: list[dict[str, Any]], count: int, processes: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    """Each number of processes from the beginning; then other thresholds, with all that was measured in the cache."""
    path, planted = rows_of(alpaca, count)
    told: dict[str, Any] = {"rows": float(count), "MB": path.stat().st_size / 1e6, "planted repeats": planted}
    walls: dict[int, float] = {}
    with tempfile.TemporaryDirectory(dir=KEPT) as folder:
        place = Path(folder)
        for number in processes:
            shutil.rmtree(place / "cache", ignore_errors=True)
            took = cost(_curate(path, [*STEPS, "{dedup: 0.8}"], place / "out.jsonl", number), place / "cache")
            walls[number] = took.wall
            name = f"{number} process{'es' if number > 1 else ''}"
            told[f"{name}, rows/s of a processor"] = count / took.processor
            told[f"{name}, rows/s by the clock"] = count / took.wall
            told[f"{name}, MB"] = f"{took.highest:,.0f} (all together {took.together:,.0f})"
        ledger = json.loads((place / "out.ledger.json").read_text())
        told["rows left out"] = {one["name"]: one["dropped"] for one in ledger["steps"]}
        told["seconds of a processor"] = {one["name"]: one["seconds"] for one in ledger["steps"]}
        if {1, 2} <= walls.keys():
            told["two processes against one"] = f"{walls[1] / walls[2]:.2f} ×"
        for threshold in (0.85, 0.9):
            took = cost(_curate(path, [*STEPS, f"{{dedup: {threshold}}}"], None, max(processes)), place / "cache")
            told[f"threshold {threshold} instead, s"] = f"{took.processor:.2f} (by the clock {took.wall:.2f})"
    return told


def _curate(path: Path, steps: list[str], out: Path | None, processes: int) -> list[str]:
    command = [sys.executable, "-m", "luthier", "curate", str(path), f"steps=[{', '.join(steps)}]"]
    return [*command, f"--processes={processes}", *([] if out is None else [f"--out={out}"])]
