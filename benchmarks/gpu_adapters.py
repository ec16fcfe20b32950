"""LoRA and QLoRA on a model of 8B's shape with random weights, on one CUDA device: DATE-gpu-adapters.{json,md}.

    python benchmarks/gpu_adapters.py [--layers N] [--rows N] [--tokens N] [--peer PYTHON]

Peak device memory and tokens a second of training; what is learnt means nothing. `--peer` names the interpreter of an
environment with TRL, PEFT, bitsandbytes and a CUDA build of torch, which then does the same (peers/trl_qlora.py).
Not run by `make bench`: it needs a GPU with 24 GB at least (8B in bf16) and 17 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import results
from environments import PEERS
from workload import model_folder

SHAPE = {
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rope_theta": 500000.0,
}
"""Llama 3.1 8B's; it has 32 layers."""
WAYS = {"lora": None, "qlora nf4": "nf4", "lora int8": "int8"}


def write_model(folder: Path, layers: int) -> Path:
    """A folder with random bf16 weights of that shape and the default model's tokenizer; kept for the next time."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    if (folder / "config.json").exists():
        return folder
    config = LlamaConfig(num_hidden_layers=layers, tie_word_embeddings=False, **SHAPE)
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    AutoTokenizer.from_pretrained(model_folder(None)).save_pretrained(folder)
    model.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: int, tokens: int) -> Path:
    """Chats of about `tokens` tokens: random words, half of them in the answer."""
    draw = random.Random(0)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]

    def text() -> str:
        return " ".join(draw.choice(words) for _ in range(tokens // 2 - 16))

    lines = [
        json.dumps({"messages": [{"role": "user", "content": text()}, {"role": "assistant", "content": text()}]})
        for _ in range(rows)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def ours(model: Path, rows: Path, quantize: str | None, folder: Path, tokens: int) -> dict[str, Any]:
    """One run of Luthier; its own account of memory and speed."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    recipe = {
        "model": str(model),
        "data": str(rows),
        "adapt": {"lora": {"r": 16}},
        "quantize": quantize,
        "train": {"batch": 16, "max_tokens": 2 * tokens, "micro_tokens": 4 * tokens, "save_every": 10**6},
        "output": str(folder / "run"),
    }
    (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
    subprocess.run([str(Path(sys.executable).parent / "luthier"), "train", str(folder / "recipe.json")], check=True)
    summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
    return {"peak_gib": summary["peak_memory"] / 2**30, "tokens_per_s": summary["tokens_per_s"]}


def theirs(python: str, model: Path, rows: Path, quantize: str | None, tokens: int) -> dict[str, Any]:
    """The same by TRL, PEFT and bitsandbytes; the last line of the script is its account."""
    script = Path(__file__).parent / "peers" / "trl_qlora.py"
    command = [python, str(script), str(model), str(rows), str(quantize), str(2 * tokens)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=512, help="of a row, about")
    parser.add_argument("--peer", help="interpreter of an environment with TRL and a CUDA build of torch")
    given = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("this benchmark needs a CUDA device")
    folder = PEERS / "runs" / "gpu-adapters"
    folder.mkdir(parents=True, exist_ok=True)
    model = write_model(folder / f"model-{given.layers}", given.layers)
    torch.cuda.empty_cache()
    rows = write_rows(folder / "rows.jsonl", given.rows, given.tokens)
    runs: dict[str, dict[str, Any]] = {}
    for name, quantize in WAYS.items():
        runs[f"luthier, {name}"] = ours(model, rows, quantize, folder / name.replace(" ", "-"), given.tokens)
        if given.peer:
            runs[f"TRL, {name}"] = theirs(given.peer, model, rows, quantize, given.tokens)
    lines = [f"| {name} | {run['peak_gib']:.1f} | {run['tokens_per_s']:,.0f} |" for name, run in runs.items()]
    text = (
        f"{torch.cuda.get_device_name()}, random weights of Llama 8B's shape with {given.layers} layers, {given.rows} "
        f"rows of about {given.tokens} tokens.\n\n| way | peak device GiB | tokens/s |\n| --- | --- | --- |\n"
    )
    machine = results.output_of("hardware.py")
    document = {"hardware": machine, "device": torch.cuda.get_device_name(), "layers": given.layers, "runs": runs}
    results.write("gpu-adapters", document, text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
