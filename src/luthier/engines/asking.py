"""Prompts as requests, and completions back in the order of the prompts: what every engine's `generate` is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from luthier.engines.choice import WORD
from luthier.types import Completion, Request, Sampling


def one_each(prompts: Sequence[Sequence[int]], sampling: Sampling) -> list[Request]:
    """A request for each prompt, named by its place. The place is the high word of its seed, too, so that equal prompts
    are not answered by equal draws."""
    return [
        Request(tuple(prompt), replace(sampling, seed=sampling.seed + place * WORD), id=place)
        for place, prompt in enumerate(prompts)
    ]


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
