"""The engine: requests out, several at a time, completions back as they come."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from luthier.engines.asking import in_order
from luthier.engines.openai.kept import Kept
from luthier.engines.openai.limits import Budget, Entry, Pace
from luthier.engines.openai.loading import By, Loading
from luthier.engines.openai.settings import OpenAI
from luthier.engines.openai.wire import Patience, Refused, Stopped, Wire
from luthier.engines.openai.words import Words
from luthier.errors import LuthierError
from luthier.types import Completion, Encoded, Request, Sampling, Turn

NO_TOKENS = (400, 404, 405, 422)
"""How endpoints refuse a request that they do not know."""
BY_TOKENS = (
    "it was asked by token ids (`ask: tokens`, which rollouts need), and not every endpoint takes them: luthier serve "
    "and vLLM do"
)
T = TypeVar("T")
R = TypeVar("R")


class RemoteEngine:
    """Asks an endpoint; implements `types.Engine`, as far as an endpoint can. `name` is what it calls the model.

    Each answer is a call of its own, so that n more answers leave those that are kept as they are. A request's adapter
    is the model that the endpoint is asked for. What it spends and how fast it may go counts for all of its calls.
    """

    def __init__(
        self, settings: OpenAI, name: str, tokenizer: Any, stop_ids: Collection[int], by: By | None = None
    ) -> None:
        """`by`: whose way of loading adapters the endpoint has; None: which there are is its own business."""
        self._settings = settings
        self._words = Words(settings, name, tokenizer, frozenset(stop_ids))
        self._wire = Wire(settings.url, settings.key_from, timeout=settings.timeout, retries=settings.retries)
        self._pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        prices = (settings.price_in or 0.0, settings.price_out or 0.0)
        self.budget = Budget(prices, settings.max_cost, settings.max_total_tokens)
        self._loading = None if by is None else Loading(self._wire, by)
        self._kept = Kept(self._wire.url) if settings.keeps else None
        self.context = settings.context

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """As `Engine.run`. After a fault, or where the budget ends, what was under way is waited for and given back
        before the LuthierError that says so: it is paid for."""
        for place, request in enumerate(requests):
            self._words.check(request, f"prompt {place + 1}")
        calls = [(request, index) for request in requests for index in range(request.n)]
        return at_once(self._answer, calls, self._settings.concurrency)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Completion]:
        """As `Engine.generate`."""
        return in_order(self.run, prompts, sampling)

    def stream(self, prompt: Sequence[int], sampling: Sampling, turns: Sequence[Turn] = ()) -> Iterator[str]:
        """As `Engine.stream`. `turns`: what the prompt says, for an endpoint that is given messages."""
        request = Request(tuple(prompt), sampling, turns=tuple(turns))
        self._words.check(request, "prompt 1")
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[str]:
        path, body = self._words.body(request, 0)
        expected = self._words.expected(request)
        reserved = self.budget.reserve(*expected, self._wire.url)
        paced = Paced(self._pace, sum(expected), threading.Event())
        read, written = expected[0], 0
        try:
            for part in self._wire.parts(path, {**body, "stream": True}, paced):
                written += 1  # a part is a token or more; usage is not told in every stream
                if piece := said(part):
                    yield piece
        finally:
            paced.settle(read + written)
            self.budget.settle(reserved, read, written)

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """Raises LuthierError: OpenAI's protocol does not tell how likely a given text is."""
        raise LuthierError(
            "an endpoint writes, but does not say how likely a given text is",
            where=self._wire.url,
            fix="take engine: local for what reads likelihoods (perplexity, preferences)",
        )

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`. Raises LuthierError where the endpoint does not, and where which adapters there are
        is its own business."""
        if self._loading is not None:
            self._loading.load(name, folder)
            return
        raise LuthierError(
            f"the adapter {name!r} cannot be loaded into an endpoint from here",
            where=folder,
            fix="let the endpoint serve it, and name it as the model",
        )

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`; one that the endpoint does not know is gone already."""
        if self._loading is not None:
            self._loading.drop(name)
            return
        raise LuthierError(
            f"no adapter {name!r} was loaded (loaded: none)", where=self._wire.url, fix="an endpoint keeps its own"
        )

    def sync(self, version: int) -> None:
        """Raises LuthierError: an endpoint's weights do not follow a training here."""
        raise LuthierError(
            "the weights of an endpoint do not follow the model that trains here",
            where=self._wire.url,
            fix="take engine: local for answers of the model under training",
        )

    # one call
    def _answer(self, call: tuple[Request, int], stopped: threading.Event) -> Completion:
        request, index = call
        path, body = self._words.body(request, index)
        where = f"{self._wire.url}{path}"
        name = "" if self._kept is None else self._kept.name(path, body)
        found = None if self._kept is None else self._kept.find(name)
        if found is not None:
            return self._words.completion(request, index, found, where)
        answer = self._asked(path, body, self._words.expected(request), stopped)
        completion = self._words.completion(request, index, answer, where)
        if self._kept is not None:
            self._kept.keep(name, answer)
        return replace(completion, length=_used(answer, "completion_tokens"))

    def _asked(
        self, path: str, body: Mapping[str, Any], expected: tuple[int, int], stopped: threading.Event
    ) -> dict[str, Any]:
        """The endpoint's answer, within pace and budget."""
        reserved = self.budget.reserve(*expected, self._wire.url)
        paced = Paced(self._pace, sum(expected), stopped)
        try:
            answer = self._wire.post(path, body, paced)
        except Refused as error:
            self.budget.release(reserved)
            if self._settings.ask != "tokens" or error.status not in NO_TOKENS:
                raise
            raise LuthierError(error.what, where=error.where, fix=f"{error.fix}; {BY_TOKENS}") from error
        except BaseException:
            self.budget.release(reserved)
            raise
        # what is not told is counted as the most it may be
        read, written = _used(answer, "prompt_tokens"), _used(answer, "completion_tokens")
        read, written = expected[0] if read is None else read, expected[1] if written is None else written
        paced.settle(read + written)
        self.budget.settle(reserved, read, written)
        return answer


class Paced(Patience):
    """A call of so many tokens that keeps the pace with each attempt."""

    def __init__(self, pace: Pace, tokens: int, stopped: threading.Event) -> None:
        super().__init__(stopped)
        self._pace, self._tokens = pace, tokens
        self._entry: Entry | None = None

    def begin(self) -> None:
        """Wait until the pace lets one more attempt begin."""
        super().begin()
        while isinstance(entry := self._pace.take(self._tokens), float):
            self.wait(entry)
        self._entry = entry

    def settle(self, tokens: int) -> None:
        """The call took so many tokens."""
        if self._entry is not None:
            self._pace.settle(self._entry, tokens)


def said(part: Mapping[str, Any]) -> str:
    """The words of one part of a stream."""
    choices = part.get("choices") or [{}]  # the last part may tell the usage alone
    found = choices[0].get("text") or (choices[0].get("delta") or {}).get("content")
    return str(found or "")


def _used(answer: Mapping[str, Any], key: str) -> int | None:
    usage = answer.get("usage")
    found = usage.get(key) if isinstance(usage, dict) else None
    return found if isinstance(found, int) else None


def at_once(work: Callable[[T, threading.Event], R], items: Sequence[T], threads: int) -> Iterator[R]:
    """What comes of the items, each as it is done, at most so many under way at a time. One that is done counts as
    under way until whoever reads asks for the next: then it is written down, and what a kill loses is never more than
    that.

    After a fault nothing more is begun; what is under way is waited for, and then the fault is raised. Threads end with
    the process: nobody who leaves waits for them.
    """
    waiting, done = iter(items), queue.SimpleQueue[tuple[bool, Any]]()
    lock, stopped, room = threading.Lock(), threading.Event(), threading.Semaphore(threads)

    def worker() -> None:
        try:
            while True:
                room.acquire()
                with lock:
                    item = None if stopped.is_set() else next(waiting, None)
                if item is None:
                    room.release()
                    break
                done.put((True, work(item, stopped)))
        except Stopped:
            pass
        except BaseException as error:  # told by whoever reads the answers
            stopped.set()
            done.put((True, error))
        finally:
            done.put((False, None))

    running, fault = min(threads, len(items)), None
    for _ in range(running):
        threading.Thread(target=worker, daemon=True).start()
    try:
        while running:
            is_result, result = done.get()
            if not is_result:
                running -= 1
            elif isinstance(result, BaseException):
                fault = fault or result
                room.release()
            else:
                yield result
                room.release()
    finally:
        stopped.set()
        room.release(threads)  # whoever waits is to see that it is over
    if fault is not None:
        raise fault
