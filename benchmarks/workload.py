"""The work every tool does: rows, model folder and hyper-parameters, the same bytes for all; and the SFT rows."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from environments import PEERS, ROOT

ALPACA = "alpaca-52k/alpaca_data.json"


@dataclass(frozen=True)
class Workload:
    """LoRA on all linear layers, one epoch; constant learning rate, no warm-up, no weight decay, Adam 0.9/0.999.

    A constant rate because tools differ in what a warm-up of one step means; everything else is written out for
    every tool so that no default of one of them changes the mathematics.
    """

    name: str
    model: str
    train: str
    held_out: str
    rows: int
    stage: Literal["sft", "dpo"] = "sft"
    """What is trained; a row of "dpo" has `chosen` and `rejected` beside the prompt's `messages`."""
    max_tokens: int = 512
    batch: int = 16
    rank: int = 16
    alpha: int = 32
    lr: float = 2e-4
    beta: float | None = None
    """DPO's; None where nothing is compared with a reference."""
    left_out: int = 0
    """Rows left out for every tool, because their prompt alone has `max_tokens` tokens."""
    seed: int = 0

    def write(self, path: Path) -> None:
        """As JSON, for the tool's process to read."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def shared() -> Path:
    """The folder of data shared with the repository: $LUTHIER_SHARED, or `../shared`."""
    return Path(os.environ.get("LUTHIER_SHARED", ROOT.parent / "shared"))


def model_folder(model: str | None) -> str:
    """The given model folder; by default that of smollm2-135m-instruct, fetched at first use."""
    if model is not None:
        return model
    from luthier.models import fetch
    from luthier.recipe.schema import Model

    return str(fetch(Model(name="smollm2-135m-instruct")).folder)


def write_rows(name: str, train: Sequence[dict[str, Any]], held_out: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """Both parts as JSON lines in a folder of the workload's own; their paths."""
    folder = PEERS / "work" / name
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "train.jsonl", folder / "held-out.jsonl"
    for path, rows in zip(paths, (train, held_out), strict=True):
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(paths[0]), str(paths[1])


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


def prepare(rows: int, held_out: int, model: str | None, data: str | None) -> Workload:
    """Write the first `rows` rows after `random.Random(0).shuffle` of all, and the `held_out` rows after the 256th."""
    everything = [messages(row) for row in alpaca(data)]
    random.Random(0).shuffle(everything)
    held_from = max(rows, 256)
    parts = everything[:rows], everything[held_from : held_from + held_out]
    return Workload("sft", model_folder(model), *write_rows(f"sft-{rows}", *parts), rows)
