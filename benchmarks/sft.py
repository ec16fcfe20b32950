"""The SFT workload with Luthier and its peers, in turn: benchmarks/results/DATE-sft.{json,md}.

    python benchmarks/sft.py [--only NAME,…] [--repeat N] [--rows N] [--model FOLDER] [--data FILE]

Builds each peer's environment in .peers/ at first use. Everything runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import report
import results
from contenders import CONTENDERS, Contender
from environments import PEERS, environment
from measure import measured
from table import markdown
from workload import Workload, prepare

WARM = "import torch, transformers, peft"
"""Read the libraries from disk once, so that the first tool does not pay for a cold page cache."""


def run(contender: Contender, work: Workload, nice: int) -> dict[str, Any]:
    """One measured run. Raises RuntimeError with the end of its log when it fails."""
    folder = PEERS / "runs" / contender.name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    taken = measured(
        contender.command(work, folder), log, {**environment(contender.tool), **contender.env}, folder, nice
    )
    if taken.status != 0:
        raise RuntimeError(f"{contender.name} failed ({taken.status}):\n{log.read_text(errors='replace')[-3000:]}")
    said = report.of_luthier(folder / "out") if contender.tool == "luthier" else report.of_peer(log)
    return {
        **said,
        "settings": json.dumps({**contender.settings, **contender.env}),
        "to_first_step": said["first_step_at"] - taken.started,
        "peak_gib": taken.peak_bytes / 2**30,
        "whole_seconds": taken.seconds,
        "busy_before": taken.busy_before,
        "adapter": str(contender.adapter(folder)),
    }


def judge(runs: dict[str, list[dict[str, Any]]], work: Workload) -> dict[str, Any]:
    """Measure every contender's last adapter by the common yardstick, and fill in what follows from it."""
    work.write(PEERS / "work" / "workload.json")
    adapters = [repeats[-1]["adapter"] for repeats in runs.values()]
    judged = results.output_of("held_out.py", str(PEERS / "work" / "workload.json"), *adapters)
    for repeats in runs.values():
        for one in repeats:
            one["held_out_loss"] = judged["losses"][one["adapter"]]
            one["tokens_per_s"] = judged["train"]["tokens"] / one["seconds"]
    return judged


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(contender.name for contender in CONTENDERS)
    parser.add_argument("--only", help=f"some of: {names}")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the table shows medians")
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--held-out", type=int, default=64)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--data", help="alpaca JSON file (default: the shared folder, else the hub)")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--nice", type=int, default=0, help="for trials beside other work; not for numbers")
    return parser.parse_args()


def main() -> None:
    given = options()
    wanted = given.only.split(",") if given.only else [contender.name for contender in CONTENDERS]
    unknown = set(wanted) - {contender.name for contender in CONTENDERS}
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}")
    chosen = [contender for contender in CONTENDERS if contender.name in wanted]
    work = prepare(given.rows, given.held_out, given.model, given.data)
    for python in {contender.python() for contender in chosen}:
        subprocess.run([str(python), "-c", WARM], check=True)
    machine = results.output_of("hardware.py")
    runs: dict[str, list[dict[str, Any]]] = {contender.name: [] for contender in chosen}
    for turn in range(given.repeat):
        for contender in chosen:
            print(f"{contender.name} ({turn + 1}/{given.repeat}) …", flush=True)
            done = run(contender, work, given.nice)
            runs[contender.name].append(done)
            print(f"  {done['seconds']:.1f} s, {done['peak_gib']:.2f} GiB, loss {done['losses'][-1]:.3f}", flush=True)
    judged = judge(runs, work)
    document = {
        "repeat": given.repeat,
        "workload": asdict(work),
        "hardware": machine,
        "bf16_gflops_after": results.output_of("hardware.py")["bf16_gflops"],
        "train": judged["train"],
        "held_out_rows": judged["held_out_rows"],
        "base_loss": judged["losses"]["base"],
        "results": runs,
    }
    results.write("sft", document, markdown(document), given.results)


if __name__ == "__main__":
    main()
