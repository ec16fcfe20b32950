"""Who runs a workload, and with which settings: each peer by its defaults and at its best.

"Best" is bf16, no gradient checkpointing, and the settings that `sweep.py` found fastest on a 2-core CPU; NOTES.md
has the sweep.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from environments import PEERS, python_of
from workload import Workload


@dataclass(frozen=True)
class Contender:
    """One tool with its settings: keys of its own configuration, or dotted recipe keys for Luthier."""

    name: str
    tool: str
    settings: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    """Environment variables by which the tool is set."""

    def python(self) -> Path:
        """The interpreter of the tool's environment."""
        return Path(sys.executable) if self.tool == "luthier" else python_of(self.tool)

    def folder(self, work: Workload) -> Path:
        """Where this contender runs the workload: its inputs, log and output."""
        return PEERS / "runs" / f"{work.name}-{self.name}"

    def command(self, work: Workload) -> list[str]:
        """The command line that trains on the workload and leaves its output in `folder(work)`."""
        folder = self.folder(work)
        if self.tool == "luthier":
            recipe = folder / "recipe.yaml"
            recipe.write_text(json.dumps(luthier_recipe(work, folder)), encoding="utf-8")  # JSON is YAML
            overrides = [f"{key}={json.dumps(value)}" for key, value in self.settings.items()]
            return [str(self.python().parent / "luthier"), "train", str(recipe), *overrides]
        work.write(folder / "workload.json")
        script = Path(__file__).parent / "peers" / f"{self.tool}_train.py"
        arguments = [str(folder / "workload.json"), str(folder / "out"), json.dumps(self.settings)]
        return [str(self.python()), str(script), *arguments]

    def adapter(self, work: Workload) -> Path:
        """Where the trained adapter lies afterwards, in PEFT's format."""
        out = self.folder(work) / "out"
        return out / "adapter" if self.tool == "luthier" else out


def luthier_recipe(work: Workload, folder: Path) -> dict[str, Any]:
    """Luthier's defaults, and what the workload fixes for every tool. No checkpoint but the last, as for the peers."""
    preference = {"objective": {"dpo": {"beta": work.beta}}} if work.stage == "dpo" else {}
    return {
        "model": work.model,
        "data": work.train,
        **preference,
        "adapt": {"lora": {"r": work.rank, "alpha": work.alpha}},
        "train": {
            "epochs": 1,
            "batch": work.batch,
            "max_tokens": work.max_tokens,
            "long_rows": "truncate",
            "lr": work.lr,
            "schedule": "constant",
            "warmup": 0,
            "weight_decay": 0,
            "clip": 1.0,
            "save_every": work.rows,
        },
        "seed": work.seed,
        "output": str(folder / "out"),
    }


CONTENDERS = (
    Contender("luthier", "luthier"),
    Contender("luthier-unfused", "luthier", {"train.fused": False}),
    Contender("trl-defaults", "trl"),
    Contender("trl-best", "trl", {"bf16": True, "gradient_checkpointing": False, "per_device_train_batch_size": 4}),
    Contender("llamafactory-defaults", "llamafactory"),
    Contender(
        "llamafactory-best",
        "llamafactory",
        {"bf16": True, "use_cpu": True, "disable_gradient_checkpointing": True, "per_device_train_batch_size": 4},
    ),
    Contender("unsloth-defaults", "unsloth"),
    Contender(
        "unsloth-best",
        "unsloth",
        {"bf16": True, "use_gradient_checkpointing": False, "per_device_train_batch_size": 4},
    ),
)

PAIRS = (
    Contender("luthier", "luthier"),
    Contender("trl-defaults", "trl"),
    Contender(
        "trl-best",
        "trl",
        {
            "bf16": True,
            "model_init_kwargs": {"dtype": "bfloat16"},
            "gradient_checkpointing": False,
            "per_device_train_batch_size": 1,
        },
    ),
    Contender("llamafactory-defaults", "llamafactory"),
    Contender(
        "llamafactory-best",
        "llamafactory",
        {"bf16": True, "use_cpu": True, "disable_gradient_checkpointing": True, "per_device_train_batch_size": 1},
    ),
)

LONG_PROMPTS = (
    Contender("luthier-sharing", "luthier", {"train.share_prefix": True}),
    Contender("luthier-no-sharing", "luthier", {"train.share_prefix": False}),
)
