"""How long until something happens: `luthier --help`, and the first micro-batch of a run on cached data.

python benchmarks/startup.py [--repeat N] [--model FOLDER] [--data FILE]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import results
from contenders import Contender
from contest import run
from workload import Workload, prepare


def help_seconds() -> float:
    """Wall time of `luthier --help`."""
    began = time.perf_counter()
    subprocess.run([str(Path(sys.executable).parent / "luthier"), "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_micro_batch(work: Workload) -> float:
    """Seconds from the command to the first micro-batch, in a run of one step."""
    contender = Contender("startup", "luthier", {"train.steps": 1})
    return float(run(contender, work, nice=0)["to_first_step"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model")
    parser.add_argument("--data")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    work = prepare(256, 64, given.model, given.data)
    first_micro_batch(work)  # fills the cache and the page cache
    measures = {
        "luthier --help": [help_seconds() for _ in range(given.repeat)],
        "command to the first micro-batch, data cached": [first_micro_batch(work) for _ in range(given.repeat)],
    }
    bounds = {"luthier --help": 0.3, "command to the first micro-batch, data cached": 8.0}
    lines = [f"| {name} | {median(taken):.2f} | {bounds[name]} |" for name, taken in measures.items()]
    text = "| what | seconds (median) | bar |\n| --- | --- | --- |\n" + "\n".join(lines) + "\n"
    document = {"hardware": results.output_of("hardware.py"), "seconds": measures, "bars": bounds}
    results.write("startup", document, text, given.results)


if __name__ == "__main__":
    main()
