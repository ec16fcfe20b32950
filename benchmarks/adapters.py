"""Every way to adapt a model on the demo's task with one budget: benchmarks/results/DATE-adapters.{json,md}.

    python benchmarks/adapters.py [--only NAME,…] [--steps N] [--batch N] [--orders N] [--model FOLDER] [--main-job]

Each method trains in a process of its own, then scores held-out orders in another. What is finished is kept: a run that
was broken off goes on with the next method, and `--only` measures some again. `--main-job` runs the SFT workload with
plain LoRA too, and sets it beside the newest results of benchmarks/sft.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contest
import results
from contenders import CONTENDERS
from environments import PEERS, environment
from measure import measured
from workload import model_folder, prepare

TASK = "orders"
LR = 5.0
"""The demo's rate over LoRA's default: a short run wants a high one. Each method's own default is raised alike."""


@dataclass(frozen=True)
class Method:
    """What stands in the recipe for one line of the table."""

    adapt: Any
    quantize: Any = None
    of: str | None = None
    """The method whose learning rate it takes, where it is none of ours."""
    extra: dict[str, Any] = field(default_factory=dict)


KEYS: dict[str, dict[str, Any]] = {
    "freeze": {"bottom": 0.5},
    "bitfit": {"add_biases": True},
    "corda": {"rows": 32},
}
"""Keys without which a method trains nothing here, or measures rows for longer than it trains."""
LORA = {"r": 16, "target_modules": "all-linear"}
MORE = {
    "lora nf4": Method("lora", "nf4", "lora"),
    "lora int8": Method("lora", "int8", "lora"),
    "dora (peft's own)": Method({"peft": {"peft_type": "LORA", "lora_alpha": 32, "use_dora": True, **LORA}}, of="dora"),
    "oft (peft's own)": Method(
        {"peft": {"peft_type": "OFT", "r": 0, "oft_block_size": 32, "target_modules": "all-linear"}}, of="oft"
    ),
}
NF4 = ("loftq", "ir_qlora")
"""Methods that are made for a base in 4 bits."""
APART = ("peft", "train")
"""What is no method of its own."""


def methods() -> dict[str, Method]:
    """Every registered method, plain LoRA first, and the combinations of MORE."""
    from luthier.models import ADAPTERS

    names = sorted(set(ADAPTERS.names()) - set(APART), key=lambda name: (name != "lora", name))
    ours = {name: Method({name: KEYS.get(name, {})}, "nf4" if name in NF4 else None, name) for name in names}
    return {**ours, **MORE}


def recipe(name: str, method: Method, given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The demo's recipe with another method and the benchmark's budget."""
    import yaml

    from luthier.demo import prepare as demo
    from luthier.models import ADAPTERS

    content = yaml.safe_load(demo(folder / "demo", folder / "run").read_text(encoding="utf-8"))
    rate = LR * ADAPTERS.get(method.of or name).default_lr
    train = {"steps": given.steps, "batch": given.batch, "lr": rate, "save_every": given.steps, **method.extra}
    content["train"] = {"max_tokens": 512, **train}
    task = {
        **content["evaluate"],
        "name": TASK,
        "limit": given.orders,
        "base": name in ("lora", "lora nf4", "lora int8"),
    }
    for key in ("evaluate", "export"):
        content.pop(key, None)
    return {
        **content,
        "model": model_folder(given.model),
        "adapt": method.adapt,
        "quantize": method.quantize,
        "_task": task,
    }


def one(name: str, method: Method, given: argparse.Namespace) -> dict[str, Any]:
    """Train and score one method. Raises RuntimeError with the end of its log when it fails."""
    folder = PEERS / "runs" / "adapters" / name.replace(" ", "-").replace("'", "").strip("()")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    content = recipe(name, method, given, folder)
    task = content.pop("_task")
    written = folder / "recipe.json"
    cli, env = str(Path(sys.executable).parent / "luthier"), environment("luthier")
    written.write_text(json.dumps(content), encoding="utf-8")
    trained = measured([cli, "train", str(written)], folder / "train.log", env, folder, given.nice)
    _succeeded(trained.status, folder / "train.log")
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    written.write_text(json.dumps({**content, "evaluate": task}), encoding="utf-8")  # the same run, with a task
    scored = measured([cli, "train", str(written)], folder / "score.log", env, folder, given.nice)
    _succeeded(scored.status, folder / "score.log")
    start = next(event for event in _events(folder / "run") if event["kind"] == "start")
    scores = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))["scores"][TASK]["scores"][0]
    saved = next(path for path in (folder / "run" / "adapter", folder / "run" / "model") if path.is_dir())
    return {
        "quantize": method.quantize,
        "lr": content["train"]["lr"],
        "trainable": start["trainable"],
        "parameters": start["parameters"],
        "path": start["path"],
        "peak_gib": trained.peak_bytes / 2**30,
        "tokens_per_s": summary["tokens_per_s"],
        "seconds": summary["seconds"],
        "first_loss": summary["first_loss"],
        "last_loss": summary["last_loss"],
        "before": scores["systems"].get("base"),
        "after": scores["systems"]["tuned"],
        "disk_mib": sum(path.stat().st_size for path in saved.rglob("*.safetensors")) / 2**20,
        "busy_before": trained.busy_before,
    }


def _succeeded(status: int, log: Path) -> None:
    if status != 0:
        raise RuntimeError(log.read_text(encoding="utf-8", errors="replace").strip()[-600:])


def _events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text(encoding="utf-8").splitlines()]


def main_job(given: argparse.Namespace) -> dict[str, Any]:
    """Plain LoRA on the SFT workload now, and what the newest SFT results say of it."""
    files = sorted(results.FOLDER.glob("*-sft.json"))
    before = json.loads(files[-1].read_text(encoding="utf-8"))
    contender = next(each for each in CONTENDERS if each.name == "luthier")
    now = contest.run(contender, prepare(256, 64, None, None), given.nice)
    then = before["results"]["luthier"]
    best = min(then, key=lambda run: run["seconds"])
    return {
        "of": files[-1].name,
        "then": {"tokens_per_s": best["fed"] / best["seconds"], "peak_gib": best["peak_gib"]},
        "then_gflops": before["hardware"]["bf16_gflops"],
        "now": {"tokens_per_s": now["fed"] / now["seconds"], "peak_gib": now["peak_gib"]},
    }


def kept(budget: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The newest results that were measured with the same budget."""
    for path in sorted(folder.glob("*-adapters.json"), reverse=True):
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["budget"] == budget:
            return dict(document)
    return {"budget": budget, "methods": {}, "failed": {}}


def markdown(document: dict[str, Any]) -> str:
    """One line a method; scores with their intervals, before as measured for the same bits of the base."""
    done, budget = document["methods"], document["budget"]
    before = {run["quantize"]: run["before"] for run in done.values() if run["before"]}
    lines = [
        "| method | score before | after | trains | peak GiB | tokens/s | on disk, MiB |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, run in done.items():
        share = f"{run['trainable'] / run['parameters']:.2%}" if run["parameters"] else f"{run['trainable']:,}"
        base = " (nf4)" if run["quantize"] == "nf4" and "nf4" not in name else ""
        lines.append(
            f"| {name}{base} | {_score(before.get(run['quantize']))} | {_score(run['after'])} | {share} "
            f"| {run['peak_gib']:.2f} | {run['tokens_per_s']:,.0f} | {run['disk_mib']:.1f} |"
        )
    lines += ["", *(f"- {name} failed: {said.splitlines()[-1]}" for name, said in document["failed"].items())]
    if "main_job" in document:
        job = document["main_job"]
        ratio = {key: job["now"][key] / job["then"][key] for key in job["now"]}
        lines.append(
            f"Plain LoRA on the SFT workload against {job['of']} (matrix products at {job['then_gflops']:,.0f} Gflop/s "
            f"then): tokens/s ×{ratio['tokens_per_s']:.3f}, memory ×{ratio['peak_gib']:.3f}."
        )
    busy = max((run["busy_before"] for run in done.values()), default=0.0)
    return (
        f"{budget['model']}, the demo's orders: {budget['steps']} steps of {budget['batch']} rows for each method, "
        f"learning rate {LR:g} × its default; the score is the share of {budget['orders']} held-out orders that are "
        "right as a whole, with its 95 % interval. Memory is the training process tree's peak. Before a run the "
        f"processor was at most {busy:.0f} % busy.\n\n" + "\n".join(lines) + "\n"
    )


def _score(estimate: dict[str, float] | None) -> str:
    return "–" if estimate is None else f"{estimate['value']:.2f} ({estimate['low']:.2f}–{estimate['high']:.2f})"


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="some methods, measured again even if they are finished")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--orders", type=int, default=40)
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--main-job", action="store_true")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--nice", type=int, default=0, help="for trials beside other work; not for numbers")
    return parser.parse_args()


def main() -> None:
    given, known = options(), methods()
    wanted = given.only.split(",") if given.only else list(known)
    if unknown := sorted(set(wanted) - set(known)):
        sys.exit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    budget = {key: getattr(given, key) for key in ("steps", "batch", "orders")}
    budget["model"] = Path(model_folder(given.model)).name
    document = kept(budget, given.results)
    document["hardware"] = results.output_of("hardware.py")
    for name in wanted:
        if name in document["methods"] and not given.only:
            continue
        print(f"{name} …", flush=True)
        try:
            document["methods"][name] = one(name, known[name], given)
            document["failed"].pop(name, None)
        except RuntimeError as error:
            document["failed"][name] = str(error)
            print(f"  failed: {error}", file=sys.stderr, flush=True)
        results.write("adapters", document, markdown(document), given.results)
    if given.main_job:
        document["main_job"] = main_job(given)
    results.write("adapters", document, markdown(document), given.results)


if __name__ == "__main__":
    main()
