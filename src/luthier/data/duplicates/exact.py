"""Exact duplicates: rows whose content has the same hash."""

from __future__ import annotations

import numpy as np

from luthier.data.duplicates.keeping import Decision, Rows
from luthier.data.duplicates.units import Hashes


def decide(hashes: Hashes, order: Rows) -> Decision:
    """Which rows stay. `hashes` (N, K) are K words of 64 bits of each row's content: 2 tell any number of rows apart.
    `order` names all rows, the one that would rather stay first."""
    count = len(hashes)
    witness, similarity = np.full(count, -1, np.int64), np.zeros(count, np.float32)
    if not count:
        return Decision(witness, similarity)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    words = [hashes[:, word] for word in range(hashes.shape[1])]
    sorted_N = np.lexsort((place, *words))
    differs = np.zeros(count - 1, np.bool_)
    for word in words:
        known = word[sorted_N]
        differs |= known[1:] != known[:-1]
    begins = np.concatenate([[True], differs])
    kept = sorted_N[begins][np.cumsum(begins) - 1]
    witness[sorted_N[~begins]] = kept[~begins]
    similarity[sorted_N[~begins]] = 1
    return Decision(witness, similarity)
