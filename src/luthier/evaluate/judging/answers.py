"""What models say to the same prompts: asked once for each model and prompt, and kept; or read from a file."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from luthier.engines.choice import WORD
from luthier.engines.openai.kept import Kept
from luthier.errors import LuthierError
from luthier.recipe.schema import Source
from luthier.scorers.metric import text
from luthier.types import Completion, Engine, Example, Request, Sampling

if TYPE_CHECKING:
    from luthier.data.encode.template import Template

SHOWN = 3
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Answer:
    """What was said."""

    text: str
    cut: bool = False
    """It came to no end of its own."""


class Contestant(Protocol):
    """Whoever answers prompts."""

    @property
    def name(self) -> str:
        """As it is called in tables."""
        ...

    def answers(self, examples: Sequence[Example], sampling: Sampling, tell: Tell) -> list[Answer]:
        """One answer to each prompt, in order. Raises LuthierError where one cannot be answered."""
        ...


@dataclass(frozen=True)
class Speaking:
    """A model that answers. It is opened only where an answer is missing, and let go of after that."""

    name: str
    template: Template
    identity: str
    """What its answers hang on besides the prompt and how they are drawn: weights, template, engine. "" where they are
    not kept here: an endpoint keeps its own, or is asked anew, as its `cache` says."""
    open: Callable[[], Engine]

    def answers(self, examples: Sequence[Example], sampling: Sampling, tell: Tell) -> list[Answer]:
        """As `Contestant`; what was answered before, in this or another contest, is found."""
        kept = Kept(self.identity) if self.identity else None
        asked = prompts(self.template, examples)
        drawn = [_drawn(sampling, ids) for ids in asked]
        names = [
            Kept(self.identity).name("answer", {"prompt": ids, "tools": list(row.tools), **asdict(how)})
            for ids, row, how in zip(asked, examples, drawn, strict=True)
        ]
        found = {name: known for name in dict.fromkeys(names) if kept and (known := kept.find(name)) is not None}
        left = {name: place for place, name in enumerate(names) if name not in found}
        if left:
            tell(f"{self.name}: {len(left):,} of {len(set(names)):,} prompts are to be answered")
            requests = [
                replace(_request(asked[place], examples[place], drawn[place]), id=place) for place in left.values()
            ]
            engine = self.open()
            must_fit(engine, examples, asked)
            for completion in engine.run(requests):
                name = names[int(completion.request)]
                found[name] = asdict(_answer(completion))
                if kept:
                    kept.keep(name, found[name])
            del engine
            gc.collect()
        return [Answer(str(found[name]["text"]), bool(found[name]["cut"])) for name in names]


@dataclass(frozen=True)
class Written:
    """Answers that a file holds, found by their prompts: rows of any format with a prompt and an answer, such as
    `instruction` and `output`."""

    name: str
    path: str

    def answers(self, examples: Sequence[Example], sampling: Sampling, tell: Tell) -> list[Answer]:
        """As `Contestant`; `sampling` is whoever wrote the file's. Raises LuthierError for prompts that it has not."""
        known = {_asked(row): said for row, said in written(self.path)}
        lacking = [row for row in examples if _asked(row) not in known]
        if lacking:
            places = ", ".join(str(row.source) for row in lacking[:SHOWN])
            raise LuthierError(
                f"{len(lacking)} of {len(examples)} prompts have no answer in this file ({places}"
                f"{', …' if len(lacking) > SHOWN else ''})",
                where=self.path,
                fix="a prompt must stand there word for word (as `instruction` and `input`); leave out the others",
            )
        return [Answer(known[_asked(row)]) for row in examples]


def written(path: str) -> list[tuple[Example, str]]:
    """The rows of a file that have an answer, with it. Raises LuthierError where there is none."""
    from luthier.data import Ledger, read

    ledger = Ledger()
    rows = [(row, text(row.responses[0])) for row in read((Source(path=path),), ledger) if row.responses]
    if not rows:
        reasons = "; ".join(f"{lost.count} rows: {reason}" for reason, lost in ledger.main_reasons())
        raise LuthierError(
            f"no row of this file holds an answer{f' ({reasons})' if reasons else ''}",
            where=path,
            fix="write rows with `instruction` and `output`, or any other format with prompt and answer",
        )
    return rows


def put(engine: Engine, template: Template, examples: Sequence[Example], sampling: Sampling) -> list[Answer]:
    """What an engine in memory answers. Raises LuthierError, with the row, for a prompt that it cannot."""
    asked = prompts(template, examples)
    must_fit(engine, examples, asked)
    requests = [
        replace(_request(ids, row, _drawn(sampling, ids)), id=place)
        for place, (ids, row) in enumerate(zip(asked, examples, strict=True))
    ]
    found = {int(completion.request): _answer(completion) for completion in engine.run(requests)}
    return [found[place] for place in range(len(examples))]


def prompts(template: Template, examples: Sequence[Example]) -> list[list[int]]:
    """The prompts as tokens. Raises LuthierError, with the row, where the template does not take one."""
    found = []
    for row in examples:
        try:
            found.append(template.prompt_ids(row.prompt, row.tools))
        except LuthierError as error:
            raise LuthierError(error.what, where=str(row.source or error.where), fix=error.fix) from error
    return found


def must_fit(engine: Engine, examples: Sequence[Example], asked: Sequence[Sequence[int]]) -> None:
    """Raise LuthierError for a prompt that leaves no room for an answer."""
    for row, ids in zip(examples, asked, strict=True):
        if engine.context is not None and len(ids) >= engine.context:
            raise LuthierError(
                f"the prompt has {len(ids):,} tokens, the model's context is {engine.context:,}",
                where=str(row.source) if row.source else None,
                fix="shorten the row, or leave it out of the prompts",
            )


def _asked(row: Example) -> str:
    """What a prompt says, whatever the blanks round it."""
    return json.dumps([[turn.role, turn.text.strip()] for turn in row.prompt if turn.text.strip()])


def question(row: Example) -> str:
    """A short name of a prompt: rows that ask the same have the same."""
    return hashlib.blake2b(_asked(row).encode("utf-8", "backslashreplace"), digest_size=8).hexdigest()


def _drawn(sampling: Sampling, ids: Sequence[int]) -> Sampling:
    """Where there is chance each prompt has a seed of its own, wherever it stands."""
    if not sampling.temperature:
        return sampling
    mixed = hashlib.blake2b(repr(list(ids)).encode(), digest_size=4).digest()
    return replace(sampling, seed=sampling.seed + int.from_bytes(mixed) * WORD)


def _request(ids: Sequence[int], row: Example, sampling: Sampling) -> Request:
    return Request(tuple(ids), sampling, turns=row.prompt, tools=row.tools)


def _answer(completion: Completion) -> Answer:
    return Answer(completion.text.strip(), completion.finish != "stop")


def identity(*parts: Any) -> str:
    """Parts that answers hang on, as one text."""
    return json.dumps(parts, sort_keys=True, default=str)
