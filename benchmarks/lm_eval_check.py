"""lm-evaluation-harness through `luthier serve` and by its own `hf` model: are its log-likelihoods the same?

    python benchmarks/lm_eval_check.py [--rows 40]

Both read one folder in fp32. The task is multiple choice, of MMLU's test rows in the shared folder, with each answer's
whole text scored; the server is asked as `local-completions` asks it (token ids, echo, log-probabilities), several
requests at a time. The bar is 1e-3 nats for every answer of every row.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import results
from environments import PEERS, environment, python_of
from storm.server import served
from workload import model_folder, shared

BAR = 1e-3
TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
NAME = "rows_of_mmlu"


def write_task(folder: Path, count: int) -> None:
    """The task's rows, taken evenly from all subjects, and the file that tells the harness of them."""
    folder.mkdir(parents=True, exist_ok=True)
    places = sorted((shared() / "data" / "mmlu" / "test").glob("*.csv"))
    if not places:
        sys.exit(f"no MMLU in {shared()}/data/mmlu/test; LUTHIER_SHARED names the folder of shared data")
    taken = [list(csv.reader(place.open(encoding="utf-8", newline=""))) for place in places]
    rows = [rows[turn] for turn in range(-(-count // len(taken))) for rows in taken if turn < len(rows)][:count]
    made = [{"question": row[0], "choices": row[1:5], "answer": "ABCD".index(row[5])} for row in rows]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    task = TASK.format(name=NAME, rows=folder / "rows.jsonl")
    (folder / f"{NAME}.yaml").write_text(task, encoding="utf-8")


def harness(folder: Path, name: str, model: str, settings: dict[str, Any]) -> dict[str, list[list[float]]]:
    """Log-likelihoods of each row's answers by the row's number, as the harness had them from one of its models."""
    out = folder / name
    for old in out.rglob("samples_*.jsonl"):
        old.unlink()
    given = ",".join(f"{key}={value}" for key, value in settings.items())
    command = [str(python_of("lm-eval")), "-m", "lm_eval", "--model", model, "--model_args", given]
    command += [
        "--device",
        "cpu",
        "--tasks",
        NAME,
        "--include_path",
        str(folder),
        "--log_samples",
        "--output_path",
        str(out),
    ]
    log = folder / f"{name}.log"
    with log.open("w") as said:
        done = subprocess.run(command, stdout=said, stderr=subprocess.STDOUT, env=environment("lm-eval"), check=False)
    if done.returncode:
        sys.exit(f"lm-eval ({model}) failed:\n{log.read_text(encoding='utf-8')[-3000:]}")
    found = next(out.rglob(f"samples_{NAME}_*.jsonl"))
    rows = [json.loads(line) for line in found.read_text(encoding="utf-8").splitlines()]
    return {str(row["doc_id"]): [_of(answer) for answer in row["filtered_resps"]] for row in rows}


def _of(answer: Sequence[Any]) -> list[float]:
    """Log-likelihood, and 1 where the answer is the likeliest of all texts of its length."""
    logp, greedy = answer
    return [float(logp), float(str(greedy) == "True")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--at-once", type=int, default=4, help="requests that the harness has under way")
    parser.add_argument("--model", help="model folder (default: smollm2-135m-instruct, fetched)")
    parser.add_argument("--results", type=Path, default=results.FOLDER)
    given = parser.parse_args()
    folder, model = PEERS / "work" / "lm-eval", model_folder(given.model)
    write_task(folder, given.rows)
    with served([model], folder / "server.log") as server:
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        asked = {"model": Path(model).name, "base_url": url, "tokenizer": model, "tokenizer_backend": "huggingface"}
        ours = harness(folder, "served", "local-completions", {**asked, "num_concurrent": given.at_once})
    own = harness(folder, "own", "hf", {"pretrained": model, "dtype": "float32"})
    if ours.keys() != own.keys():
        sys.exit(f"{len(ours)} rows came through the server and {len(own)} of the harness' own model")
    pairs = [pair for row in own for pair in zip(ours[row], own[row], strict=True)]
    worst = max(abs(one[0] - other[0]) for one, other in pairs)
    greedy = sum(one[1] != other[1] for one, other in pairs)
    text = (
        "| rows | answers | largest difference of a log-likelihood | bar | said otherwise whether it is greedy |\n"
        f"| --- | --- | --- | --- | --- |\n| {len(own)} | {len(pairs)} | {worst:.1e} | {BAR:.0e} | {greedy} |\n"
    )
    figures = {"rows": len(own), "answers": len(pairs), "worst": worst, "bar": BAR, "greedy_differs": greedy}
    results.write("lm-eval", {"hardware": results.output_of("hardware.py"), **figures}, text, given.results)
    if worst > BAR:
        sys.exit(f"a log-likelihood differs by {worst:.1e}")


if __name__ == "__main__":
    main()
