"""Micro-batches: rows laid end to end without padding, prefixes that rows have in common laid out once.

A packed micro-batch is a forest of token runs ("segments"). A segment's tokens see their own segment causally and the whole
of its ancestors, nothing else, so a row is the path from a root to a leaf. Rows without a common prefix are roots.

Shape suffixes: T = tokens of the micro-batch, S = scored tokens, N = rows (one for each response), P = pairs,
K = ends of steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.models.blocks.attention import Segment
from luthier.types import Encoded

Layout = Literal["packed", "padded"]
MIN_SHARED = 8
"""Shorter common prefixes are not worth a segment of their own."""
ROUND, ROUND_FROM = 32, 256
"""Packed micro-batches of at least 256 tokens are filled up to a multiple of 32 with a segment that nobody scores: CPU
matrix products are compiled, and their code kept, for each size they meet."""


NOTHING = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True)
class Batch:
    """One micro-batch, ready for `Forward.rows`.

    `hidden_S` says at which token of the micro-batch the scored token is predicted. In the padded layout T counts
    padding too and `shape` is (rows, longest); in the packed layout `shape` is (1, T).
    """

    ids_T: Tensor
    position_T: Tensor
    hidden_S: Tensor
    target_S: Tensor
    weight_S: Tensor
    row_S: Tensor
    num_rows: int
    rows: tuple[int, ...]
    """Store positions of the examples, for messages."""
    layout: Layout
    shape: tuple[int, int]
    segments: tuple[Segment, ...]
    whole_tokens: int
    """Tokens of all rows, shared ones counted once per row."""
    filler: int = 0
    """Tokens of the last segment if it only rounds the size up."""
    last_N: Tensor = NOTHING
    """Where each row's last token lies."""
    places: tuple[NDArray[np.int64], ...] = ()
    """Where each row's tokens lie."""
    judged: Judged | None = None
    """What is known of the rows' worth."""

    @property
    def tokens(self) -> int:
        """Tokens computed, without padding and filler."""
        return sum(segment.end - segment.start for segment in self.segments) - self.filler

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        moved: Batch = _moved(self, device)
        return replace(moved, judged=_moved(self.judged, device)) if self.judged else moved


@dataclass(frozen=True)
class Judged:
    """The scores of a micro-batch's rows and what follows from them."""

    reward_N: Tensor
    """NaN where a row has none."""
    group_N: Tensor
    margin_N: Tensor
    better_P: Tensor
    worse_P: Tensor
    """Rows of each pair: every two responses to one prompt whose scores differ."""
    step_K: Tensor
    """Where each step's last token lies."""
    label_K: Tensor
    step_row_K: Tensor

    @property
    def best_N(self) -> Tensor:
        """Rows worth imitating: the better one of some pair, or one that is labelled good."""
        best_N = self.reward_N > 0.5
        if len(self.better_P):
            best_N = torch.zeros_like(best_N)
            best_N[self.better_P] = True
        return best_N


def _moved(holder: Any, device: torch.device | str) -> Any:
    """The same dataclass with its tensors on another device."""
    values = {field.name: getattr(holder, field.name) for field in fields(holder)}
    tensors = {name: t.to(device, non_blocking=True) for name, t in values.items() if isinstance(t, Tensor)}
    return replace(holder, **tensors)


def micro_batches(
    examples: Sequence[Encoded], budget_tokens: int, *, share_prefix: bool = True, layout: Layout = "packed"
) -> list[Batch]:
    """Split examples into micro-batches of at most `budget_tokens` computed tokens, heaviest first.

    An example is never split; one that is larger than the budget has a micro-batch of its own. Packed batches are
    filled first-fit by decreasing length; padded ones in order of length, so that little is padded.
    """
    order = sorted(range(len(examples)), key=lambda i: -len(examples[i]))
    bins: list[list[int]] = []
    loads: list[int] = []
    for i in order:
        if layout == "padded":
            widest = max((len(ids) for ids in examples[bins[-1][0]].ids), default=0) if bins else 0
            rows = sum(len(examples[j].ids) for j in bins[-1]) + len(examples[i].ids) if bins else 0
            fits = [len(bins) - 1] if bins and rows * widest <= budget_tokens else []
        else:
            fits = [b for b, load in enumerate(loads) if load + len(examples[i]) <= budget_tokens]
        if fits:
            bins[fits[0]].append(i)
            loads[fits[0]] += len(examples[i])
        else:
            bins.append([i])
            loads.append(len(examples[i]))
    lay_out = _padded if layout == "padded" else _packed
    return [lay_out([examples[i] for i in sorted(chosen)], share_prefix) for chosen in bins]


def _packed(examples: Sequence[Encoded], share_prefix: bool) -> Batch:
    ids_N = [ids for example in examples for ids in example.ids]
    weights_N = [weights for example in examples for weights in example.weights]
    segments, place_N = _segments(ids_N, share_prefix)
    filler = -segments[-1].end % ROUND if segments[-1].end >= ROUND_FROM else 0
    if filler:
        segments.append(Segment(segments[-1].end, segments[-1].end + filler, None))
    total = segments[-1].end
    ids_T, position_T = np.zeros(total, np.int64), np.arange(-total, 0) + filler
    for ids, place in zip(ids_N, place_N, strict=True):
        ids_T[place] = ids
        position_T[place] = np.arange(len(ids))
    laid = _batch(examples, ids_N, weights_N, place_N, (ids_T, position_T), "packed", (1, total), segments)
    return replace(laid, filler=filler)


def _padded(examples: Sequence[Encoded], _share_prefix: bool) -> Batch:
    ids_N = [ids for example in examples for ids in example.ids]
    weights_N = [weights for example in examples for weights in example.weights]
    longest = max(len(ids) for ids in ids_N)
    ids_T = np.zeros((len(ids_N), longest), np.int64)
    position_T = np.tile(np.arange(longest), (len(ids_N), 1))
    for n, ids in enumerate(ids_N):
        ids_T[n, : len(ids)] = ids
    place_N = [np.arange(n * longest, n * longest + len(ids)) for n, ids in enumerate(ids_N)]
    segments = [Segment(int(place[0]), int(place[-1]) + 1, None) for place in place_N]
    flat = (ids_T.reshape(-1), position_T.reshape(-1))
    return _batch(examples, ids_N, weights_N, place_N, flat, "padded", (len(ids_N), longest), segments)


def _batch(
    examples: Sequence[Encoded],
    ids_N: Sequence[NDArray[np.int32]],
    weights_N: Sequence[NDArray[np.float32]],
    place_N: Sequence[NDArray[np.int64]],
    flat: tuple[NDArray[np.int64], NDArray[np.int64]],
    layout: Layout,
    shape: tuple[int, int],
    segments: Sequence[Segment],
) -> Batch:
    hidden, target, weight, row = [], [], [], []
    for n, (ids, weights, place) in enumerate(zip(ids_N, weights_N, place_N, strict=True)):
        scored = np.flatnonzero(weights[1:]) + 1
        hidden.append(place[scored - 1])
        target.append(ids[scored])
        weight.append(weights[scored])
        row.append(np.full(len(scored), n))
    return Batch(
        ids_T=torch.from_numpy(flat[0]),
        position_T=torch.from_numpy(flat[1]),
        hidden_S=torch.from_numpy(np.concatenate(hidden)),
        target_S=torch.from_numpy(np.concatenate(target).astype(np.int64)),
        weight_S=torch.from_numpy(np.concatenate(weight).astype(np.float32)),
        row_S=torch.from_numpy(np.concatenate(row)),
        num_rows=len(ids_N),
        rows=tuple(example.row for example in examples),
        layout=layout,
        shape=shape,
        segments=tuple(segments),
        whole_tokens=sum(len(ids) for ids in ids_N),
        last_N=torch.from_numpy(np.array([place[-1] for place in place_N])),
        places=tuple(place_N),
        judged=_judged(examples, place_N) if any(example.scores or example.steps for example in examples) else None,
    )


def _judged(examples: Sequence[Encoded], place_N: Sequence[NDArray[np.int64]]) -> Judged:
    scores: list[float] = []
    groups: list[int] = []
    margins: list[float] = []
    pairs: list[tuple[int, int]] = []
    ends: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.float32]] = []
    step_rows: list[NDArray[np.int64]] = []
    for group, example in enumerate(examples):
        first, count = len(scores), len(example.ids)
        own = example.scores or (np.nan,) * count
        scores += own
        groups += [group] * count
        margins += [example.margin] * count
        pairs += [(first + i, first + j) for i in range(count) for j in range(count) if own[i] > own[j]]
        for n, (places, values) in enumerate(example.steps):
            ends.append(place_N[first + n][places])
            labels.append(values)
            step_rows.append(np.full(len(places), first + n))
    pairs_P2 = torch.tensor(pairs, dtype=torch.long).view(-1, 2)
    return Judged(
        reward_N=torch.tensor(scores, dtype=torch.float32),
        group_N=torch.tensor(groups),
        margin_N=torch.tensor(margins, dtype=torch.float32),
        better_P=pairs_P2[:, 0].contiguous(),
        worse_P=pairs_P2[:, 1].contiguous(),
        step_K=torch.from_numpy(np.concatenate(ends)) if ends else NOTHING,
        label_K=torch.from_numpy(np.concatenate(labels)) if labels else torch.empty(0),
        step_row_K=torch.from_numpy(np.concatenate(step_rows)) if step_rows else NOTHING,
    )


def _segments(ids_N: Sequence[NDArray[np.int32]], share: bool) -> tuple[list[Segment], list[NDArray[np.int64]]]:
    """The segments in layout order (parents before children), and for each row the places of its tokens."""
    order = sorted(range(len(ids_N)), key=lambda n: ids_N[n].tolist()) if share else list(range(len(ids_N)))
    common = [_common(ids_N[a], ids_N[b]) if share else 0 for a, b in pairwise(order)]
    segments: list[Segment] = []
    place_N: list[NDArray[np.int64]] = [np.empty(0, np.int64)] * len(ids_N)

    def add(start: int, end: int, parent: int | None) -> int:
        offset = segments[-1].end if segments else 0
        segments.append(Segment(offset, offset + end - start, parent))
        return len(segments) - 1

    def grow(low: int, high: int, done: int, parent: int | None, path: NDArray[np.int64]) -> None:
        """Lay out rows order[low:high], whose first `done` tokens lie at `path` and end in segment `parent`."""
        if high - low == 1:
            n = order[low]
            if len(ids_N[n]) > done:
                segment = segments[add(done, len(ids_N[n]), parent)]
                path = np.concatenate([path, np.arange(segment.start, segment.end)])
            place_N[n] = path
            return
        depth = min(common[low : high - 1])
        if depth - done >= MIN_SHARED:
            parent = add(done, depth, parent)
            path, done = np.concatenate([path, np.arange(segments[parent].start, segments[parent].end)]), depth
        first = low
        for i in range(low, high):
            if i == high - 1 or common[i] - done < MIN_SHARED:
                grow(first, i + 1, done, parent, path)
                first = i + 1

    grow(0, len(order), 0, None, np.empty(0, np.int64))
    return segments, place_N


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    """Length of the common prefix."""
    length = min(len(a), len(b))
    different = np.flatnonzero(a[:length] != b[:length])
    return int(different[0]) if len(different) else length
