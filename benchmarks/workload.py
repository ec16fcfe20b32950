"""The work every tool does: rows, model folder and hyper-parameters, the same bytes for all."""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass
from pathlib import Path

from environments import PEERS, ROOT

ALPACA = "alpaca-52k/alpaca_data.json"


@dataclass(frozen=True)
class Workload:
    """SFT by LoRA on all linear layers, one epoch; constant learning rate, no warm-up, no weight decay, Adam 0.9/0.999.

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


def prepare(rows: int, held_out: int, model: str | None, data: str | None) -> Workload:
    """Write the first `rows` rows after `random.Random(0).shuffle` of all, and the `held_out` rows after the 256th."""
    everything = alpaca(data)
    random.Random(0).shuffle(everything)
    folder = PEERS / "work" / f"sft-{rows}"
    folder.mkdir(parents=True, exist_ok=True)
    held_from = max(rows, 256)
    for name, part in (("train", everything[:rows]), ("held-out", everything[held_from : held_from + held_out])):
        text = "".join(json.dumps(messages(row), ensure_ascii=False) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    if model is None:
        from luthier.models import fetch
        from luthier.recipe.schema import Model

        model = str(fetch(Model(name="smollm2-135m-instruct")).folder)
    return Workload(model, str(folder / "train.jsonl"), str(folder / "held-out.jsonl"), rows)
