"""The runs whose numbers are on record, and a process that does one of them for each name that it reads.

Nothing here knows what Luthier is made of: a run is a recipe, its numbers are read from the folder it leaves behind.
`tests/trajectory/test_unchanged.py` compares them with what is on record.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).resolve().parents[2] / "shared"))
STORIES = SHARED / "models/stories260k"
PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "PYTHONHASHSEED": "0",
    # the same code on every x86 processor since 2013, whatever else it could do
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",
}
"""The environment of a run on record. What else decides about bits is in the name of the machine's `kind`."""
OF_THE_CLOCK = {"kind", "time", "tokens_per_s", "memory", "seconds", "peak_memory", "resumed_from"}


@dataclass(frozen=True)
class Case:
    """One run: its rows by name, the keys of the recipe that differ from `BASIS`, and how close is close elsewhere."""

    rows: str = "answers"
    recipe: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    model: str = "llama"
    dtype: str = "fp32"
    close: float = 1e-4
    resumed_after: int | None = None
    """Take away all that the run has left behind after this step, and continue."""


DPO, PAIRS, LABELS = {"objective": "dpo"}, "pairs", "labels"
BASIS = {"adapt": {"lora": {"r": 4}}, "seed": 3}
TRAIN = {"batch": 4, "steps": 3, "max_tokens": 192, "threads": 1, "lr": 3e-3, "log_every": 1, "save_every": 2}
CASES: dict[str, Case] = {
    # fine-tuning: layouts, micro-batches, evaluations, noise, types, shapes
    "sft packed": Case(),
    "sft padded": Case(train={"layout": "padded"}),
    "sft shared prefixes": Case("system"),
    "sft own layers": Case(train={"fused": False}),
    "sft micro-batches": Case("system", train={"micro_tokens": 260}),
    "sft micro-batches, checkpointing": Case(train={"micro_tokens": 80, "checkpointing": True}),
    "sft validated": Case(train={"lr": 0.1, "steps": 4}, recipe={"validate": {"share": 0.3, "every": 1}}),
    "sft noise": Case(recipe={"adapt": {"lora": {"r": 4, "dropout": 0.2}}}, train={"neftune": 5.0}, close=0.2),
    "sft resumed": Case(train={"save_every": 1, "keep": 9, "steps": 4, "neftune": 5.0}, resumed_after=2),
    "sft scored": Case(
        recipe={"evaluate": {"data": "answers.jsonl", "scorers": ["perplexity"], "max_new_tokens": 4, "max_overlap": 1}}
    ),
    "sft bf16": Case(dtype="bf16", close=2e-2),
    "sft bf16 full": Case(dtype="bf16", recipe={"adapt": "full"}, close=2e-2),
    "sft gpt2": Case(model="gpt2"),
    "sft qwen3": Case(model="qwen3"),
    "sft stories260k": Case("prose", model="stories260k", train={"steps": 2}),
    "pretrain": Case("texts", {"objective": "pretrain"}),
    # ways to adapt
    "full": Case(recipe={"adapt": "full"}),
    "full micro-batches, muon": Case(recipe={"adapt": "full"}, train={"micro_tokens": 80, "optimizer": "muon"}),
    "freeze": Case(recipe={"adapt": {"freeze": {"bottom": 1}}}),
    "dora": Case(recipe={"adapt": {"dora": {"r": 4}}}),
    "oft": Case(recipe={"adapt": {"oft": {"block": 4}}}),
    "pissa": Case(recipe={"adapt": {"pissa": {"r": 4}}}),
    "adalora": Case(recipe={"adapt": {"adalora": {"r": 2}}}, train={"steps": 5}),
    "bitfit": Case(recipe={"adapt": {"bitfit": {"add_biases": True}}}),
    "houlsby": Case(recipe={"adapt": {"houlsby": {"size": 4}}}),
    "nf4": Case(recipe={"quantize": "nf4"}, model="wide", close=1e-3),
    # preferences: pairs
    "dpo": Case(PAIRS, DPO),
    "dpo padded": Case(PAIRS, DPO, {"layout": "padded"}),
    "dpo full": Case(PAIRS, {**DPO, "adapt": "full"}),
    "dpo micro-batches, validated": Case(
        PAIRS, {**DPO, "validate": {"share": 0.3, "every": 1}}, {"micro_tokens": 100, "steps": 4}
    ),
    "dpo bf16": Case(PAIRS, DPO, dtype="bf16", close=2e-2),
    "dpo and sft": Case(PAIRS, {"objective": {"sum": {"dpo": {"beta": 0.2}, "sft": 0.3}}}),
    "ipo": Case(PAIRS, {"objective": "ipo"}),
    "simpo": Case(PAIRS, {"objective": "simpo"}),
    "orpo": Case(PAIRS, {"objective": "orpo"}),
    "cpo": Case(PAIRS, {"objective": "cpo"}),
    # preferences: labels
    "kto kept": Case(LABELS, {"objective": "kto", "reference": {"cache": True}}),
    "kto live": Case(LABELS, {"objective": "kto", "reference": {"cache": False}}),
    "bco": Case(LABELS, {"objective": "bco"}),
    # heads
    "reward": Case(PAIRS, {"objective": "reward"}),
    "reward validated": Case(PAIRS, {"objective": "reward", "validate": {"share": 0.3, "every": 1}}),
    "process reward": Case("steps", {"objective": "process_reward"}),
}


# what the runs read, the same on every machine: no generator of torch's is asked
def text(draw: random.Random, least: int, most: int) -> str:
    return " ".join("".join(draw.choices("abcdefgh", k=draw.randint(1, 6))) for _ in range(draw.randint(least, most)))


def rows(name: str, count: int = 14) -> list[dict[str, Any]]:
    draw = random.Random(name)
    system = "answer in the letters that the question has, and in no other"
    found: list[dict[str, Any]] = []
    for n in range(count):
        asked, one, other = text(draw, 1, 4), text(draw, 1, 6), text(draw, 1, 6)
        found.append(
            {
                "answers": {"prompt": asked, "completion": one},
                "system": {"prompt": asked, "completion": one, "system": system},
                "prose": {"prompt": asked, "completion": one},
                "texts": {"text": f"{asked} {one} {other}"},
                "pairs": {"prompt": asked, "chosen": one, "rejected": other},
                "labels": {"prompt": asked, "completion": one, "label": n % 3 > 0},
                "steps": {
                    "prompt": asked,
                    "completions": [f"{one}\n\n", f"{other}\n\n", asked],
                    "labels": [n % 2, (n + 1) % 3 and 1, 1],
                },
            }[name]
        )
    return found


def save_model(folder: Path, name: str) -> Path:
    """Two layers, each weight drawn by its name, and a tokenizer of bytes."""
    import numpy as np
    import torch
    from tiny_tokenizers import CHATML, letters
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen3Config

    special = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
    start = special[0]
    tokenizer = letters(*special, bos_token=start, eos_token=special[2], pad_token=start, chat_template=CHATML)
    keys: dict[str, Any] = {"vocab_size": len(tokenizer), "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 0}
    if name == "gpt2":
        noise = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0)
        config: Any = GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **noise, **keys)
    else:
        width = 64 if name == "wide" else 32
        keys |= {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2}
        keys |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
        config = Qwen3Config(head_dim=8, **keys) if name == "qwen3" else LlamaConfig(**keys)
    module = AutoModelForCausalLM.from_config(config)
    for key, weight in module.named_parameters():
        drawn = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(tuple(weight.shape)) * 0.1
        with torch.no_grad():
            weight.copy_(torch.from_numpy((drawn + 1 if weight.dim() == 1 and "norm" in key else drawn).astype("f4")))
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


# a run and its numbers
def measure(name: str, folder: Path) -> dict[str, dict[str, Any]]:
    """The numbers of one run in a fresh folder, by event and field, and a digest of each weight it ends with."""
    import luthier

    case = CASES[name]
    base = STORIES if case.model == "stories260k" else folder.parent / "models" / case.model
    if not base.is_dir():
        save_model(base, case.model)
    folder.mkdir()
    os.chdir(folder)
    Path(f"{case.rows}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(case.rows)))
    data: dict[str, Any] = {"path": f"{case.rows}.jsonl"}
    if case.model == "stories260k":
        data["chat"] = False
    content = {**BASIS, **case.recipe, "model": {"name": str(base), "dtype": case.dtype}, "data": data}
    # JSON is YAML
    Path("recipe.yaml").write_text(json.dumps({**content, "train": {**TRAIN, **case.train}, "output": "run"}))
    luthier.train("recipe.yaml")
    if case.resumed_after is not None:
        whole = numbers(Path("run"))
        forget(Path("run"), case.resumed_after)
        luthier.train("recipe.yaml")
        assert json.loads(Path("run/summary.json").read_text())["resumed_from"] == case.resumed_after
        assert numbers(Path("run")) == whole, "continued after a stop, it is another run"
    return numbers(Path("run"))


def forget(run: Path, step: int) -> None:
    """Leave of a run what it would have left when killed just after the checkpoint of `step`."""
    for path in run.iterdir():
        if path.name not in ("checkpoints", "events.jsonl", "recipe.lock.yaml", "ledger.json"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)


def events(run: Path, kind: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [event for event in found if event["kind"] == kind]


def numbers(run: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for kind in ("step", "evaluation", "end"):
        for event in events(run, kind):
            values = {key: value for key, value in event.items() if isinstance(value, int | float)}
            found[f"{kind} {event['step']}"] = {
                key: value for key, value in values.items() if key not in {*OF_THE_CLOCK, "step"}
            }
    scores = json.loads((run / "summary.json").read_text()).get("scores")
    if scores:
        found["scores"] = leaves(scores)
    found["weights"] = weights(run)
    return found


def leaves(content: Any, path: str = "") -> dict[str, Any]:
    """The numbers of a tree, by their paths in it."""
    if isinstance(content, dict | list):
        pairs = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: value for name, below in pairs for key, value in leaves(below, f"{path}/{name}").items()}
    return {path: content} if isinstance(content, int | float) and "seconds" not in path else {}


def weights(run: Path) -> dict[str, str]:
    """A digest of each tensor's bytes, type and shape, of all that the run has saved."""
    import torch
    from safetensors import safe_open

    found = {}
    for path in sorted([*run.glob("adapter/**/*.safetensors"), *run.glob("model/**/*.safetensors")]):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 — not a dictionary
                tensor = file.get_tensor(name).contiguous()
                about = f"{tensor.dtype} {tuple(tensor.shape)} ".encode()
                content = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
                found[f"{path.parent.relative_to(run)}: {name}"] = hashlib.sha256(about + content).hexdigest()[:16]
    assert found, f"{run} holds no weights"
    return dict(sorted(found.items()))


# the machine
def kind() -> str:
    """What decides about bits beside the environment: torch, the processor's reach, the compiled kernels."""
    import torch

    described = Path("/proc/cpuinfo")
    flags = set(described.read_text().split()) if described.is_file() else set()
    levels = {"avx512_bf16": "avx512bf16", "avx512f": "avx512", "avx2": "avx2"}
    reach = next((level for flag, level in levels.items() if flag in flags), "plain")
    off = os.environ.get("LUTHIER_KERNELS") == "off" or not (shutil.which("cc") or shutil.which("gcc"))
    parts = f"torch-{torch.__version__}", platform.machine(), torch.backends.cpu.get_cpu_capability().lower()
    return (
        " ".join([*parts, f"cpu-{reach}", "kernels-off" if off else "kernels-on"]).replace("+", "-").replace(" ", "_")
    )


def surroundings() -> dict[str, str]:
    """What else there was, to be told when numbers differ: it decides about nothing here."""
    from importlib import metadata

    names = "torch", "transformers", "peft", "numpy", "safetensors", "tokenizers", "bitsandbytes"
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    found = {name: installed.get(name, "absent") for name in names}
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler:
        said = subprocess.run([compiler, "--version"], capture_output=True, text=True).stdout
        found["compiler"] = (said.splitlines() or ["?"])[0]
    models = (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name"))
    found["processor"] = next(models, "?").partition(":")[2].strip()
    return found


def serve() -> None:
    """Answer each name on standard input with one line of JSON; first comes what the machine is."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what runs say themselves goes elsewhere

    def answer(content: Any) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    answer({"kind": kind(), "surroundings": surroundings()})
    with tempfile.TemporaryDirectory() as there:
        for n, line in enumerate(sys.stdin):
            try:
                answer({"numbers": measure(line.strip(), Path(there) / f"run-{n}")})
            except Exception:
                answer({"error": traceback.format_exc()})
            os.chdir("/")


if __name__ == "__main__":
    serve()
