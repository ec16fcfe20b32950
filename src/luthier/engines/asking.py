"""Prompts as requests, and completions back in the order of the prompts: what every engine's `generate` is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from luthier.engines.choice import WORD
from luthier.errors import LuthierError
from luthier.types import Completion, Request, Sampling


def one_each(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Request]:
    """A request for each prompt, named by its place. The place is the high word of its seed, too, so that equal prompts
    are not answered by equal draws."""
    return [
        Request(tuple(prompt), replace(sampling, seed=sampling.seed + place * WORD), id=place)
        for place, prompt in enumerate(prompts)
    ]


def must_have_ids(completion: Completion, where: str) -> None:
    """Raise LuthierError where an answer came without its tokens and how likely they were, and these are needed."""
    if not completion.sampled or len(completion.logprobs) != len(completion.sampled):
        raise LuthierError(
            "the answer came as text alone, without token ids and log-probabilities, and these are asked for",
            where=where,
            fix="take engine: local, or an endpoint that tells them (`ask: tokens`)",
        )


def in_order(
    run: Callable[[Sequence[Request]], Iterator[Completion]],
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    progress: Callable[[int], None] | None = None,
) -> list[Completion]:
    """One completion for each prompt, in order. `progress` is told how many more have ended."""
    done: dict[int | str, Completion] = {}
    for completion in run(one_each(prompts, sampling)):
        done[completion.request] = completion
        if progress is not None:
            progress(1)
    return [done[place] for place in range(len(prompts))]
