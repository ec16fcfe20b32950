"""Near-duplicates: from band keys and the rows' texts to which rows stay.

Rows are taken in the order of a rule (keeping.py). One stays unless it is as alike as the threshold to one that stays
already, counted exactly; that one is its witness. So no chain of small differences throws out a row that is unlike
all that is left, and the outcome does not depend on where rows lie or on how the work is cut.

Rows are called by their place in that order here. Shapes: N rows; R rows unlike all others in identity; E entries: a
row in a bucket, which is the rows of one band that share a key; Q pairs to be compared.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from luthier.data.duplicates import minhash
from luthier.data.duplicates.keeping import Decision, Rows
from luthier.data.duplicates.units import Hashes
from luthier.data.duplicates.verifying import Compared, Reread

Places = NDArray[np.uint32]
FILTER = 1 << 20
"""Places of a table that tells most keys to occur but once."""


@dataclass(frozen=True)
class Measured:
    """What minhash.py measured of all rows. Each array is opened when it is asked for, and let go of again: where it is
    mapped from a file, no more of it is in memory than is looked at."""

    keys: Callable[[], Hashes]
    sketches: Callable[[], Hashes]
    layout: minhash.Layout = minhash.LAYOUTS[0]

    def column(self, number: int) -> Hashes:
        """A column of the keys: of a band, or the last, the identity."""
        return np.ascontiguousarray(self.keys()[:, number])


def decide(measured: Measured, reread: Reread, threshold: float, order: Rows) -> Decision:
    """Which rows stay. `order` names all rows, the one that would rather stay first. Only rows are read again whose
    sketches say that they may be duplicates."""
    count = len(order)
    place_N = np.empty(count, np.uint32)
    place_N[order] = np.arange(count, dtype=np.uint32)
    first_N = _first_alike(measured.column(-1), place_N)
    rows_R = np.sort(order[first_N == np.arange(count)])
    buckets_E, places_E = _entries(measured, rows_R, place_N)
    witness_N = np.full(count, -1, np.int64)
    similarity_N = np.zeros(count, np.float32)
    with Compared(count, reread) as compared:
        how = _Likeness(measured, order, compared, threshold)
        _settle(buckets_E, places_E, how, witness_N, similarity_N)
    return _of_rows(order, first_N, witness_N, similarity_N)


@dataclass(frozen=True)
class _Likeness:
    """How alike rows are, called by their places."""

    measured: Measured
    order: Rows
    compared: Compared
    threshold: float

    def __call__(self, a_Q: Rows, b_Q: Rows) -> NDArray[np.float32]:
        """Of each pair; 0 where the sketches say that it is less than the threshold."""
        a_rows, b_rows = self.order[a_Q], self.order[b_Q]
        alike_Q = np.zeros(len(a_rows), np.float32)
        sketches = self.measured.sketches()
        asked = np.flatnonzero(minhash.likely(sketches[a_rows], sketches[b_rows], self.measured.layout, self.threshold))
        alike_Q[asked] = self.compared.similarities(a_rows[asked], b_rows[asked])
        return alike_Q


def _first_alike(identity_N: Hashes, place_N: Places) -> Places:
    """For each place the first that has the same shingles; itself, mostly."""
    first_N = np.arange(len(place_N), dtype=np.uint32)
    rows, group = _shared(identity_N)
    if len(rows):
        lowest = np.full(int(group.max()) + 1, len(place_N), np.uint32)
        np.minimum.at(lowest, group, place_N[rows])
        first_N[place_N[rows]] = lowest[group]
    return first_N


def _entries(measured: Measured, rows_R: Rows, place_N: Places) -> tuple[Places, Places]:
    """All buckets with more than one row: (bucket, place), sorted by both."""
    found = [np.empty(0, np.uint64)]
    count = 0
    for band in range(measured.layout.bands):
        column = measured.column(band)
        rows, group = _shared(column if len(rows_R) == len(column) else column[rows_R])
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
    how: _Likeness,
    witness_N: Rows,
    similarity_N: NDArray[np.float32],
) -> None:
    """Fills in the witness of each place that is dropped, and how alike the two are.

    In rounds: a row that comes first in all its buckets stays, since nothing can drop it any more, and drops of the
    rest of its buckets what is alike. That is what taking row after row comes to, with many compared at a time.
    """
    waiting = np.zeros(len(witness_N), np.bool_)
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
        alike_Q = how(lead_Q, other_Q)
        hit = np.flatnonzero(alike_Q >= np.float32(how.threshold))
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
