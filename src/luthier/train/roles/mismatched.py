"""Mismatched pairs of prompt and response, from which KTO estimates the divergence from the reference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.types import Encoded


def mismatched(examples: Sequence[Encoded]) -> list[Encoded]:
    """Each example's prompt with the first response of the example before it (KTO's estimate of the KL divergence).

    `examples` has at least two.
    """
    made = []
    for one, other in zip(examples, [examples[-1], *examples[:-1]], strict=True):
        prompt = one.ids[0][: _first_scored(one)]
        begin = _first_scored(other)
        ids = np.concatenate([prompt, other.ids[0][begin:]])
        weights = np.concatenate([np.zeros(len(prompt), np.float32), other.weights[0][begin:]])
        made.append(Encoded((ids,), (weights,), source=one.source))
    return made


def cut(pair: Encoded, longest: int) -> Encoded:
    """A mismatched pair without what its response has beyond `longest` tokens, as a judged row that is too long."""
    return Encoded((pair.ids[0][:longest],), (pair.weights[0][:longest],), source=pair.source)


def _first_scored(example: Encoded) -> int:
    return int(np.flatnonzero(example.weights[0])[0])
