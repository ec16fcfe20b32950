"""Where benchmark results are written, and on what machine they came to be."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from environments import ROOT

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "results"


def output_of(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that another of the benchmark scripts prints as its last line."""
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _path(name: str, folder: Path, ending: str) -> Path:
    return folder / f"{datetime.date.today().isoformat()}-{name}.{ending}"


def save(name: str, document: dict[str, Any], folder: Path = FOLDER) -> None:
    """Write DATE-NAME.json, without the places where this machine keeps the repository and its user's files."""
    folder.mkdir(parents=True, exist_ok=True)
    date = datetime.date.today().isoformat()
    content = json.dumps({"name": name, "date": date, **document}, indent=1, ensure_ascii=False)
    content = content.replace(f"{ROOT}/", "").replace(str(Path.home()), "~")
    _path(name, folder, "json").write_text(content + "\n", encoding="utf-8")


def latest(name: str, folder: Path = FOLDER) -> dict[str, Any]:
    """The newest DATE-NAME.json of a folder. Raises FileNotFoundError when there is none."""
    dated = sorted(folder.glob(f"????-??-??-{name}.json"))
    if not dated:
        raise FileNotFoundError(f"no results of {name} in {folder}")
    return dict(json.loads(dated[-1].read_text(encoding="utf-8")))


def write(name: str, document: dict[str, Any], text: str, folder: Path = FOLDER) -> None:
    """Write DATE-NAME.json and DATE-NAME.md, and show the text. `document["hardware"]` is hardware.py's object."""
    save(name, document, folder)
    machine = document["hardware"]
    text = (
        f"# {name}, {datetime.date.today().isoformat()}\n\n{text}\n"
        f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])}), {machine['memory_gib']} GiB, "
        f"{machine['system']}; bf16 matrix products at {machine['bf16_gflops']:,.0f} Gflop/s.\n"
    )
    _path(name, folder, "md").write_text(text, encoding="utf-8")
    print(text)
