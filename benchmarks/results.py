"""Where benchmark results are written, and on what machine they came to be."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "results"


def output_of(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that another of the benchmark scripts prints as its last line."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def write(name: str, document: dict[str, Any], text: str, folder: Path = FOLDER) -> None:
    """Write DATE-NAME.json and DATE-NAME.md, and show the text. `document["hardware"]` is hardware.py's object."""
    date = datetime.date.today().isoformat()
    machine = document["hardware"]
    text = (
        f"# {name}, {date}\n\n{text}\n"
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['memory_gib']} GiB, "
        f"{machine['system']}; bf16 matrix products at {machine['bf16_gflops']:,.0f} Gflop/s.\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"name": name, "date": date, **document}, indent=1, ensure_ascii=False)
    (folder / f"{date}-{name}.json").write_text(content + "\n", encoding="utf-8")
    (folder / f"{date}-{name}.md").write_text(text, encoding="utf-8")
    print(text)
