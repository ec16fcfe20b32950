"""`luthier curate`: rows gone through steps, and written; and what steps may ask of the floors above the data room."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from luthier.data.curation import output, shown
from luthier.data.curation.calls import Calls
from luthier.data.curation.chain import Curated
from luthier.data.curation.feeds import placed
from luthier.data.curation.stages import Settings, sets
from luthier.data.curation.workers import ALONE, cores
from luthier.data.steps.tools import Encoder, Named, Tools
from luthier.data.tally import number
from luthier.errors import LuthierError
from luthier.recipe import Recipe
from luthier.recipe import Source as Entry
from luthier.recipe.curation import Curation, of_files, of_recipe
from luthier.types import Encoded, Engine, Example, Scorer, Source, Turn
from luthier.workflow.outlook import Tried, outlook
from luthier.workflow.screen import console, say

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data import Template
    from luthier.data.pii import Names, Recogniser
    from luthier.data.reading.feeds import Feed
    from luthier.engines.opening import Opening
    from luthier.forward.influence import Influences
    from luthier.workflow.speaker import Speaker


@dataclass(frozen=True)
class Asked:
    """What the command line asks for besides rows."""

    out: Path | None = None
    first: int | None = None
    """Of each source only so many rows."""
    why: str | None = None
    """FILE:LINE of a row whose life is to be told."""
    show: int = 0
    """So many changes of each step."""
    processes: int | None = None
    report: bool = False
    """A page on the rows, beside them; where they are not written, in this folder."""


PAGE = "data.html"
EVERY = 30.0
"""Seconds between two lines of progress where there is no terminal."""


def curate(given: Sequence[str], asked: Asked) -> Curated:
    """Bring rows through their steps and say what became of them. `given`: a recipe or files, and keys.

    Raises LuthierError for whatever the user can mend.
    """
    from luthier.data.curation.chain import curate as through
    from luthier.data.reading.feeds import feed

    keys = _keys(given, asked)
    if asked.out is not None:
        output.must_be_rows(asked.out)
    source = None if asked.why is None else _source(asked.why)
    own = [placed(entry.steps, f"data.{number}.steps") for number, entry in enumerate(keys.data)]
    steps = placed(keys.steps, "steps")
    if not steps and not any(own):
        raise LuthierError(
            "there are no steps: nothing would be done to the rows", where="steps", fix="for instance steps=[exact]"
        )
    feeds = [feed(entry) for entry in keys.data]
    if asked.out is not None:
        output.must_be_free(asked.out.expanduser(), _files(keys, feeds))
    with settings(keys, asked.processes) as how:
        if how.processes > 1:
            for name, why in (one for each in feeds for one in each.whole_parts(ALONE)):
                say(f"{name}: one process reads it: {why}")
        made = through(feeds, own, steps, how)
    _tell(made, asked)
    if asked.first is not None:
        asking = how.tools.asking
        spent = asking.spent if isinstance(asking, Calls) else {}
        every = [one for each in (*own, steps) for one in each]
        tried = Tried(made, feeds, _keys(given, replace(asked, first=None)).data, every, spent, how.processes)
        for told in outlook(tried):
            say(told)
    if source is not None:
        for line in shown.life(output.life(made, source)):
            console().print(line)
    if asked.out is not None:
        count = output.write(made, asked.out.expanduser())
        say(f"{number(count)}: {asked.out}; what became of each: {output.changes_of(asked.out)}")
    if asked.report:
        path = Path(PAGE) if asked.out is None else asked.out.expanduser().with_suffix(f".{PAGE}")
        _report(made, feeds, path, asked.out.stem if asked.out else ", ".join(Path(one).name for one in given[:3]))
    return made


def report(recipe: Recipe) -> None:
    """Write the page on a recipe's rows into this folder. Raises LuthierError as `curate` does."""
    from luthier.data.curation.chain import curate as through
    from luthier.data.reading.feeds import feed

    feeds = [feed(entry) for entry in recipe.data]
    own = [placed(entry.steps, f"data.{number}.steps") for number, entry in enumerate(recipe.data)]
    with settings(recipe) as how:
        made = through(feeds, own, placed(recipe.steps, "steps"), how)
    _report(made, feeds, Path(PAGE), Path(recipe.output).name)


def _report(made: Curated, feeds: Sequence[Feed], path: Path, name: str) -> None:
    from luthier.evaluate.rows import write_data_page

    write_data_page(made, feeds, path, name)
    say(f"what the rows are, and what became of them: {path}")


def _tell(made: Curated, asked: Asked) -> None:
    screen = console(stderr=True)
    for name, tally in made.ledger.sources.items():
        kept = tally.read + tally.made - tally.dropped
        say(f"{name}: {number(tally.read)} ({tally.shape}), {kept:,} left")
    for line in made.ledger.noted():
        say(line)
    for reason, entry in made.ledger.main_reasons():
        say(f"cannot be read: {entry.count:,}× {reason} (first {entry.rows[0]})")
    screen.print(shown.table(made.ledger.steps))
    for one in shown.samples(made.ledger.steps, asked.show) if asked.show else ():
        console().print(one)


def _keys(given: Sequence[str], asked: Asked) -> Curation:
    named = [each for each in given if "=" not in each or Path(each).exists()]
    overrides = [each for each in given if each not in named]
    if not named:
        raise LuthierError("there are no rows", where="luthier curate", fix="name a recipe, or files of rows")
    recipes = [each for each in named if Path(each).suffix.lower() in (".yaml", ".yml")]
    if recipes and len(named) > 1:
        raise LuthierError("a recipe names its rows itself", where=" ".join(named), fix="give the recipe, or the files")
    keys = of_recipe(Path(recipes[0]), overrides) if recipes else of_files(named, overrides)
    if asked.first is None:
        return keys
    return replace(keys, data=tuple(_first(entry, asked.first) for entry in keys.data))


def _first(entry: Entry, count: int) -> Entry:
    return replace(entry, limit=count if entry.limit is None else min(count, entry.limit))


def _files(keys: Curation, feeds: Sequence[Feed]) -> set[str]:
    """The files whose rows are read, those of `evaluate:` among them."""
    scored = {entry.path for task in keys.evaluate for entry in task.data if entry.path is not None}
    return scored | {name for one in feeds for name in (one.name, *(part.name for part in one.parts))}


def _source(given: str) -> Source:
    path, _, row = given.rpartition(":")
    if not path or not row.isdigit():
        raise LuthierError(f"{given!r} is no place of a row", where="--why", fix="write FILE:LINE, as the ledger does")
    return Source(path, int(row))


# what steps may ask for
@contextmanager
def settings(keys: Recipe | Curation, processes: int | None = None) -> Iterator[Settings]:
    """How the steps of a recipe are run, with a line of progress where it takes long."""
    own = None if keys.model is None else str(keys.model.name)
    tools = Tools(
        keys.seed,
        speakers=once(_speaking),
        scorers=once(_scorer),
        asking=Calls(),
        recognisers=_recogniser,
        encoders=_encoder,
        sets=sets(keys.evaluate),
        model=own,
    )
    with _progress() as show:
        yield Settings(tools, processes or cores(), keys.allow_drop, show)


def once(make: Callable[[Named], Any]) -> Callable[[Named], Any]:
    """Each plug-in is made once."""
    made: dict[str, Any] = {}

    def found(named: Named) -> Any:
        key = json.dumps([named[0], dict(named[1])], sort_keys=True, default=str)
        if key not in made:
            made[key] = make(named)
        return made[key]

    return found


def _scorer(named: Named) -> Scorer:
    from luthier.workflow.registries import REGISTRIES

    return cast(Scorer, REGISTRIES["scorer"].build(named[0], named[1]))


def _encoder(model: str) -> Encoder | None:
    """The folder of a model that makes vectors and writes nothing; None for all others."""
    from luthier.models.embedding import Embedder, is_encoder

    folder = Path(model).expanduser()
    return Embedder(folder) if is_encoder(folder) else None


def _recogniser(names: Names) -> Recogniser:
    from luthier.workflow.naming import recogniser

    return recogniser(names)


@dataclass(frozen=True)
class Spoken:
    """A model that answers, with its template. It is opened when it is first asked: what was asked before is found
    without it."""

    speaker: Speaker | None
    """The model; None for whatever answers behind an endpoint that renders messages itself."""
    name: str
    """The engine's."""
    opening: Opening

    @cached_property
    def identity(self) -> str:
        """What its answers hang on: weights, template, settings of the endpoint."""
        from luthier.data import Template
        from luthier.recipe.resolve import plain

        hangs_on = [self.name, plain(self.opening.identity())]
        if self.speaker is not None:
            disk = self.speaker.disk
            hangs_on += [disk.digest, Template(disk.tokenizer).digest]
        return hashlib.blake2b(json.dumps(hangs_on, sort_keys=True).encode(), digest_size=16).hexdigest()

    @cached_property
    def template(self) -> Template | None:
        """How it is spoken to."""
        return None if self.speaker is None else self.speaker.template(self.opening)

    @cached_property
    def engine(self) -> Engine:
        """What answers."""
        if self.speaker is None or self.template is None:
            from luthier.models import OnDisk

            return self.opening.open(OnDisk(None, Path()), ())
        return self.speaker.engine(self.opening, self.template)

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        """The tokens that it is to answer; none where an endpoint makes them."""
        return () if self.template is None else tuple(self.template.prompt_ids(tuple(turns), tuple(tools)))

    def encode(self, example: Example) -> Encoded:
        """A row as tokens, those of its last answer scored. Raises LuthierError where only an endpoint knows them."""
        if self.template is None:
            what = "the tokens of an endpoint's model are not known here"
            raise LuthierError(what, fix="name a model for the step beside its engine: `model: …`")
        return self.template.encode(example, loss_on="last")

    def means(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row (of one sequence) the mean over its tokens of the model's last hidden states."""
        if self.speaker is None or self.opening.elsewhere:
            raise LuthierError(
                f"the engine {self.name!r} tells no hidden states",
                fix="take `engine: local`, or leave the model out: words are compared then",
            )
        from luthier.forward.likelihoods import Likelihoods

        return Likelihoods(self.speaker.policy.module).means(rows)

    def gradients(self, rows: Sequence[Encoded], size: int, *, adam: bool) -> list[NDArray[np.float32]]:
        """For each row the gradient of its mean loss by the weights of the model's LoRA, or Adam's step by it."""
        if size not in self._influences:
            if self.speaker is None or self.opening.elsewhere:
                raise LuthierError(f"the engine {self.name!r} tells no gradients", fix="take `engine: local`")
            from luthier.workflow.influence import influences

            self._influences[size] = influences(self.speaker, size, say)
        return self._influences[size](rows, adam=adam)

    @cached_property
    def _influences(self) -> dict[int, Influences]:
        return {}


def _speaking(named: Named) -> Spoken:
    from luthier.workflow import speaker

    model, keys = named
    engine = keys.get("engine", "local")
    plugin = speaker.named(engine if isinstance(engine, str) else json.dumps(engine))
    opening = speaker.opening(plugin)
    if not model and plugin.name != "openai":
        raise LuthierError(
            f"nothing says which model is asked: `engine: {plugin.name}` needs one",
            where="model",
            fix="name it (model: qwen2.5-7b-instruct, or a run folder), or take {engine: {openai: {url: …, model: …}}}",
        )
    return Spoken(speaker.Speaker(model) if model else None, plugin.name, opening)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not console(stderr=True).is_terminal:
        with _lines() as show:
            yield show
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        bar = progress.add_task("pieces of rows", visible=False)

        def show(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total, visible=total > 1)

        yield show


@contextmanager
def _lines() -> Iterator[Callable[[int, int], None]]:
    """Where there is no terminal, a line now and then: who reads a log is to see that it goes on."""
    begun, over, stands = time.monotonic(), threading.Event(), [0, 0]

    def show(done: int, total: int) -> None:
        stands[:] = done, total

    def tell() -> None:
        while not over.wait(EVERY):
            done, total = stands
            if total:
                say(f"{time.monotonic() - begun:,.0f} s: {done:,} of {number(total, 'piece')} of rows gone through")

    teller = threading.Thread(target=tell, daemon=True)
    teller.start()
    try:
        yield show
    finally:
        over.set()
        teller.join()
