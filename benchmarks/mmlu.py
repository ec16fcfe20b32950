"""MMLU, 5 shots, by likelihood: processor seconds here and in lm-evaluation-harness, and do both pick the same letters?

    python benchmarks/mmlu.py [--questions 72] [--subjects 6] [--harness FOLDER]

Both read one model folder in fp32 on one thread, and the same questions of so many subjects (every ninth or so of the
57), with the same shots. What is timed is everything between rows in memory and picks: prompts, tokens, likelihoods.
`--harness` names a folder in which lm_eval is installed beside this Python's packages; otherwise the environment
`.peers/lm-eval` is built. The bars: a fifth of its processor seconds, and no other pick.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
from environments import PEERS, environment, python_of
from workload import model_folder, shared

BAR = 5.0
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {test}, dev: {dev}}}}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: 5
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about {about}.\\n\\n"
doc_to_text: "{{{{question.strip()}}}}\\nA. {{{{choices[0]}}}}\\nB. {{{{choices[1]}}}}\\nC. {{{{choices[2]}}}}\\nD. \
{{{{choices[3]}}}}\\nAnswer:"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
PREFIX = "rows_of_"


def ours(model: str, count: int, subjects: int, folder: Path) -> dict[str, Any]:
    """Our picks by subject and line, with the processor seconds; and the rows for the harness, written on the way."""
    import torch

    from luthier import models
    from luthier.data import Template
    from luthier.engines.local import LocalEngine
    from luthier.evaluate import ScoredTask, compare
    from luthier.recipe import Model
    from luthier.recipe.schema import Task

    torch.set_num_threads(1)
    every = sorted(path.name.removesuffix("_test.csv") for path in (shared() / "data" / "mmlu" / "test").glob("*.csv"))
    some = every[:: max(1, len(every) // subjects)][:subjects]
    keys = {"path": str(shared() / "data" / "mmlu"), "limit": count, "subjects": some}
    scored = ScoredTask(Task(benchmark={"mmlu": keys}))
    rows = scored.benchmark.rows(lambda _: None)
    write_tasks(rows, folder)
    policy = models.load(Model(name=model, dtype="fp32"), train=False, device="cpu")
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    compare(scored, rows[:2], template, {"base": engine})  # what is made once: kernels
    began, wall = time.process_time(), time.perf_counter()
    found = compare(scored, rows, template, {"base": engine})
    seconds, passed = time.process_time() - began, time.perf_counter() - wall
    picks = {str(place): sample.answers["base"].text for place, sample in enumerate(found.samples)}
    return {"seconds": seconds, "wall": passed, "acc": found.headline.systems["base"].value, "picks": picks}


def write_tasks(rows: Sequence[Any], folder: Path) -> None:
    """A task of the harness for each subject, over the very rows; each row knows its place among all."""
    folder.mkdir(parents=True, exist_ok=True)
    by_subject: dict[str, list[dict[str, Any]]] = {}
    for place, row in enumerate(rows):
        fields = read(Path(row.source.path), row.source.row)
        by_subject.setdefault(row.meta["subject"], []).append({**fields, "place": place})
    for subject, some in by_subject.items():
        dev = shared() / "data" / "mmlu" / "dev" / f"{subject}_dev.csv"
        test_path, dev_path = folder / f"{subject}.jsonl", folder / f"{subject}.dev.jsonl"
        lines(test_path, some)
        lines(dev_path, [read(dev, number) for number in numbers(dev)[:5]])
        about = subject.replace("_", " ")
        task = TASK.format(name=PREFIX + subject, test=test_path, dev=dev_path, about=about)
        (folder / f"{subject}.yaml").write_text(task, encoding="utf-8")


def numbers(path: Path) -> list[int]:
    """The lines at which the rows of a table end."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        return [reader.line_num for _ in reader]


def read(path: Path, line: int) -> dict[str, Any]:
    """The row that ends at a line."""
    import csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        for fields in reader:
            if reader.line_num == line:
                return {"question": fields[0], "choices": fields[1:5], "answer": "ABCD".index(fields[5])}
    raise SystemExit(f"{path} has no row at line {line}")


def lines(path: Path, rows: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def theirs(model: str, folder: Path, batch: int) -> dict[str, Any]:
    """The harness' picks, and its processor seconds from tasks in memory on."""
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    torch.set_num_threads(1)
    names = sorted(PREFIX + path.stem for path in folder.glob("*.yaml"))
    tasks = TaskManager(include_path=str(folder), include_defaults=False).load(names)
    lm = HFLM(pretrained=model, dtype="float32", batch_size=batch, device="cpu")
    began, wall = time.process_time(), time.perf_counter()
    found = evaluate(lm, tasks, bootstrap_iters=0, log_samples=True)
    seconds, passed = time.process_time() - began, time.perf_counter() - wall
    picks, right, margins = {}, [], {}
    for some in found["samples"].values():
        for row in some:
            logps = [float(one[0]) for one in row["filtered_resps"]]
            place = str(row["doc"]["place"])
            picks[place] = "ABCD"[logps.index(max(logps))]
            margins[place] = sorted(logps)[-1] - sorted(logps)[-2]
            right.append(row["acc"])
    return {"seconds": seconds, "wall": passed, "acc": sum(right) / len(right), "picks": picks, "margins": margins}


def side(name: str, command: list[str], env: dict[str, str], folder: Path) -> dict[str, Any]:
    """One side, in a process of its own, as the JSON it leaves."""
    out = folder / f"{name}.json"
    out.unlink(missing_ok=True)
    done = subprocess.run([*command, "--out", str(out)], env={**env, "OMP_NUM_THREADS": "1"}, check=False)
    if done.returncode or not out.exists():
        sys.exit(f"{name} failed")
    return dict(json.loads(out.read_text(encoding="utf-8")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=72)
    parser.add_argument("--subjects", type=int, default=6)
    parser.add_argument("--batch", type=int, default=8, help="questions that the harness reads at once")
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--harness", type=Path, help="a folder with lm_eval for this Python")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    parser.add_argument("--side", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    folder = PEERS / "work" / "mmlu"
    model = given.model or model_folder(None)
    if given.side:
        found = (
            ours(model, given.questions, given.subjects, folder)
            if given.side == "ours"
            else theirs(model, folder, given.batch)
        )
        given.out.write_text(json.dumps(found), encoding="utf-8")
        return
    keys = [str(Path(__file__)), "--questions", str(given.questions), "--subjects", str(given.subjects)]
    keys += ["--batch", str(given.batch), "--model", model]
    for old in [*folder.glob("*.yaml"), *folder.glob("*.jsonl")]:
        old.unlink()
    mine = side("ours", [sys.executable, *keys, "--side", "ours"], dict(os.environ), folder)
    if given.harness:
        paths = os.pathsep.join(filter(None, [str(given.harness), os.environ.get("PYTHONPATH", "")]))
        python, env = sys.executable, {**environment("lm-eval"), "PYTHONPATH": paths}
    else:
        python, env = str(python_of("lm-eval")), environment("lm-eval")
    other = side("theirs", [python, *keys, "--side", "theirs"], env, folder)
    differing = [place for place, pick in mine["picks"].items() if other["picks"].get(place) != pick]
    times = other["seconds"] / mine["seconds"]
    margins = ", ".join(format(other["margins"][place], ".1e") for place in differing)
    text = (
        "| | questions | processor s | wall s | acc |\n| --- | --- | --- | --- | --- |\n"
        f"| Luthier | {len(mine['picks'])} | {mine['seconds']:.1f} | {mine['wall']:.1f} | {mine['acc']:.4f} |\n"
        f"| lm-evaluation-harness, {given.batch} at once | {len(other['picks'])} | {other['seconds']:.1f} | "
        f"{other['wall']:.1f} | {other['acc']:.4f} |\n\n"
        f"{times:.1f} times fewer processor seconds (bar: {BAR:g}); "
        f"{len(differing)} of {len(mine['picks'])} picks differ"
        f"{f' (by {margins} nats there)' if differing else ''}.\n"
    )
    sides = {"ours": mine, "theirs": other, "times": times, "differing": differing, "bar": BAR}
    results.write("mmlu", {"hardware": results.output_of("hardware.py"), **sides}, text, given.results)
    if times < BAR or differing:
        sys.exit("a bar is not met")


if __name__ == "__main__":
    main()
