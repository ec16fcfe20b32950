"""The engine inside this process. Given tokens are scored by the one forward pass of `luthier.forward`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from luthier.engines import choice
from luthier.engines.asking import in_order
from luthier.engines.choice import Choice
from luthier.engines.grammar import Grammars
from luthier.engines.local.adapters import Adapters
from luthier.engines.local.lane import Lane, inference, reader, renewed
from luthier.engines.local.load import Load
from luthier.engines.local.row import Row
from luthier.engines.local.scheduler import Scheduler, Sizes
from luthier.engines.local.ticket import Settings, Ticket, checked
from luthier.engines.named import Named
from luthier.engines.text import Text
from luthier.errors import LuthierError
from luthier.forward.likelihoods import Likelihoods
from luthier.models import max_context
from luthier.models.decode.adapters import Unserved
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.step import NO_ID, PAGE, Reader
from luthier.types import Completion, Encoded, Piece, Request, Sampling


class LocalEngine:
    """Generates and scores with a transformers (or PEFT) model of this process; implements `types.Engine`.

    `stop_ids` end a sequence; adapters that were loaded are read from disk when they are asked for. The weights are
    those of the module whenever it is asked.

    `run`, `generate` and `stream` hand requests in and bring all that are under way on, so they may be mixed; a server
    does the same with `submit`, `step` and `cancel`. Not for use by several threads at once.
    """

    def __init__(self, module: Any, tokenizer: Any, stop_ids: Collection[int], **settings: Unpack[Settings]) -> None:
        self._named, self._tokenizer, self._stop = Named(module), tokenizer, frozenset(stop_ids)
        settings = checked(settings)
        self._sizes = Sizes(settings.get("rows", 64), max(1, settings.get("tokens", 32_768) // PAGE))
        self._lanes: dict[str | None, Lane] = {}
        self._room, self._kind = settings.get("adapters", 2**30), settings.get("weights", "own")
        self._beside: Adapters | None = None
        """Those that are served in one pass with all others."""
        self._version, self._arrivals = 0, 0
        self._tickets: dict[Row, Ticket] = {}
        self.vocabulary: int = module.get_input_embeddings().weight.shape[0]
        self._grammars = Grammars(tokenizer, self.vocabulary, stop_ids)
        self.context = max_context(module)

    # one request after another
    def submit(self, request: Request, *, listen: bool = False, place: int = 0) -> Ticket:
        """Hand a request in: `step` brings it on. With `listen` each piece has its text.

        Raises LuthierError for an empty prompt, for one that fills the model's context, for a request of no answer, for
        settings that mean nothing and for an adapter that is not loaded; `place` is its number in what is said.
        """
        lane, limit = self._checked(request, place)
        ticket = Ticket(request, left=request.n)
        for index in range(request.n):
            row = self._row(request, index, limit, lane.scheduler, listen)
            ticket.rows.append(row)
            self._tickets[row] = ticket
            lane.scheduler.add(row)
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Nobody waits for this any more: its answers leave before the next step."""
        for row in ticket.rows:
            row.cancelled = True
            self._tickets.pop(row, None)
        ticket.left = 0

    @property
    def busy(self) -> bool:
        """Is there anything to bring on?"""
        return any(lane.scheduler.busy for lane in self._lanes.values())

    @property
    def load(self) -> Load:
        """How much is under way, and how full the pages are."""
        lanes = tuple(self._lanes.values())  # a server asks from another thread
        return Load.of((lane.scheduler for lane in lanes), self._beside)

    def step(self, meanwhile: Callable[[], None] = lambda: None) -> list[Ticket]:
        """Bring all that is under way on by a token. Returns the tickets that have new pieces.

        `meanwhile` is called, perhaps several times, before the model is read: what other threads are told there, they
        look at while this one needs no Python.
        """
        told: list[Ticket] = []

        def tell(row: Row, piece: Piece | None) -> None:
            ticket = self._tickets.get(row)
            if ticket is None:
                return
            if piece is None or row.finish is not None:
                ticket.left -= 1
                del self._tickets[row]
            if piece is None:
                ticket.error = row.error
            elif row.finish is not None:
                piece = replace(piece, completion=row.completion(self._tokenizer))
            if piece is not None:
                ticket.pieces.append(piece)
            told.append(ticket)

        for name, lane in self._lanes.items():
            if lane.scheduler.busy:
                with self._named.on(name) as module, inference(module, lane.scheduler.reader):
                    lane.scheduler.step(tell, meanwhile)
        return list(dict.fromkeys(told))

    # many at once
    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """All completions of the requests, each as it ends; between two of them the model may be used and trained.

        Raises LuthierError, before any is begun, as `submit` does.
        """
        for place, request in enumerate(requests):
            self._checked(request, place)
        return self._run(requests)

    def _run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self._look()
        tickets: list[Ticket] = []
        try:
            for place, request in enumerate(requests):
                tickets.append(self.submit(request, place=place))
            open_ = list(tickets)
            while open_:
                # another caller's step may have brought them on, so all are looked at before the next one
                for ticket in open_:
                    while ticket.pieces:
                        completion = ticket.pieces.popleft().completion
                        if completion is not None:
                            yield completion
                            self._look_if_touched()
                    if ticket.error is not None:
                        raise ticket.error
                open_ = [ticket for ticket in open_ if ticket.left or ticket.pieces]
                if open_ and not any(ticket.pieces or ticket.error for ticket in open_):
                    self.step()
        finally:
            for ticket in tickets:
                self.cancel(ticket)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, progress: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order. `progress` is told how many more have ended.

        Raises LuthierError as `submit` does.
        """
        return in_order(self.run, prompts, sampling, progress)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece; pieces are never half a character."""
        request = Request(tuple(prompt), sampling)
        self._checked(request, 0)
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[str]:
        self._look()
        ticket = self.submit(request, listen=True)
        try:
            while ticket.left or ticket.pieces:
                while not ticket.pieces:
                    self.step()
                    if ticket.error is not None:
                        raise ticket.error
                piece = ticket.pieces.popleft()
                if piece.text:
                    yield piece.text
                    self._look_if_touched()
        finally:
            self.cancel(ticket)

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """For each row, the log-probability of each scored token of its responses, one response after the other."""
        with self.model(adapter) as module:
            return Likelihoods(module).logprobs(rows)

    @contextmanager
    def model(self, adapter: str | None = None) -> Iterator[Any]:
        """Inside the block: the module under an adapter, for other things to be read of it. Those that are served
        beside each other are put on it for the while."""
        beside = self._served_beside(adapter)
        if beside is None or adapter is None:
            with self._named.on(adapter) as module:
                yield module
            return
        self._named.load(adapter, str(beside.folder(adapter)))
        try:
            with self._named.on(adapter) as module:
                yield module
        finally:
            self._named.drop(adapter)

    # weights
    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`. LoRA over a model that has a compiled step is answered in one pass with all
        others, and its weights are read when they are first asked for; any other kind has the model to itself.
        """
        if name in self.adapters:
            raise LuthierError(
                f"an adapter {name!r} is loaded already", where=folder, fix="drop it first, or give another name"
            )
        self._lane(None)
        if self._beside is not None:
            try:
                self._beside.register(name, Path(folder))
                return
            except Unserved:
                pass
        self._named.load(name, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`; raises LuthierError, too, while it has answers under way."""
        busy = sum(row.request.adapter == name for row in self._tickets)
        if busy:
            raise LuthierError(
                f"{busy} answers under way need the adapter {name!r}", where="adapter", fix="let them end first"
            )
        beside = self._served_beside(name)
        if beside is not None:
            beside.forget(name)
            return
        self._named.drop(name)
        self._lanes.pop(name, None)

    @property
    def adapters(self) -> list[str]:
        """Those that may be asked for by name."""
        return [*self._named.names, *(self._beside.names if self._beside is not None else ())]

    def serves_beside(self, name: str) -> bool:
        """Is this adapter answered in one pass with all others, its memory the engine's own matter?"""
        return self._served_beside(name) is not None

    def _served_beside(self, name: str | None) -> Adapters | None:
        """Those that this adapter is served beside; None where it has the model to itself, and for no adapter."""
        return self._beside if self._beside is not None and name is not None and name in self._beside else None

    def sync(self, version: int) -> None:
        """The weights are new; completions begun from now on carry this version."""
        self._version = version
        for lane in self._lanes.values():
            lane.watch.forget()
        self._look()

    def rest(self) -> None:
        """Give the memory of pages back where nothing is under way; what was read before is read anew."""
        for lane in self._lanes.values():
            lane.scheduler.rest()

    def _look(self) -> None:
        """See whether the weights are those that were read by: pages of old ones are not read on."""
        for name, lane in list(self._lanes.items()):
            with self._named.on(name) as module, inference(module):
                if not lane.watch.changed(module):
                    continue
                lane.scheduler.clear()
                # adapters stay with the reader that serves them, answers with the one that began them
                bound = lane.scheduler.busy or (name is None and self._beside is not None and self._beside.names)
                if bound:
                    lane.scheduler.reader.refresh()
                elif not self._reads_on(lane.scheduler.reader, module):
                    del self._lanes[name]
                    self._beside = None if name is None else self._beside

    def _look_if_touched(self) -> None:
        """The same between two tokens: whoever took the last may have trained the model."""
        if any(lane.watch.touched() for lane in self._lanes.values()):
            self._look()

    # a request
    def _checked(self, request: Request, place: int) -> tuple[Lane, int]:
        """The lane that answers a request, and how many tokens may follow its prompt."""
        where = f"prompt {place + 1}"
        if request.n < 1:
            raise LuthierError(f"a request asks for {request.n} answers", where=where, fix="set n to 1 or more")
        choice.check(request.sampling, self.vocabulary)
        bad = next((token for token in request.prompt if not 0 <= token < self.vocabulary), None)
        if bad is not None:
            raise LuthierError(
                f"the model has no token {bad} (it has {self.vocabulary})", where=where, fix="use its own tokenizer"
            )
        lane = self._lane(request.adapter)
        return lane, _room(request, where, lane.context)

    def _lane(self, name: str | None) -> Lane:
        if self._served_beside(name) is not None:
            name = None
        if name is not None and name not in self._named.names:
            known = ", ".join(self.adapters) or "none"
            raise LuthierError(
                f"no adapter {name!r} is loaded (loaded: {known})", where="adapter", fix="load it, or name another"
            )
        if name not in self._lanes:
            with self._named.on(name) as module, inference(module):
                made = self._read_by(module)
                if name is None and isinstance(made, CompiledReader):
                    self._beside = Adapters(made, self._room)
                scheduler = Scheduler(made, self._stop, self._sizes, None if name else self._beside)
                lane = self._lanes[name] = Lane(scheduler, max_context(module))
                lane.watch.changed(module)
        return self._lanes[name]

    def _read_by(self, module: Any) -> Reader:
        """What reads the module's tokens."""
        return reader(module, self._kind)

    def _reads_on(self, made: Reader, module: Any) -> bool:
        """Can what read the module go on with it as it is by now?"""
        return renewed(made, module)

    def _row(self, request: Request, index: int, limit: int, scheduler: Scheduler, listen: bool) -> Row:
        sampling = request.sampling
        grammar = None if sampling.grammar is None else self._grammars.matcher(sampling.grammar, sampling.stop_ids)
        row = Row(
            request,
            index,
            limit,
            Choice(sampling, request.prompt, index, grammar),
            Text(self._tokenizer, sampling.stop) if listen or sampling.stop else None,
            self._version,
            kin=self._kin(request.adapter),
            first=scheduler.reader.first,
            arrival=self._arrivals,
        )
        row.ids = [NO_ID] * row.first + list(request.prompt)
        scheduler.pages.most = max(scheduler.pages.most, -(-(len(row.ids) + limit) // PAGE))
        self._arrivals += 1
        return row

    def _kin(self, adapter: str | None) -> int | None:
        """Tells rows apart that must not read each other's pages, among those of one lane."""
        beside = self._served_beside(adapter)
        return None if beside is None or adapter is None else beside.generation(adapter)


def _room(request: Request, where: str, context: int | None) -> int:
    """How many tokens may follow the prompt."""
    length, most = len(request.prompt), request.sampling.max_new_tokens
    if not length:
        raise LuthierError("an empty prompt has nothing to go on from", where=where, fix="give it a token at least")
    if context is None:
        return most
    if length >= context:
        raise LuthierError(
            f"the prompt has {length} tokens, but the model's context ends at {context}", where=where, fix="shorten it"
        )
    return min(most, context - length)
