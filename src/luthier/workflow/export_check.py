"""The export gate: the exported folder must read text exactly as training did, or there is no export.

Sample rows are rendered by the training path and by a fresh tokenizer from the exported folder, once as a whole row
through our template and once as a prompt through plain `apply_chat_template`, as others will call it. Then plain
transformers generates, with a trained answer put into its mouth: it must stop where the answer ends, and not before.
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
from luthier.run import Run
from luthier.types import RAW, Encoded, Example, Response, Turn
from luthier.workflow.registries import REGISTRIES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ROWS = 32
"""Sample rows: the first of the data."""
TAIL, BEFORE, AFTER = 8, 32, 3
"""Tokens of an answer that are put into an exported model's mouth, those before them that it reads, and those after
them that it may go on with."""
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


def checked(write: Callable[[Path], object], folder: Path, tokenizer: PreTrainedTokenizerBase, recipe: Recipe) -> int:
    """`write` into a folder beside, put it in the place of `folder` if it passes; the number of rows compared.

    Raises LuthierError, with nothing left and an earlier export untouched, when a row gives other tokens, or an answer
    would end elsewhere.
    """
    trial = folder.with_name(f".{folder.name}.export")
    shutil.rmtree(trial, ignore_errors=True)
    try:
        write(trial)
        rows = compare(tokenizer, trial, samples(recipe), recipe)
        stops(tokenizer, trial, recipe)
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
            raise LuthierError("a key of the exporter is written key=value", where=written, fix=_option(written))
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


def _option(word: str) -> str:
    """What the writer of a word behind the run may have meant, as an option."""
    if word in REGISTRIES["exporter"].names():
        return f"what to write is named by --to {word}"
    if Run(Path(word.partition(":")[0])).recipe_path.is_file():
        return f"several runs become one with --merge --folder NEW; else export {word} by itself"
    return f"where to write is named by --folder {word}; a key is, for instance, dtype=fp32"


def must_do_something(
    *, merge: bool, how: str | None, density: float | None, to: str | None, keys: Sequence[str]
) -> None:
    """Raises LuthierError for options of the command line that would do nothing."""
    given = {"--how": how, "--density": density}
    alone = next((option for option, value in given.items() if value is not None), None)
    if not merge and alone is not None:
        raise LuthierError(
            f"{alone} says how several adapters become one, and nothing is merged here",
            where=alone,
            fix="write luthier export --merge a:0.7 b:0.3 --folder NEW, or leave it out",
        )
    if merge and density is not None and how in (None, "linear"):
        raise LuthierError(
            "--density is the share that is kept of each update, and linear keeps all of it",
            where="--density",
            fix="leave it out, or take another --how: ties, dare_linear, dare_ties, magnitude_prune",
        )
    if merge and to is None and keys:
        raise LuthierError(
            "keys are an exporter's, and the combined run is not exported here",
            where=keys[0],
            fix=f"write --to merged {keys[0]}, or leave it out",
        )


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


def stops(tokenizer: PreTrainedTokenizerBase, folder: Path, recipe: Recipe) -> None:
    """Raises LuthierError where plain transformers would go on after the end of an answer, or stop before it.

    One short generation: which token comes is settled beforehand, when to stop is left to the folder. What is no whole
    model of transformers', and rows without an end (plain texts), are passed over.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from luthier.data import Template
    from luthier.models.loading.known import is_whole
    from luthier.models.loading.quiet import quiet

    ends = Template(tokenizer).stop_ids
    row = next((found for each in encoded(tokenizer, recipe) if (found := _last_answer(each, ends))), None)
    if row is None or not is_whole(folder):
        return
    before, answer = row
    after = next((token for token in (*before, *answer) if token not in ends), None)
    forced = [*answer, *([answer[-1] if after is None else after] * AFTER)]

    def settled(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        only = torch.full_like(scores, -torch.inf)
        only[:, forced[ids.shape[1] - len(before)]] = 0
        return only

    load: Any = AutoModelForCausalLM.from_pretrained
    with quiet(), torch.inference_mode():
        model = load(
            folder, dtype="auto", trust_remote_code=recipe.model.trust_remote_code, local_files_only=True
        ).eval()
        made = model.generate(
            torch.tensor([before]),
            attention_mask=torch.ones(1, len(before), dtype=torch.long),
            logits_processor=[settled],
            max_new_tokens=len(forced),
            do_sample=False,
            num_beams=1,
        )[0, len(before) :].tolist()
    if made != answer:
        said = "would run on after the end of an answer" if len(made) > len(answer) else "would stop within an answer"
        raise LuthierError(
            f"the exported model {said} in plain transformers ({tokenizer.decode(made)!r}, trained was "
            f"{tokenizer.decode(answer)!r}); nothing was exported",
            where=str(folder),
            fix="look at `eos_token_id` in the generation_config.json of the base model; if that is right, please "
            "report it with the model's name",
        )


def _last_answer(row: Encoded, ends: frozenset[int]) -> tuple[list[int], list[int]] | None:
    """The last tokens of the last answer that trained, and some of those before; None where it has no end."""
    ids, scored = row.ids[0].tolist(), row.weights[0].nonzero()[0].tolist()
    if not scored or ids[scored[-1]] not in ends:
        return None
    first = last = scored[-1]
    while first - 1 in scored[-TAIL:]:
        first -= 1
    return (ids[max(0, first - BEFORE) : first], ids[first : last + 1]) if first else None


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
