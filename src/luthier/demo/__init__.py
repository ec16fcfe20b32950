"""The demo: a small task of our own, with its data, its recipe and the script that made them.

A café's customer orders in plain words, and the model writes the JSON that the till can take. An order counts as
right when all of it is right. Names of drinks and food are known from training; the sentences around them, the
customers, and how many of each thing are not.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from luthier.run import write_atomically

FILES = ("recipe.yaml", "train.jsonl", "heldout.jsonl")


def prepare(folder: str | Path, output: str | Path | None = None) -> Path:
    """Copy the demo's recipe and data into `folder`, to be changed there, and return the recipe's path.

    `output` replaces the recipe's own run folder. Files of an earlier demo in `folder` are written anew.
    """
    folder = Path(folder)
    for name in FILES:
        text = files(__package__).joinpath(name).read_text(encoding="utf-8")
        if name == "recipe.yaml" and output is not None:
            text = "".join(
                f"output: {output}\n" if line.startswith("output:") else line for line in text.splitlines(keepends=True)
            )
        write_atomically(folder / name, text)
    return folder / "recipe.yaml"
