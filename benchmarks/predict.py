"""How near predictions of memory and time come: results/DATE-predict.{json,md}.

    python benchmarks/predict.py [--only NAME;…] [--fit] [--alone] [--again] [--merge] [--model FOLDER] [--threads 1]

Each case is a short run of `luthier train` by the command line, in a process and a cache of its own: what it said
before its first step is held against what came. The twelve cases are none of those that the constants were fitted on;
`--fit` runs those instead (results/DATE-predict-fit.json). The runs of one call are told to one another through the
cache, as they are on a user's machine, so that ranges of time narrow in their course; `--alone` keeps them apart.
`--again` runs nothing: what came the last time is held against what would be said now.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
from hardware import hardware
from workload import model_folder, shared

MEMORY_BAR, TIME_BAR = 0.10, 0.9
ALPACA, PAIRS, PROSE = "alpaca-52k/alpaca_data.json", "llamafactory-demo/dpo_en_demo.json", "tinyshakespeare/input.txt"
LORA = "adapt=lora"
HELD_OUT: dict[str, tuple[str, ...]] = {
    "lora, rank 64": (LORA, "adapt.lora.r=64", "train.batch=6", "train.steps=2"),
    "lora, eight micro-batches": (LORA, "train.batch=16", "train.micro_tokens=256", "train.steps=2"),
    "lora on attention alone": ("adapt={lora: {targets: [q_proj, v_proj]}}", "train.batch=8", "train.steps=2"),
    "full": ("adapt=full", "train.batch=6", "train.micro_tokens=448", "train.steps=2"),
    "full, Adafactor": ("adapt=full", "train.optimizer=adafactor", "train.batch=3", "train.steps=2"),
    "freeze 12 + lora": ("adapt=[{freeze: {bottom: 12}}, lora]", "train.batch=10", "train.steps=2"),
    "last 6 blocks": ("adapt={freeze: {last: 6}}", "train.batch=10", "train.steps=2"),
    "dpo": ("objective=dpo", LORA, "train.batch=1", "train.steps=2"),
    "orpo, full": ("objective=orpo", "adapt=full", "train.batch=1", "train.steps=2"),
    "checkpointing, full": ("adapt=full", "train.checkpointing=true", "train.batch=6", "train.steps=2"),
    "nf4, rank 32": (LORA, "adapt.lora.r=32", "quantize=nf4", "train.batch=5", "train.steps=2"),
    "long rows": ("objective=pretrain", LORA, "train.batch=1", "train.max_tokens=1536", "train.steps=2"),
}
"""Overrides of the recipe below."""
FITTED: dict[str, tuple[str, ...]] = {
    "lora": (LORA, "train.batch=8", "train.steps=2"),
    "full, 8": ("adapt=full", "train.batch=8", "train.steps=2"),
    "nf4": (LORA, "quantize=nf4", "train.batch=4", "train.steps=2"),
    "freeze 20": ("adapt={freeze: {bottom: 20}}", "train.batch=10", "train.steps=2"),
    "checkpointing": (LORA, "train.checkpointing=true", "train.batch=12", "train.steps=1"),
    "rows of 1,024": ("objective=pretrain", LORA, "train.batch=1", "train.max_tokens=1024", "train.steps=2"),
    "dora": ("adapt=dora", "train.batch=4", "train.steps=2"),
}
"""What the constants of `luthier.advisor` were fitted on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--merge", action="store_true", help="beside what the newest result has")
    parser.add_argument("--again", action="store_true", help="the newest result, predicted anew; nothing is run")
    parser.add_argument("--model", default=None)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    cases, name = (FITTED, "predict-fit") if given.fit else (HELD_OUT, "predict")
    chosen = given.only.split(";") if given.only else list(cases)
    document = dict(results.latest(name)) if given.merge or given.again else {"cases": {}, "hardware": hardware()}
    with tempfile.TemporaryDirectory(prefix="luthier-predict-") as folder:
        bench = Path(folder)
        cache = _cache(bench)
        for case in chosen:
            if given.alone:
                (cache / "advisor" / "runs.jsonl").unlink(missing_ok=True)
            began = time.perf_counter()
            known = document["cases"].get(case) if given.again else None
            found = _run(bench, cache, cases[case], given, known)
            found["whole_seconds"] = round(time.perf_counter() - began, 1)
            document["cases"][case] = found
            print(json.dumps({case: found}), flush=True)
            results.save(name, document)
    table = _table(document["cases"])
    if given.fit:
        print(table)
    else:
        results.write(name, document, table)


def _cache(bench: Path) -> Path:
    """A cache of its own, in which the user's models are found."""
    cache, users = bench / "cache", Path(os.environ.get("LUTHIER_CACHE") or "~/.cache/luthier").expanduser()
    cache.mkdir()
    for part in ("models", "kernels"):
        if (users / part).is_dir():
            (cache / part).symlink_to(users / part)
    return cache


def _run(
    bench: Path, cache: Path, overrides: Sequence[str], given: argparse.Namespace, known: dict[str, Any] | None
) -> dict[str, Any]:
    """One run, and what it said and took; or what is said of it now, where it is known what it took."""
    objective = next((each.split("=")[1] for each in overrides if each.startswith("objective=")), "sft")
    rows = {"sft": ALPACA, "pretrain": PROSE}.get(objective, PAIRS)
    output = bench / "run"
    shutil.rmtree(output, ignore_errors=True)
    recipe = {
        "model": model_folder(given.model), "data": _rows(bench, rows), "output": str(output),
        "train": {"threads": given.threads, "max_tokens": 1024, "long_rows": "drop", "max_lost": 1.0},
    }  # fmt: skip
    path = bench / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    if known is not None:
        return known if "failed" in known else {**known, **_said(path, cache, overrides, known)}
    environment = {**os.environ, "LUTHIER_CACHE": str(cache), "OMP_NUM_THREADS": str(given.threads)}
    command = [sys.executable, "-m", "luthier", "train", str(path), *overrides]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        return {"overrides": list(overrides), "failed": done.stderr[-600:]}
    summary = json.loads((output / "summary.json").read_text(encoding="utf-8"))
    last = json.loads((cache / "advisor" / "runs.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    came = {
        "overrides": list(overrides), "tokens": last["tokens"], "scored": last["scored"], "steps": summary["steps"],
        "peak": summary["peak_memory"], "seconds": summary["seconds"], "rates": _rates(cache),
    }  # fmt: skip
    return {**came, **_held_against(summary["forecast"], came), "flops": last["flops"], "at_rate": last["at_rate"]}


def _rates(cache: Path) -> dict[str, float]:
    return dict(json.loads((cache / "advisor" / "rates.json").read_text(encoding="utf-8")))


def _said(path: Path, cache: Path, overrides: Sequence[str], known: dict[str, Any]) -> dict[str, Any]:
    """What is said of a run now, by what the cache holds of the runs before it; this one is added to it."""
    os.environ["LUTHIER_CACHE"] = str(cache)
    from luthier.advisor import history
    from luthier.recipe import load, resolve
    from luthier.workflow import forecast
    from luthier.workflow.job import Job
    from luthier.workflow.registries import REGISTRIES

    (cache / "advisor").mkdir(exist_ok=True)
    (cache / "advisor" / "rates.json").write_text(json.dumps(known["rates"]), encoding="utf-8")
    found = forecast.expected(Job(resolve(load(path, overrides, REGISTRIES), REGISTRIES).recipe))
    history.add(forecast.ended(found, known["peak"], known["seconds"], known["steps"]))
    at_rate, flops = found.forecast.at_rate, found.forecast.work.flops * found.forecast.steps
    return {**_held_against(found.forecast.to_json(), known), "at_rate": at_rate, "flops": flops}


def _held_against(forecast: dict[str, Any], came: dict[str, Any]) -> dict[str, Any]:
    low, high = forecast["seconds_range"]
    return {
        "predicted": forecast["memory"], "parts": forecast["memory_parts"], "runs": forecast["runs"],
        "error": round(forecast["memory"] / came["peak"] - 1, 4),
        "range": [low, high], "inside": low <= came["seconds"] <= high,
    }  # fmt: skip


def _rows(bench: Path, name: str) -> str:
    """A small part of a data set, in a file of its own."""
    source, target = shared() / "data" / name, bench / Path(name).name
    if not target.exists():
        if target.suffix == ".json":
            rows = json.loads(source.read_text(encoding="utf-8"))
            target.write_text(json.dumps(rows[: 600 if "alpaca" in name else 200]), encoding="utf-8")
        else:
            target.write_text(source.read_text(encoding="utf-8")[:60_000], encoding="utf-8")
    return str(target)


def _table(cases: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        "|recipe|T|S|predicted MiB|came MiB|error|time said|time came|inside|",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, one in cases.items():
        if "failed" in one:
            lines.append(f"|{name}|failed||||||||")
            continue
        low, high = one["range"]
        lines.append(
            f"|{name}|{one['tokens']:,.0f}|{one['scored']:,.0f}|{one['predicted'] / 2**20:,.0f}|"
            f"{one['peak'] / 2**20:,.0f}|{one['error']:+.1%}|{low:.0f}–{high:.0f} s|{one['seconds']:.0f} s|"
            f"{'yes' if one['inside'] else 'no'}|"
        )
    done = [one for one in cases.values() if "failed" not in one]
    within = sum(abs(one["error"]) <= MEMORY_BAR for one in done)
    inside = sum(one["inside"] for one in done)
    lines += [
        "",
        f"Memory within {MEMORY_BAR:.0%}: {within} of {len(cases)}; time inside the range: {inside} of {len(cases)} "
        f"(asked for: all, and {TIME_BAR:.0%}).",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
