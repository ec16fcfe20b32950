"""Contenders on a workload, one after another, each alone: measured, judged, and written down.

What a benchmark script adds is its workload, its contenders and the bars it has to clear.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import report
import results
from contenders import Contender
from environments import PEERS, ROOT, environment
from measure import measured
from table import markdown
from workload import Workload

WARM = "import torch, transformers, peft"
"""Read the libraries from disk once, so that the first tool does not pay for a cold page cache."""

Runs = dict[str, list[dict[str, Any]]]
"""The measured runs of each contender, one a round."""


@dataclass(frozen=True)
class Contest:
    """A workload, who runs it, and what is expected of the first contender against its rivals."""

    work: Workload
    contenders: tuple[Contender, ...]
    ours: tuple[str, ...]
    """Contenders that are no rivals: ratios are never against them."""
    bars: dict[str, float] = field(default_factory=dict)
    """By measure (seconds, peak_gib): how many times the best rival's the first contender must save."""


def run(contender: Contender, work: Workload, nice: int) -> dict[str, Any]:
    """One measured run. Raises RuntimeError with the end of its log when it fails."""
    folder = contender.folder(work)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    env = {**environment(contender.tool), **contender.env}
    taken = measured(contender.command(work), log, env, folder, nice)
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
        "adapter": str(contender.adapter(work)),
    }


def _alone(contender: Contender, work: Workload, nice: int) -> dict[str, Any] | None:
    """A measured run, and how fast the machine was just before; None, with the reason on screen, when it failed."""
    rate = results.output_of("hardware.py")["bf16_gflops"]
    try:
        done = run(contender, work, nice)
    except RuntimeError as error:
        print(error, flush=True)
        return None
    print(f"  {done['seconds']:.1f} s, {done['peak_gib']:.2f} GiB, loss {done['losses'][-1]:.3f}", flush=True)
    return {**done, "gflops_before": rate}


def judge(runs: Runs, work: Workload) -> dict[str, Any]:
    """Measure the last adapter of every contender that is not judged yet, and fill in what follows from it.

    Gives what was found of the rows and of the untuned model; nothing where everything is judged.
    """
    new = {name: repeats for name, repeats in runs.items() if any("held_out" not in one for one in repeats)}
    if not new:
        return {}
    path = PEERS / "work" / f"{work.name}.json"
    work.write(path)
    adapters = {name: str(ROOT / repeats[-1]["adapter"]) for name, repeats in new.items()}
    judged = results.output_of("held_out.py", str(path), *adapters.values())
    for name, repeats in new.items():
        for one in repeats:
            one["held_out"] = judged["scores"][adapters[name]]
            one["tokens_per_s"] = judged["train"]["tokens"] / one["seconds"]
    return {**{key: judged[key] for key in ("train", "held_out_rows")}, "base": judged["scores"]["base"]}


def options(doc: str, rows: int, held_out: int, contenders: Sequence[Contender]) -> argparse.Namespace:
    """The command line of a benchmark script. Results of fewer rows than the workload's go to .peers/trials."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [contender.name for contender in contenders]
    parser.add_argument("--only", type=lambda text: text.split(","), default=names, help=f"some of: {', '.join(names)}")
    parser.add_argument("--merge", action="store_true", help="keep the other contenders of the newest results")
    parser.add_argument("--repeat", type=int, default=1, help="rounds; the table shows medians")
    parser.add_argument("--rows", type=int, default=rows, help="fewer for a trial, whose numbers mean nothing")
    parser.add_argument("--held-out", type=int, default=held_out)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--data", help="file with the rows (default: the shared folder's)")
    parser.add_argument("--results", type=Path, help=f"folder (default: {results.FOLDER})")
    parser.add_argument("--nice", type=int, default=0, help="for trials beside other work; not for numbers")
    given = parser.parse_args()
    unknown = sorted(set(given.only) - set(names))
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    given.results = given.results or (results.FOLDER if given.rows == rows else PEERS / "trials")
    return given


def same_work(before: dict[str, Any], now: dict[str, Any]) -> bool:
    """Whether earlier numbers are of this very workload, wherever its files lie."""
    places = {"model", "train", "held_out"}
    return {key: value for key, value in before.items() if key not in places} == {
        key: value for key, value in now.items() if key not in places
    }


def _started(contest: Contest, given: argparse.Namespace, before: dict[str, Any] | None) -> dict[str, Any]:
    """The part of the document that one contest fills; with `before`, what it found for the others."""
    kept: dict[str, Any] = {}
    if before is not None:
        if not same_work(before["workload"], asdict(contest.work)):
            sys.exit(f"--merge: the newest results of {contest.work.name} are of another workload")
        kept = {**before, "results": {k: v for k, v in before["results"].items() if k not in given.only}}
    fixed = {"ours": list(contest.ours), "bars": contest.bars, "workload": asdict(contest.work)}
    return {"results": {}, **kept, "repeat": given.repeat, **fixed}


def _held(contest: Contest, given: argparse.Namespace, part: dict[str, Any], keep: Callable[[], None]) -> list[str]:
    """Fill a contest's part of the document, calling `keep` after every run. Gives the names of those that failed."""
    runs, failed = part["results"], []
    sitting = datetime.datetime.now().isoformat(timespec="minutes")
    for turn in range(given.repeat):
        for contender in (one for one in contest.contenders if one.name in given.only):
            print(f"{contest.work.name}: {contender.name} ({turn + 1}/{given.repeat}) …", flush=True)
            done = _alone(contender, contest.work, given.nice)
            if done is None:
                failed.append(contender.name)
                continue
            runs.setdefault(contender.name, []).append({**done, "sitting": sitting})
            keep()
    part |= judge(runs, contest.work)
    part["results"] = {one.name: runs[one.name] for one in contest.contenders if one.name in runs}
    keep()
    return failed


def _whole(machine: dict[str, Any], parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The document of a benchmark: one contest lies in it flat, several by their workload's name."""
    return {**machine, **next(iter(parts.values()))} if len(parts) == 1 else {**machine, "contests": parts}


def hold(name: str, contests: Sequence[Contest], given: argparse.Namespace) -> None:
    """Run the wanted contenders of each contest, and write DATE-NAME.{json,md}. Exits with 1 when one failed.

    The JSON file is written after every run, so that what breaks later costs no numbers; `--only … --merge` repeats
    what is missing.
    """
    for python in {one.python() for contest in contests for one in contest.contenders if one.name in given.only}:
        subprocess.run([str(python), "-c", WARM], check=True)
    before: dict[str, Any] = results.latest(name, given.results) if given.merge else {}
    earlier = before.get("contests", {one.work.name: before for one in contests[:1]}) if before else {}
    parts = {one.work.name: _started(one, given, earlier.get(one.work.name)) for one in contests}
    machine: dict[str, Any] = {"hardware": results.output_of("hardware.py")}
    failed: list[str] = []
    for contest in contests:
        keep = partial(results.save, name, _whole(machine, parts), given.results)
        failed += _held(contest, given, parts[contest.work.name], keep)
    machine["bf16_gflops_after"] = results.output_of("hardware.py")["bf16_gflops"]
    filled = {title: part for title, part in parts.items() if part["results"]}
    tables = [markdown(part, title if len(contests) > 1 else None) for title, part in filled.items()]
    results.write(name, _whole(machine, parts), "\n".join(tables), given.results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")
