"""The demo: a small task of our own, with its data, its recipe and the script that made them.

Someone orders in plain words at a café, and the model writes the JSON that the till can take. An order counts as
right when all of it is right. Names of drinks and food are known from training; the sentences around them and how
many of each thing are not.
"""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

from luthier.run import write_atomically

FILES = ("recipe.yaml", "train.jsonl", "heldout.jsonl")


def prepare(folder: str | Path, output: str | Path | None = None) -> Path:
    """Copy the demo's recipe and data into `folder`, to be changed there, and return the recipe's path.

    `output` replaces the recipe's own run folder. Files of an earlier demo in `folder` are written anew.
    """
    folder = Path(folder).resolve()
    texts = {name: files(__package__).joinpath(name).read_text(encoding="utf-8") for name in FILES}
    recipe = texts["recipe.yaml"]
    for name in FILES[1:]:  # a file of that name in the current directory must not take its place
        recipe = recipe.replace(f"path: {name} ", f"path: {folder / name} ")
    if output is not None:
        recipe = re.sub(r"^output: .*$", lambda _: f"output: {output}", recipe, flags=re.MULTILINE)
    for name, text in {**texts, "recipe.yaml": recipe}.items():
        write_atomically(folder / name, text)
    return folder / "recipe.yaml"
