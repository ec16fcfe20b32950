"""The engine inside this process: batched decoding over a key-value cache, with the very weights that train.

Given tokens are scored by the one forward pass of `luthier.forward`.

Shape suffixes: B = rows, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.engines.asking import in_order
from luthier.engines.choice import Choice, Drawn, choose
from luthier.engines.decoding import Decoding
from luthier.engines.named import Named
from luthier.engines.text import Text, whole
from luthier.errors import LuthierError
from luthier.forward.likelihoods import Likelihoods
from luthier.models import max_context
from luthier.types import Completion, Encoded, Request, Sampling


class LocalEngine:
    """Generates and scores with a transformers (or PEFT) model of this process; implements `types.Engine`.

    `stop_ids` end a sequence. `rows` sequences are decoded at a time, fewer when together with their room to grow they
    would hold more than `tokens` tokens. The weights are those of the module whenever it is asked: `sync` only counts.
    """

    def __init__(
        self, module: Any, tokenizer: Any, stop_ids: Collection[int], *, rows: int = 64, tokens: int = 32_768
    ) -> None:
        self._named, self._tokenizer, self._stop = Named(module), tokenizer, frozenset(stop_ids)
        self._rows, self._tokens = rows, tokens
        self._device = next(module.parameters()).device
        self._version = 0
        self.context = max_context(module)

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """All completions of the requests, each as it ends; between two of them the model may be used and trained.

        Raises LuthierError, before any is begun, for an empty prompt, for one that fills the model's context, for a
        request of no answer and for an adapter that is not loaded.
        """
        alike: dict[tuple[str | None, Sampling], list[_Growing]] = {}
        contexts: dict[str | None, int | None] = {None: self.context}
        for place, request in enumerate(requests):
            if request.adapter not in contexts:
                with self._named.on(request.adapter) as module:
                    contexts[request.adapter] = max_context(module)
            if request.n < 1:
                raise LuthierError(
                    f"a request asks for {request.n} answers", where=f"prompt {place + 1}", fix="set n to 1 or more"
                )
            limit = _room(request, place, contexts[request.adapter])
            kind = request.adapter, replace(request.sampling, seed=0)
            alike.setdefault(kind, []).extend(_Growing(request, index, limit) for index in range(request.n))
        return (
            completion
            for (adapter, sampling), rows in alike.items()
            for batch in self._batches(rows)
            for completion in self._decode(batch, sampling, adapter)
        )

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, progress: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order. `progress` is told how many more have ended.

        Raises LuthierError as `run` does.
        """
        return in_order(self.run, prompts, sampling, progress)

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece; pieces are never half a character."""
        limit = _room(Request(tuple(prompt), sampling), 0, self.context)
        choice, text = Choice(sampling, prompt, 0), Text(self._tokenizer, sampling.stop)
        decoding: Decoding | None = None
        token = -1
        for _ in range(limit):
            # per token: the caller may use the model between two pieces
            with self._named.on(None) as module, _inference(module):
                if decoding is None:
                    decoding = Decoding(module, [prompt], self._device)
                    logits_BV = decoding.start()
                else:
                    logits_BV = decoding.step([token])
                token = choose(logits_BV, [choice])[0].token
            if token in self._stop:
                break
            piece = text.add(token)
            if piece:
                yield piece
            if text.stopped:
                return
        rest = text.end()
        if rest:
            yield rest

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[NDArray[np.float32]]:
        """For each row, the log-probability of each scored token of its responses, one response after the other."""
        with self._named.on(adapter) as module:
            return Likelihoods(module).logprobs(rows)

    def load_adapter(self, name: str, folder: str) -> None:
        """As `Engine.load_adapter`: beside a PEFT model's own adapter, or on a plain model, plain to all others."""
        self._named.load(name, folder)

    def drop_adapter(self, name: str) -> None:
        """As `Engine.drop_adapter`."""
        self._named.drop(name)

    def sync(self, version: int) -> None:
        """Completions begun from now on carry this version."""
        self._version = version

    # decoding
    def _batches(self, rows: Sequence[_Growing]) -> Iterator[list[_Growing]]:
        """Rows that are decoded together: of like length, the longest first."""
        waiting = sorted(rows, key=lambda row: -len(row.request.prompt))
        while waiting:
            longest = len(waiting[0].request.prompt) + waiting[0].request.sampling.max_new_tokens
            count = max(1, min(self._rows, self._tokens // longest))
            yield waiting[:count]
            waiting = waiting[count:]

    def _decode(self, rows: list[_Growing], sampling: Sampling, adapter: str | None) -> Iterator[Completion]:
        """Decode one batch; a row leaves it as soon as it ends."""
        prompts, version = [row.request.prompt for row in rows], self._version
        for row in rows:
            row.text = Text(self._tokenizer, sampling.stop) if sampling.stop else None
        choices = [Choice(row.request.sampling, row.request.prompt, row.index) for row in rows]
        decoding: Decoding | None = None
        tokens: list[int] = []
        while rows:
            with self._named.on(adapter) as module, _inference(module):
                while all(row.finish is None for row in rows):
                    if decoding is None:
                        decoding = Decoding(module, prompts, self._device)
                        logits_BV = decoding.start()
                    else:
                        logits_BV = decoding.step(tokens)
                    chosen = choose(logits_BV, choices)
                    tokens = [each.token for each in chosen]
                    for row, each in zip(rows, chosen, strict=True):
                        row.add(each, self._stop)
            for row in rows:
                if row.finish is not None:
                    yield self._completion(row, version)
            alive = [place for place, row in enumerate(rows) if row.finish is None]
            if alive and decoding is not None:
                choices = [choices[place] for place in alive]
                decoding.keep(alive)
                tokens = [tokens[place] for place in alive]
            rows = [rows[place] for place in alive]

    def _completion(self, row: _Growing, version: int) -> Completion:
        assert row.finish is not None
        text = "".join([*row.pieces, row.text.end()]) if row.text is not None else whole(self._tokenizer, row.ids)
        return Completion(
            ids=tuple(row.ids),
            text=text,
            finish=row.finish,
            sampled=tuple(row.sampled),
            logprobs=tuple(row.logprobs),
            drawn=tuple(row.drawn),
            top=tuple(row.top),
            request=row.request.id,
            index=row.index,
            adapter=row.request.adapter,
            version=version,
        )


@contextmanager
def _inference(module: Any) -> Iterator[None]:
    """No gradients, no dropout; afterwards the module is in the mode it was in."""
    training = module.training
    if training:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        if training:
            module.train()


def _room(request: Request, place: int, context: int | None) -> int:
    """How many tokens may follow the prompt."""
    length, most = len(request.prompt), request.sampling.max_new_tokens
    if not length:
        raise LuthierError(
            "an empty prompt has nothing to go on from", where=f"prompt {place + 1}", fix="give it a token at least"
        )
    if context is None:
        return most
    if length >= context:
        raise LuthierError(
            f"the prompt has {length} tokens, but the model's context ends at {context}",
            where=f"prompt {place + 1}",
            fix="shorten it",
        )
    return min(most, context - length)


class _Growing:
    """One row of a batch under way: an answer to a request."""

    def __init__(self, request: Request, index: int, limit: int) -> None:
        self.request, self.index, self._limit = request, index, limit
        self.ids: list[int] = []
        self.sampled: list[int] = []
        self.logprobs: list[float] = []
        self.drawn: list[float] = []
        self.top: list[tuple[tuple[int, float], ...]] = []
        self.text: Text | None = None
        self.pieces: list[str] = []
        self.finish: Literal["stop", "length"] | None = None

    def add(self, chosen: Drawn, stop: Collection[int]) -> None:
        """One more token was drawn."""
        token = chosen.token
        self.sampled.append(token)
        self.logprobs.append(chosen.logp)
        self.drawn.append(chosen.drawn)
        self.top.append(chosen.top)
        if token in stop:
            self.finish = "stop"
            return
        self.ids.append(token)
        if self.text is not None:
            self.pieces.append(self.text.add(token))
            if self.text.stopped:
                self.finish = "stop"
                return
        if len(self.ids) >= self._limit:
            self.finish = "length"
