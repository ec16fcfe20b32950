"""`luthier generate`: the prompts of a file put to an engine, the answers written as they end."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError
from luthier.recipe.generation import Generation
from luthier.recipe.resolve import plain
from luthier.types import Completion, Engine, Example, Request, Sampling, Turn
from luthier.workflow import answers, speaker

if TYPE_CHECKING:
    from luthier.data import Template

AT_ONCE = 4096
"""Requests handed to an engine at a time: enough to keep it full, few enough to hold."""
SAMPLING = (
    "max_new_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "stop", "seed",
)  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A row to be answered. `key`: its tokens, hashed, and which of the rows with the same tokens it is."""

    example: Example
    turns: tuple[Turn, ...]
    ids: tuple[int, ...]
    key: str

    @property
    def where(self) -> str:
        """File and row."""
        return str(self.example.source) if self.example.source else "prompts"


@dataclass
class Told:
    """What is said at the end."""

    answers: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cut: int = 0
    filtered: int = 0

    def count(self, completion: Completion) -> None:
        """One more answer."""
        self.answers += 1
        self.tokens += length(completion) or 0
        self.cut += completion.finish == "length"
        self.filtered += completion.finish == "filtered"

    @property
    def speed(self) -> float:
        """Tokens generated a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    def line(self, keys: Generation, out: Path) -> str:
        """In words."""
        parts = [
            f"{self.answers:,} answers in {self.seconds:,.1f} s, {self.tokens:,} tokens, {self.speed:,.0f} tokens/s"
        ]
        if self.cut:
            parts.append(f"{self.cut:,} were cut off at their longest (max_new_tokens={keys.max_new_tokens})")
        if self.filtered:
            parts.append(f"{self.filtered:,} were held back by the endpoint's filter")
        return "; ".join([*parts, str(out)])


def generate(
    given: speaker.Speaker, keys: Generation, out: Path, *, overwrite: bool, say: Callable[[str], None]
) -> Path:
    """Answer the prompts into `out`, which is returned; those that are in it already are left out.

    Raises LuthierError before any is begun, where a prompt cannot be answered, or `out` holds answers made otherwise.
    """
    from luthier.data import Template

    opening = speaker.opening(keys.engine)
    template = Template(given.disk.tokenizer)
    if template.remark:
        say(template.remark)
    prompts = read(keys, template, given.system, say)
    _must_not_be_read(out, prompts)
    with answers.opened(out, _made_by(given, keys, opening.identity(), template), overwrite=overwrite) as file:
        _must_be_of(prompts, file)
        left = [p for p in prompts if any((p.key, index) not in file.done for index in range(keys.n))]
        if len(left) < len(prompts):
            say(f"{len(prompts) - len(left):,} of {len(prompts):,} prompts are answered already")
        if left:
            engine = given.engine(opening, template)
            _check_lengths(left, engine)
            told = _answer(left, keys, engine, file)
            say(told.line(keys, out))
    return out


def read(keys: Generation, template: Template, system: str | None, say: Callable[[str], None]) -> list[Prompt]:
    """The rows as prompts. Those that cannot be read are told, with file and row. `system`: for conversations that have
    no system message, where the source names none. Raises LuthierError where none is left."""
    from luthier.data import read as read_rows
    from luthier.data.ledger import SHOWN, Ledger

    ledger, seen, found = Ledger(), Counter[str](), []
    sources = [source if source.system else replace(source, system=system) for source in keys.data]
    for example in read_rows(sources, ledger):
        turns = example.prompt or (example.responses[0].turns if example.responses else ())  # a plain text goes on
        if any(turn.media for turn in turns):
            raise LuthierError(
                "the row has images, sound or video, which no answer would see",
                where=str(example.source),
                fix="leave it out, or take them out of it",
            )
        try:
            ids = tuple(template.prompt_ids(turns, example.tools))
        except LuthierError as error:
            raise LuthierError(error.what, where=str(example.source), fix=error.fix) from error
        digest = hashlib.blake2b(repr((ids, example.tools)).encode(), digest_size=12).hexdigest()
        found.append(Prompt(example, turns, ids, f"{digest}.{seen[digest]}" if seen[digest] else digest))
        seen[digest] += 1
    fix = "mend the rows, or say which column is what (data.columns.prompt=…)"
    for reason, lost in ledger.main_reasons():
        named = ", ".join(lost.rows[:SHOWN]) + (" …" if lost.count > SHOWN else "")
        say(f"{lost.count:,} of {ledger.rows_read:,} rows are not answered: {reason} ({named})")
        fix = lost.fix or fix
    if not found:
        raise LuthierError("there is no prompt to answer", where=keys.data[0].path or "data", fix=fix)
    return found


def _must_not_be_read(out: Path, prompts: Sequence[Prompt]) -> None:
    """Raises LuthierError where the answers would be written over the prompts."""
    for path in {prompt.example.source.path for prompt in prompts if prompt.example.source}:
        if out.exists() and Path(path).exists() and out.samefile(path):
            raise LuthierError("the prompts are read from this file", where=f"--out {out}", fix="name another file")


def _made_by(given: speaker.Speaker, keys: Generation, engine: Mapping[str, Any], template: Template) -> dict[str, Any]:
    """What the answers hang on. Neither which prompts nor how many answers: more of either go on with the file."""
    return {
        "weights": given.disk.digest,
        "template": template.digest,
        "engine": {keys.engine.name: plain(engine)},
        **{name: plain(getattr(keys, name)) for name in SAMPLING},
        "ids": keys.ids,
        "logprobs": keys.logprobs,
    }


def _must_be_of(prompts: Sequence[Prompt], file: answers.Answers) -> None:
    """Raise LuthierError where the file answers prompts that are not among these."""
    others = {key for key, _ in file.done} - {prompt.key for prompt in prompts}
    if others:
        raise LuthierError(
            f"this file answers {len(others):,} prompts that are not among these: they were changed, or are others",
            where=str(file.path),
            fix="name another --out, or give --overwrite to begin anew",
        )


def _check_lengths(prompts: Sequence[Prompt], engine: Engine) -> None:
    for prompt in prompts:
        if engine.context is not None and len(prompt.ids) >= engine.context:
            raise LuthierError(
                f"the prompt has {len(prompt.ids):,} tokens, the model's context is {engine.context:,}",
                where=prompt.where,
                fix="shorten the row, or leave it out of the prompts",
            )


def _answer(prompts: Sequence[Prompt], keys: Generation, engine: Engine, file: answers.Answers) -> Told:
    told, by_key, start = Told(), {prompt.key: prompt for prompt in prompts}, time.perf_counter()
    with _progress() as progress:
        wanted = sum((p.key, index) not in file.done for p in prompts for index in range(keys.n))
        bar = progress.add_task("answers", total=wanted, speed=0.0)
        for at in range(0, len(prompts), AT_ONCE):
            for completion in engine.run([_request(prompt, keys) for prompt in prompts[at : at + AT_ONCE]]):
                prompt = by_key[str(completion.request)]
                if (prompt.key, completion.index) in file.done:  # of a prompt that was begun
                    continue
                file.add(_row(prompt, completion, keys))
                told.count(completion)
                told.seconds = time.perf_counter() - start
                progress.update(bar, advance=1, speed=told.speed)
    return told


def _request(prompt: Prompt, keys: Generation) -> Request:
    """The prompt's own tokens draw for it, so that it is answered alike wherever it stands, and whatever is left out
    beside it; equal prompts are drawn for apart."""
    from luthier.engines.choice import WORD

    sampling = Sampling(**{name: getattr(keys, name) for name in SAMPLING})
    place = int.from_bytes(hashlib.blake2b(prompt.key.encode(), digest_size=4).digest())
    sampling = replace(sampling, seed=sampling.seed + place * WORD)
    return Request(prompt.ids, sampling, keys.n, id=prompt.key, turns=prompt.turns, tools=prompt.example.tools)


def length(completion: Completion) -> int | None:
    """How many tokens were generated; None where nobody says."""
    return completion.length if completion.length is not None else len(completion.sampled) or None


def _row(prompt: Prompt, completion: Completion, keys: Generation) -> dict[str, Any]:
    from luthier.engines.asking import must_have_ids

    row: dict[str, Any] = {
        "source": prompt.where,
        "index": completion.index,
        "text": completion.text,
        "finish": completion.finish,
        "tokens": length(completion),
    }
    if keys.ids or keys.logprobs:
        must_have_ids(completion, prompt.where)
    if keys.ids:
        row["ids"] = list(completion.sampled)
    if keys.logprobs:
        row["logprobs"] = list(completion.logprobs)
    return {**row, "key": prompt.key}


def _progress() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    speed = TextColumn("{task.fields[speed]:,.0f} tokens/s")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), speed, TimeRemainingColumn()
    return Progress(*columns, console=Console(stderr=True), transient=True)
