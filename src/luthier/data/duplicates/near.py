"""Near-duplicates: from band keys and the rows' texts to which rows stay.

Rows are taken in the order of a rule (keeping.py). One stays unless it is as alike as the threshold to one that stays
already, counted exactly; that one is its witness. So no chain of small differences throws out a row that is unlike
all that is left, and the outcome does not depend on where rows lie or on how the work is cut.

Rows are called by their place in that order here. Shapes: N rows; R rows unlike all others in identity; E entries: a
row in a bucket, which is the rows of one band that share a key; Q pairs to be compared.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates.keeping import Decision, Rows
from luthier.data.duplicates.units import Hashes
from luthier.data.duplicates.verifying import Compared, Reread

Places = NDArray[np.uint32]
FILTER = 1 << 20
"""Places of a table that tells most keys to occur but once."""


def decide(keys: Hashes, reread: Reread, threshold: float, order: Rows) -> Decision:
    """Which rows stay. `keys` (minhash.py) may be mapped from a file: they are read a column at a time. `order`
    names all rows, the one that would rather stay first. Only rows that share a key with one of another identity are
    read again."""
    place_N = np.empty(len(keys), np.uint32)
    place_N[order] = np.arange(len(keys), dtype=np.uint32)
    first_N = _first_alike(keys[:, -1], place_N)
    rows_R = np.flatnonzero(first_N == np.arange(len(keys)))
    rows_R = order[rows_R]
    buckets_E, places_E = _entries(keys, np.sort(rows_R), place_N)
    witness_N = np.full(len(keys), -1, np.int64)
    similarity_N = np.zeros(len(keys), np.float32)
    with Compared(np.sort(order[np.unique(places_E)]), reread) as compared:
        _settle(buckets_E, places_E, order, compared, threshold, witness_N, similarity_N)
    return _of_rows(order, first_N, witness_N, similarity_N)


def _first_alike(identity_N: Hashes, place_N: Places) -> Places:
    """For each place the first that has the same shingles; itself, mostly."""
    first_N = np.arange(len(place_N), dtype=np.uint32)
    rows, group = _shared(np.ascontiguousarray(identity_N))
    if len(rows):
        lowest = np.full(int(group.max()) + 1, len(place_N), np.uint32)
        np.minimum.at(lowest, group, place_N[rows])
        first_N[place_N[rows]] = lowest[group]
    return first_N


def _entries(keys: Hashes, rows_R: Rows, place_N: Places) -> tuple[Places, Places]:
    """All buckets with more than one row: (bucket, place), sorted by both."""
    found = [np.empty(0, np.uint64)]
    count = 0
    for band in range(keys.shape[1] - 1):
        column = keys[:, band]
        rows, group = _shared(np.ascontiguousarray(column) if len(rows_R) == len(keys) else column[rows_R])
        if len(rows):
            buckets = (group + count).astype(np.uint64)
            found.append(np.sort(buckets << np.uint64(32) | place_N[rows_R[rows]]))
            count += int(group.max()) + 1
    entries = np.concatenate(found)
    return (entries >> np.uint64(32)).astype(np.uint32), entries.astype(np.uint32)


def _shared(key_R: Hashes) -> tuple[Rows, Rows]:
    """The places of keys that occur more than once, and for each the number of its key among those.

    Sorting numbers is several times faster than sorting their places, and most keys occur once.
    """
    known = np.sort(key_R)
    repeated = np.unique(known[1:][known[1:] == known[:-1]])
    table = np.zeros(FILTER, np.bool_)
    table[repeated & np.uint64(FILTER - 1)] = True
    at = np.flatnonzero(table[key_R & np.uint64(FILTER - 1)])
    group = np.searchsorted(repeated, key_R[at])
    hit = group < len(repeated)
    hit[hit] = repeated[group[hit]] == key_R[at[hit]]
    return at[hit], group[hit]


def _settle(
    buckets_E: Places,
    places_E: Places,
    order: Rows,
    compared: Compared,
    threshold: float,
    witness_N: Rows,
    similarity_N: NDArray[np.float32],
) -> None:
    """Fills in the witness of each place that is dropped, and how alike the two are.

    In rounds: a row that comes first in all its buckets stays, since nothing can drop it any more, and drops of the
    rest of its buckets what is alike. That is what taking row after row comes to, with many compared at a time.
    """
    waiting = np.zeros(len(order), np.bool_)
    while len(places_E):
        begins_E = np.concatenate([[True], buckets_E[1:] != buckets_E[:-1]])
        leads_E = places_E[begins_E][np.cumsum(begins_E) - 1]
        waiting[leads_E] = True
        waiting[places_E[~begins_E]] = False  # another comes before it somewhere
        stays = waiting
        asked_E = stays[leads_E] & ~begins_E
        pairs_Q = np.unique(leads_E[asked_E].astype(np.uint64) << np.uint64(32) | places_E[asked_E])
        lead_Q, other_Q = (
            (pairs_Q >> np.uint64(32)).astype(np.int64),
            (pairs_Q & np.uint64(0xFFFFFFFF)).astype(np.int64),
        )
        alike_Q = compared.similarities(order[lead_Q], order[other_Q])
        hit = np.flatnonzero(alike_Q >= np.float32(threshold))
        hit = hit[np.lexsort((-lead_Q[hit], alike_Q[hit]))]  # the most alike is written last
        witness_N[other_Q[hit]] = lead_Q[hit]
        similarity_N[other_Q[hit]] = alike_Q[hit]
        left_E = ~stays[places_E] & (witness_N[places_E] < 0)
        waiting[leads_E] = False
        buckets_E, places_E = _crowded(buckets_E[left_E], places_E[left_E])


def _crowded(buckets_E: Places, places_E: Places) -> tuple[Places, Places]:
    """The entries of buckets that hold more than one."""
    same = buckets_E[1:] == buckets_E[:-1]
    shared = np.zeros(len(buckets_E), np.bool_)
    shared[1:] |= same
    shared[:-1] |= same
    return buckets_E[shared], places_E[shared]


def _of_rows(order: Rows, first_N: Places, witness_N: Rows, similarity_N: NDArray[np.float32]) -> Decision:
    """The decision by row, from that by place; a row of another's shingles goes where that one went."""
    copy_N = first_N != np.arange(len(order))
    firsts = first_N[copy_N]
    gone = witness_N[firsts] >= 0
    witness_N[copy_N] = np.where(gone, witness_N[firsts], firsts)
    similarity_N[copy_N] = np.where(gone, similarity_N[firsts], np.float32(1))
    witness, similarity = np.full(len(order), -1, np.int64), np.zeros(len(order), np.float32)
    dropped = np.flatnonzero(witness_N >= 0)
    witness[order[dropped]] = order[witness_N[dropped]]
    similarity[order] = similarity_N
    return Decision(witness, similarity)
