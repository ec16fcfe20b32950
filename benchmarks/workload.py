"""The work every tool does: rows, model folder and hyper-parameters, the same bytes for all."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from environments import PEERS, ROOT

ALPACA = "alpaca-52k/alpaca_data.json"


@dataclass(frozen=True)
class Workload:
    """LoRA on all linear layers, one epoch; constant learning rate, no warm-up, no weight decay, Adam 0.9/0.999.

    A constant rate because tools differ in what a warm-up of one step means; everything else is written out for
    every tool so that no default of one of them changes the mathematics.
    """

    model: str
    train: str
    held_out: str
    rows: int
    max_tokens: int = 512
    batch: int = 16
    rank: int = 16
    alpha: int = 32
    lr: float = 2e-4
    seed: int = 0
    objective: str = "sft"
    """"sft" on rows with messages, or "dpo" on rows with prompt, chosen and rejected."""
    beta: float = 0.1

    def write(self, path: Path) -> None:
        """As JSON, for the tool's process to read."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def shared() -> Path:
    """The folder of data shared with the repository: $LUTHIER_SHARED, or `../shared`."""
    return Path(os.environ.get("LUTHIER_SHARED", ROOT.parent / "shared"))


def alpaca(data: str | None) -> list[dict[str, str]]:
    """All alpaca rows: from `data` (a JSON file), the shared folder, or the hub's tatsu-lab/alpaca."""
    path = Path(data) if data else shared() / "data" / ALPACA
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    from datasets import load_dataset

    return [dict(row) for row in load_dataset("tatsu-lab/alpaca", split="train")]


def messages(row: dict[str, str]) -> dict[str, list[dict[str, str]]]:
    """user = instruction, then the input on a new line if there is one; assistant = output."""
    prompt = f"{row['instruction']}\n{row['input']}" if row["input"] else row["instruction"]
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]}


def write_rows(folder: Path, parts: dict[str, list[dict[str, Any]]]) -> dict[str, str]:
    """Each part's rows as FOLDER/PART.jsonl; the paths by part."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return {name: str(folder / f"{name}.jsonl") for name in parts}


def model_folder(model: str | None) -> str:
    """The given model folder, or that of the default model."""
    if model is not None:
        return model
    from luthier.models import fetch
    from luthier.recipe.schema import Model

    return str(fetch(Model(name="smollm2-135m-instruct")).folder)


def prepare(rows: int, held_out: int, model: str | None, data: str | None) -> Workload:
    """Write the first `rows` rows after `random.Random(0).shuffle` of all, and the `held_out` rows after the 256th."""
    everything = alpaca(data)
    random.Random(0).shuffle(everything)
    held_from = max(rows, 256)
    parts = {"train": everything[:rows], "held-out": everything[held_from : held_from + held_out]}
    chats = {name: [messages(row) for row in part] for name, part in parts.items()}
    paths = write_rows(PEERS / "work" / f"sft-{rows}", chats)
    return Workload(model_folder(model), paths["train"], paths["held-out"], rows)


# preference
def _pair(prompt: str, chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def _demo_pair(row: dict[str, Any]) -> dict[str, Any]:
    roles = {"human": "user", "gpt": "assistant", "system": "system"}
    pair = _pair("", row["chosen"]["value"], row["rejected"]["value"])
    turns = [{"role": roles[turn["from"]], "content": turn["value"]} for turn in row["conversations"]]
    return pair | {"prompt": turns}


def prepare_pairs(rows: int, held_out: int, model: str | None) -> Workload:
    """The first `rows` pairs of LLaMA-Factory's dpo_en_demo.json, and the `held_out` pairs after the 48th."""
    source = shared() / "data" / "llamafactory-demo" / "dpo_en_demo.json"
    everything = [_demo_pair(row) for row in json.loads(source.read_text(encoding="utf-8"))]
    held_from = max(rows, 48)
    parts = {"train": everything[:rows], "held-out": everything[held_from : held_from + held_out]}
    paths = write_rows(PEERS / "work" / f"dpo-{rows}", parts)
    return Workload(
        model_folder(model), paths["train"], paths["held-out"], rows, max_tokens=1024, lr=5e-6, objective="dpo"
    )


def prepare_long_prompts(rows: int, held_out: int, model: str | None) -> Workload:
    """Pairs of GSM8K solutions, each asked with worked examples of its own before it: a prompt of three characters for
    each one of a response, and no two prompts begin alike."""
    source = shared() / "data" / "gsm8k-model-solutions" / "pairs.jsonl"
    pairs = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    random.Random(0).shuffle(pairs)
    asked, shots = pairs[: rows + held_out], iter(pairs[rows + held_out :])
    built = []
    for pair in asked:
        prompt, wanted = pair["prompt"], 1.5 * (len(pair["chosen"]) + len(pair["rejected"]))
        while len(prompt) < wanted:
            shot = next(shots)
            prompt = f"{shot['prompt']}\n{shot['chosen']}\n\n{prompt}"
        built.append(_pair(prompt, pair["chosen"], pair["rejected"]))
    paths = write_rows(PEERS / "work" / f"long-{rows}", {"train": built[:rows], "held-out": built[rows:]})
    return Workload(
        model_folder(model), paths["train"], paths["held-out"], rows, max_tokens=2048, lr=5e-6, objective="dpo"
    )
