"""The ledger and tokenisation of all Alpaca rows: `luthier data`, with an empty cache and again with a full one.

python benchmarks/data.py [--repeat N] [--model FOLDER] [--data FILE]
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from pathlib import Path
from statistics import median
from typing import Any

import results
from environments import PEERS, environment
from measure import measured
from workload import alpaca, prepare

BAR = 30.0


def once(recipe: Path, cache: Path) -> dict[str, Any]:
    """One `luthier data` on the recipe. Raises RuntimeError when it fails."""
    log = recipe.parent / "log.txt"
    command = [str(Path(sys.executable).parent / "luthier"), "data", str(recipe)]
    env = {**environment("luthier"), "LUTHIER_CACHE": str(cache)}
    taken = measured(command, log, env, recipe.parent)
    if taken.status != 0:
        raise RuntimeError(log.read_text(encoding="utf-8", errors="replace")[-3000:])
    return {"seconds": taken.seconds, "peak_gib": taken.peak_bytes / 2**30, "busy_before": taken.busy_before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    folder = PEERS / "runs" / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    rows = alpaca(given.data)
    source, recipe, cache = folder / "alpaca.json", folder / "recipe.yaml", folder / "cache"
    source.write_text(json.dumps(rows), encoding="utf-8")
    train = {"long_rows": "drop"}
    content = {"model": prepare(256, 64, given.model, given.data).model, "data": str(source), "train": train}
    recipe.write_text(json.dumps({**content, "output": str(folder / "out")}), encoding="utf-8")
    runs: dict[str, list[dict[str, Any]]] = {"empty cache": [], "full cache": []}
    for _ in range(given.repeat):
        shutil.rmtree(cache, ignore_errors=True)
        runs["empty cache"].append(once(recipe, cache))
        runs["full cache"].append(once(recipe, cache))
    lines = [
        f"| {len(rows):,} alpaca rows, {name} | {median(one['seconds'] for one in taken):.1f} "
        f"| {max(one['peak_gib'] for one in taken):.2f} | {BAR:.0f} |"
        for name, taken in runs.items()
    ]
    text = "| what | seconds (median) | peak GiB | bar, s |\n| --- | --- | --- | --- |\n" + "\n".join(lines) + "\n"
    results.write("data", {"hardware": results.output_of("hardware.py"), "runs": runs, "bar": BAR}, text, given.results)


if __name__ == "__main__":
    main()
