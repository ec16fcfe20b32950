"""The export gate: the exported folder must read text exactly as training did, or there is no export.

Sample rows are rendered by the training path and by a fresh tokenizer from the exported folder, once as a whole row
through our template and once as a prompt through plain `apply_chat_template`, as others will call it.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.recipe import Plugin, Recipe
from luthier.recipe.document import parse_override
from luthier.types import RAW, Encoded, Example, Response, Turn
from luthier.workflow.registries import REGISTRIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 32
"""Sample rows: the first of the data."""
EXPORTED = "luthier.json"
"""What every folder of weights that Luthier writes holds: it says whose they are."""
STAND_INS = (
    Example((Turn("user", "Hello! 你好 — 3.14 €"),), (Response((Turn("assistant", "Hi,\n  what is it?"),)),)),
    Example(
        (Turn("user", "One"), Turn("assistant", "Two"), Turn("user", " <b>three</b>\t")),
        (Response((Turn("assistant", "def f(x):\n    return x\n"),)),),
    ),
)
"""Rows of our own, for when the data is gone or was never a file."""


def gated(write: Callable[[Path], object], folder: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> int:
    """`write` into a folder beside, put it in the place of `folder` if it passes; the number of rows compared.

    Raises LuthierError, with nothing left and an earlier export untouched, when a row gives other tokens.
    """
    trial = folder.with_name(f".{folder.name}.export")
    shutil.rmtree(trial, ignore_errors=True)
    try:
        write(trial)
        rows = compare(tokenizer, trial, samples(recipe), recipe)
        old = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        trial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(trial, ignore_errors=True)
    return rows


def asked(to: str, keys: Sequence[str]) -> Plugin:
    """The exporter that was named, with keys written `key=value`. Raises LuthierError for what it does not know."""
    args: dict[str, Any] = {}
    for written in keys:
        name, equals, value = written.partition("=")
        if not equals:
            raise LuthierError(
                "a key of the exporter is written key=value", where=written, fix="for instance dtype=fp32"
            )
        if name == "export":
            raise LuthierError(
                "what to write is named by `--to`; key=value sets the exporter's own keys",
                where=written,
                fix=f"write `luthier export RUN --to {value}`",
            )
        args[name] = parse_override(written).node.plain()
    try:
        REGISTRIES["exporter"].build(to, args)
    except LuthierError as error:
        named = [written for written in keys if repr(written.partition("=")[0]) in error.what]
        raise LuthierError(error.what, where=(named or [f"--to {to}"])[0], fix=error.fix) from error
    return Plugin(name=to, args=args)


def place(folder: Path) -> Path:
    """Where a folder that the user named may be written. Raises LuthierError where that would replace their files."""
    folder = folder.expanduser().absolute() if not folder.name or folder.parts[0] == "~" else folder
    if folder.exists() and not folder.is_dir():
        raise LuthierError("there is a file of that name", where=str(folder), fix="name a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / EXPORTED).is_file():
        raise LuthierError(
            "the folder is not empty and holds no earlier export; it would be replaced",
            where=str(folder),
            fix=f"name a new folder, for instance {folder / 'model'}",
        )
    return folder


def samples(recipe: Recipe) -> Sequence[Example]:
    """The first rows of the data that trained; rows of our own where it cannot be read any more."""
    from luthier.data import read

    try:
        found = list(itertools.islice(read(recipe.data), ROWS))
    except LuthierError:
        found = []
    return [example for example in found if example.responses] or STAND_INS


def encoded(tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> list[Encoded]:
    """The sample rows as token ids, as they trained: those that could be rendered and were not too long."""
    from luthier.data import Template

    template, found = Template(tokenizer), []
    for row in samples(recipe):
        try:
            found.append(template.encode(row, recipe.train.loss_on))
        except LuthierError:
            continue  # a row that training left out too
    return [row for row in found if max(map(len, row.ids)) <= recipe.train.max_tokens]


def compare(tokenizer: PreTrainedTokenizerBase, folder: Path, rows: Sequence[Example], recipe: Recipe) -> int:
    """Compare token ids row by row; the number compared. Raises LuthierError at the first difference."""
    from transformers import AutoTokenizer

    from luthier.data import Template

    fresh: Any = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=recipe.model.trust_remote_code, local_files_only=True
    )
    ours, theirs = Template(tokenizer), Template(fresh)
    compared = 0
    for row in rows:
        try:
            before = ours.encode(row, recipe.train.loss_on)
        except LuthierError:
            continue  # a row that training left out too
        after = theirs.encode(row, recipe.train.loss_on)
        for a, b in zip(before.ids, after.ids, strict=True):
            _same(a.tolist(), b.tolist(), row, folder, tokenizer)
        if row.prompt and row.prompt[0].role != RAW and row.prompt[-1].role != "assistant":
            plain = _plain_prompt(fresh, theirs.messages(row.prompt), row)
            _same(ours.prompt_ids(row.prompt, row.tools), plain, row, folder, tokenizer)
        compared += 1
    if not compared:
        raise LuthierError(
            "no sample row could be rendered, so the export cannot be checked",
            where=str(folder),
            fix="see `luthier data` with the run's recipe.lock.yaml for what is wrong with its rows",
        )
    return compared


def _plain_prompt(tokenizer: Any, messages: list[dict[str, Any]], row: Example) -> list[int]:
    rendered = tokenizer.apply_chat_template(
        messages,
        tools=[dict(tool) for tool in row.tools] or None,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )
    return list(rendered["input_ids"])


def _same(before: list[int], after: list[int], row: Example, folder: Path, tokenizer: Any) -> None:
    if before == after:
        return
    place = next(
        (place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after))
    )
    seen = [tokenizer.decode(ids[max(0, place - 3) : place + 3]) for ids in (before, after)]
    raise LuthierError(
        f"the exported model would read text otherwise than it was trained: token {place} of a sample row differs "
        f"({seen[0]!r} in training, {seen[1]!r} exported); nothing was exported",
        where=str(row.source) if row.source else str(folder),
        fix="this is a fault of the tokenizer's files or of ours: please report it with the model's name",
    )
