"""Mismatched pairs of prompt and response, from which KTO estimates the divergence from the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from luthier.types import Encoded


def mismatched(examples: Sequence[Encoded]) -> list[Encoded]:
    """Each example's prompt with the first response of the example before it (KTO's estimate of the KL divergence).

    `examples` has at least two.
    """
    made = []
    for one, other in zip(examples, [examples[-1], *examples[:-1]], strict=True):
        prompt, response = part(one, 0, first_scored(one)), part(other, first_scored(other))
        moved = [replace(item, start=item.start + len(prompt)) for each in response.media for item in each]
        media = (*(item for each in prompt.media for item in each), *moved)
        made.append(
            Encoded(
                (np.concatenate([prompt.ids[0], response.ids[0]]),),
                (np.concatenate([np.zeros(len(prompt), np.float32), response.weights[0]]),),
                source=one.source,
                media=(media,) if media else (),
            )
        )
    return made


def cut(pair: Encoded, longest: int) -> Encoded:
    """A mismatched pair without what its response has beyond `longest` tokens, as a judged row that is too long."""
    return part(pair, 0, longest)


def part(example: Encoded, begin: int, end: int | None = None) -> Encoded:
    """The tokens from `begin` up to `end` of an example's first response, with the media among them, as a row."""
    ids, weights = example.ids[0][begin:end], example.weights[0][begin:end]
    media = tuple(
        replace(item, start=item.start - begin, length=min(item.length, begin + len(ids) - item.start))
        for item in (example.media[0] if example.media else ())
        if begin <= item.start < begin + len(ids)
    )
    return Encoded((ids,), (weights,), source=example.source, media=(media,) if media else ())


def first_scored(example: Encoded) -> int:
    """Where the first scored token of an example's first response lies."""
    return int(np.flatnonzero(example.weights[0])[0])
