"""The engine inside this process: batched decoding over a key-value cache, and the scoring of given tokens.

Shape suffixes: B = rows, T = tokens of the longest row, S = scored positions of any row, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.engines.choice import Choice
from luthier.engines.decoding import Decoding
from luthier.engines.text import Text
from luthier.errors import LuthierError
from luthier.forward.padding import alike, padded
from luthier.models import max_context, positions
from luthier.models.virtual import virtual
from luthier.types import Completion, Encoded, Sampling

HEAD_ROWS = 128
"""Positions whose log-softmax is taken at once, in fp32."""


class LocalEngine:
    """Generates and scores with a transformers (or PEFT) model of this process; implements `types.Engine`.

    `stop_ids` end a sequence. `rows` sequences are decoded at a time, fewer when together with their room to grow they
    would hold more than `tokens` tokens.
    """

    def __init__(
        self, module: Any, tokenizer: Any, stop_ids: Collection[int], *, rows: int = 64, tokens: int = 32_768
    ) -> None:
        self._module, self._tokenizer, self._stop = module, tokenizer, frozenset(stop_ids)
        self._rows, self._tokens = rows, tokens
        self._device = next(module.parameters()).device
        self.context = max_context(module)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, progress: Callable[[int], None] | None = None
    ) -> list[Completion]:
        """One completion for each prompt, in order. `progress` is told how many more have ended.

        Raises LuthierError for an empty prompt and for one that fills the model's context.
        """
        done: dict[int, Completion] = {}
        for numbers in self._batches(prompts, sampling):
            for number, completion in self._decode([prompts[number] for number in numbers], numbers, sampling):
                done[number] = completion
                if progress is not None:
                    progress(1)
        return [done[number] for number in range(len(prompts))]

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[str]:
        """The text of one completion, piece by piece; pieces are never half a character."""
        limit = self._room(prompt, 0, sampling)
        choice, text = Choice(sampling, [prompt], [0]), Text(self._tokenizer, sampling.stop)
        decoding = Decoding(self._module, [prompt], self._device)
        token = -1
        for count in range(limit):
            with self._inference():  # per token: the caller may use the model between two pieces
                logits_BV = decoding.start() if count == 0 else decoding.step([token])
                token = choice(logits_BV)[0]
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

    def score(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        """For each row, the log-probability of each scored token of its responses, one response after the other."""
        sequences = [pair for row in rows for pair in zip(row.ids, row.weights, strict=True)]
        done: dict[int, NDArray[np.float32]] = {}
        with self._inference():
            for numbers in alike([len(ids) for ids, _ in sequences], rows=self._rows):
                done |= zip(numbers, self._score([sequences[number] for number in numbers]), strict=True)
        ends = accumulate((len(row.ids) for row in rows), initial=0)
        return [np.concatenate([done[number] for number in range(*span)]) for span in pairwise(ends)]

    # decoding
    def _batches(self, prompts: Sequence[Sequence[int]], sampling: Sampling) -> Iterator[list[int]]:
        """Numbers of the prompts that are decoded together: of like length, the longest first."""
        for number, prompt in enumerate(prompts):
            self._room(prompt, number, sampling)
        waiting = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        while waiting:
            longest = len(prompts[waiting[0]]) + sampling.max_new_tokens
            count = max(1, min(self._rows, self._tokens // longest))
            yield waiting[:count]
            waiting = waiting[count:]

    def _room(self, prompt: Sequence[int], number: int, sampling: Sampling) -> int:
        """How many tokens may follow the prompt."""
        if not len(prompt):
            raise LuthierError(
                "an empty prompt has nothing to go on from",
                where=f"prompt {number + 1}",
                fix="give it a token at least",
            )
        if self.context is None:
            return sampling.max_new_tokens
        if len(prompt) >= self.context:
            raise LuthierError(
                f"the prompt has {len(prompt)} tokens, but the model's context ends at {self.context}",
                where=f"prompt {number + 1}",
                fix="shorten it",
            )
        return min(sampling.max_new_tokens, self.context - len(prompt))

    def _decode(
        self, prompts: Sequence[Sequence[int]], numbers: Sequence[int], sampling: Sampling
    ) -> Iterator[tuple[int, Completion]]:
        """Decode one batch; a row leaves it as soon as it ends."""
        rows = [_Growing(number, self._room(p, number, sampling)) for p, number in zip(prompts, numbers, strict=True)]
        for row in rows:
            row.text = Text(self._tokenizer, sampling.stop) if sampling.stop else None
        choice, decoding = Choice(sampling, prompts, numbers), Decoding(self._module, prompts, self._device)
        tokens: list[int] = []
        while rows:
            with self._inference():
                tokens = choice(decoding.step(tokens) if tokens else decoding.start())
            for row, token in zip(rows, tokens, strict=True):
                row.add(token, self._stop)
            alive = [place for place, row in enumerate(rows) if row.finish is None]
            for row in rows:
                if row.finish is not None:
                    yield row.number, self._completion(row)
            if len(alive) < len(rows) and alive:
                choice.keep(alive)
                decoding.keep(alive)
                tokens = [tokens[place] for place in alive]
            rows = [rows[place] for place in alive]

    def _completion(self, row: _Growing) -> Completion:
        assert row.finish is not None
        if row.text is not None:
            text = "".join([*row.pieces, row.text.end()])
        else:
            text = self._tokenizer.decode(row.ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Completion(tuple(row.ids), text, row.finish)

    # scoring
    def _score(
        self, sequences: Sequence[tuple[NDArray[np.int32], NDArray[np.float32]]]
    ) -> Iterator[NDArray[np.float32]]:
        ids_BT, mask_BT = padded([ids for ids, _ in sequences])
        scored = [np.flatnonzero(weights) for _, weights in sequences]
        # The token at place t is predicted at t - 1; only places that some row asks for reach the output head.
        place_S = np.unique(np.concatenate(scored)) - 1
        if not len(place_S):
            return (np.zeros(0, np.float32) for _ in sequences)
        ids_BT, mask_BT = ids_BT.to(self._device), None if mask_BT is None else mask_BT.to(self._device)
        before = virtual(self._module)
        if before is not None:
            model, inputs, first = before.model, before.before(ids_BT, mask_BT), before.places
        else:
            model, first = self._module, 0
            inputs = {"input_ids": ids_BT, "attention_mask": mask_BT, "use_cache": False}
            if positions.placed(model):
                weights = [each for _, each in sequences]
                inputs[positions.KEYWORD] = positions.Prompts.unscored(weights, ids_BT.shape[1], self._device)
        logits_BSV: Tensor = model(**inputs, logits_to_keep=torch.from_numpy(place_S + first).to(self._device)).logits
        return (
            _log_probabilities(logits_BSV[number, np.searchsorted(place_S, wanted - 1)], ids[wanted])
            for number, ((ids, _), wanted) in enumerate(zip(sequences, scored, strict=True))
        )

    @contextmanager
    def _inference(self) -> Iterator[None]:
        """No gradients, no dropout; afterwards the module is in the mode it was in."""
        training = self._module.training
        if training:
            self._module.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            if training:
                self._module.train()


class _Growing:
    """One row of a batch under way."""

    def __init__(self, number: int, limit: int) -> None:
        self.number, self._limit = number, limit
        self.ids: list[int] = []
        self.text: Text | None = None
        self.pieces: list[str] = []
        self.finish: Any = None

    def add(self, token: int, stop: Collection[int]) -> None:
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


def _log_probabilities(logits_SV: Tensor, target: NDArray[np.int32]) -> NDArray[np.float32]:
    target_S = torch.from_numpy(target.astype(np.int64)).to(logits_SV.device)
    split: Any = torch.split
    pieces = [
        chunk_CV.float().log_softmax(-1).gather(-1, target_C[:, None])[:, 0]
        for chunk_CV, target_C in zip(split(logits_SV, HEAD_ROWS), split(target_S, HEAD_ROWS), strict=True)
    ]
    return torch.cat(pieces).cpu().numpy() if pieces else np.zeros(0, np.float32)
