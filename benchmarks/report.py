"""What a finished run says of itself, the same fields for every tool."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def of_peer(log: Path) -> dict[str, Any]:
    """The JSON line that a peer's clock printed. Raises ValueError when there is none."""
    for line in reversed(log.read_text(encoding="utf-8", errors="replace").splitlines()):
        found = re.search(r'\{"tool": .*\}', line)
        if found:
            return dict(json.loads(found.group()))
    raise ValueError(f"no result line in {log}")


def of_luthier(folder: Path) -> dict[str, Any]:
    """The same from the events of a Luthier run: the epoch is from its `start` event to its last `step` event.

    `start` is written just before the first micro-batch, so a rehearsal, where there is one, counts.
    """
    with (folder / "events.jsonl").open(encoding="utf-8") as file:
        events = [json.loads(line) for line in file]
    start = next(event for event in events if event["kind"] == "start")
    steps = [event for event in events if event["kind"] == "step"]
    end = next((event for event in reversed(events) if event["kind"] == "end"), {})
    ledger = json.loads((folder / "ledger.json").read_text(encoding="utf-8"))
    return {
        "tool": "luthier",
        "losses": [event["loss"] for event in steps],
        "step_seconds": [round(event["tokens"] / event["tokens_per_s"], 3) for event in steps],
        "versions": start["versions"],
        "first_step_at": start["time"],
        "seconds": steps[-1]["time"] - start["time"],
        "trainable": start["trainable"],
        "micro_tokens": start["micro_tokens"],
        "path": start["path"],
        "threads": start["threads"],
        "scored": ledger["tokens"]["scored"],
        "fed": sum(event["tokens"] for event in steps),
        "shared": end.get("shared"),
    }
