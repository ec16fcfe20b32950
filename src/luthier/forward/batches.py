"""Micro-batches: rows laid end to end without padding, prefixes that rows have in common laid out once.

A packed micro-batch is a set of token runs, each of which may continue another one ("segments"). A segment's tokens see
their own segment causally and the whole of its ancestors, nothing else, so a row is the path from a first segment to a
last one. Rows without a common prefix are segments without parents.

Shape suffixes: T = tokens of the micro-batch, S = scored tokens, N = rows (one for each response), P = pairs,
K = ends of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier import columns
from luthier.forward import filling
from luthier.forward.segments import segments
from luthier.models.blocks.attention import Segment
from luthier.types import Encoded

Layout = Literal["packed", "padded"]
ROUND, ROUND_FROM = 32, 256
"""Packed micro-batches of at least 256 tokens are filled up to a multiple of 32 with a segment that nobody scores: CPU
matrix products are compiled, and their code kept, for each size they meet."""


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
    examples: tuple[Encoded, ...]
    """What it holds."""
    chosen: tuple[int, ...]
    """Which of the examples that were laid out together these are."""
    layout: Layout
    shape: tuple[int, int]
    segments: tuple[Segment, ...]
    whole_tokens: int
    """Tokens of all rows, shared ones counted once per row."""
    last_N: Tensor
    """Where each row's last token lies."""
    group_N: Tensor
    """Which example of the micro-batch the row answers."""
    best_N: Tensor
    """Is the row worth imitating? The better one of some pair of its example; else what is not labelled bad."""
    better_P: Tensor
    worse_P: Tensor
    """Rows of each pair: every two responses to one prompt whose rewards differ."""
    step_K: Tensor
    """Where each judged step's last token lies."""
    step_row_K: Tensor
    places: tuple[NDArray[np.int64], ...] = ()
    """Where each row's tokens lie."""
    columns: Mapping[str, Tensor] | None = None
    """What else is known (`luthier.columns`), one value a scored token, row or step by the column's level; an example's
    value stands at each of its rows. None: nothing of any row."""
    filler: int = 0
    """Tokens of the last segment if it only rounds the size up."""

    @property
    def tokens(self) -> int:
        """Tokens computed, without padding and filler."""
        return sum(segment.end - segment.start for segment in self.segments) - self.filler

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        moved: dict[str, Any] = {
            name: t.to(device, non_blocking=True) for name, t in values.items() if isinstance(t, Tensor)
        }
        if self.columns is not None:
            moved["columns"] = {name: t.to(device, non_blocking=True) for name, t in self.columns.items()}
        return replace(self, **moved)


def micro_batches(
    examples: Sequence[Encoded], budget_tokens: int, *, share_prefix: bool = True, layout: Layout = "packed"
) -> list[Batch]:
    """Split examples into micro-batches of at most `budget_tokens` computed tokens (padding counted), heaviest first.

    An example is never split; one that is larger than the budget has a micro-batch of its own.
    """
    if layout == "padded":
        return [_padded([examples[i] for i in each], each) for each in filling.padded(examples, budget_tokens)]
    found, waiting = [], filling.packed(examples, budget_tokens, share=share_prefix)
    while waiting:
        each = waiting.pop(0)
        batch = _packed([examples[i] for i in each], each, share_prefix)
        if batch.tokens > budget_tokens and len(each) > 1:
            # runs too short for a segment of their own are computed again: what is too much by them goes elsewhere
            waiting[:0] = [each[:-1], each[-1:]]
        else:
            found.append(batch)
    return found


def _packed(examples: Sequence[Encoded], chosen: Sequence[int], share_prefix: bool) -> Batch:
    ids_N = [ids for example in examples for ids in example.ids]
    found, place_N = segments([ids for example in examples for ids in example.identity_ids], share_prefix)
    filler = -found[-1].end % ROUND if found[-1].end >= ROUND_FROM else 0
    if filler:
        found.append(Segment(found[-1].end, found[-1].end + filler, None))
    total = found[-1].end
    ids_T, position_T = np.zeros(total, np.int64), np.arange(-total, 0) + filler
    for ids, place in zip(ids_N, place_N, strict=True):
        ids_T[place] = ids
        position_T[place] = np.arange(len(ids))
    tokens = _Tokens(ids_T, position_T, place_N, "packed", (1, total), found)
    return replace(_batch(examples, chosen, tokens), filler=filler)


def _padded(examples: Sequence[Encoded], chosen: Sequence[int]) -> Batch:
    ids_N = [ids for example in examples for ids in example.ids]
    longest = max(len(ids) for ids in ids_N)
    ids_T = np.zeros((len(ids_N), longest), np.int64)
    position_T = np.tile(np.arange(longest), (len(ids_N), 1))
    for n, ids in enumerate(ids_N):
        ids_T[n, : len(ids)] = ids
    place_N = [np.arange(n * longest, n * longest + len(ids)) for n, ids in enumerate(ids_N)]
    found = [Segment(int(place[0]), int(place[-1]) + 1, None) for place in place_N]
    shape = (len(ids_N), longest)
    return _batch(examples, chosen, _Tokens(ids_T.reshape(-1), position_T.reshape(-1), place_N, "padded", shape, found))


@dataclass(frozen=True)
class _Tokens:
    """Rows laid out."""

    ids_T: NDArray[np.int64]
    position_T: NDArray[np.int64]
    place_N: Sequence[NDArray[np.int64]]
    layout: Layout
    shape: tuple[int, int]
    segments: Sequence[Segment]


def _batch(examples: Sequence[Encoded], chosen: Sequence[int], tokens: _Tokens) -> Batch:
    ids_N = [ids for example in examples for ids in example.ids]
    weights_N = [weights for example in examples for weights in example.weights]
    scored_N = [np.flatnonzero(weights[1:]) + 1 for weights in weights_N]
    hidden = [place[scored - 1] for place, scored in zip(tokens.place_N, scored_N, strict=True)]
    target = [ids[scored] for ids, scored in zip(ids_N, scored_N, strict=True)]
    weight = [weights[scored] for weights, scored in zip(weights_N, scored_N, strict=True)]
    counts = [len(example.ids) for example in examples]
    better_P, worse_P, best_N = _compared(examples)
    ends_N = [ends for example in examples for ends in example.column("step_end")]
    step_K = [place[ends] for place, ends in zip(tokens.place_N, ends_N, strict=True)]
    return Batch(
        ids_T=torch.from_numpy(tokens.ids_T),
        position_T=torch.from_numpy(tokens.position_T),
        hidden_S=torch.from_numpy(np.concatenate(hidden)),
        target_S=torch.from_numpy(np.concatenate(target).astype(np.int64)),
        weight_S=torch.from_numpy(np.concatenate(weight).astype(np.float32)),
        row_S=torch.from_numpy(np.repeat(np.arange(len(ids_N)), [len(scored) for scored in scored_N])),
        num_rows=len(ids_N),
        examples=tuple(examples),
        chosen=tuple(chosen),
        layout=tokens.layout,
        shape=tokens.shape,
        segments=tuple(tokens.segments),
        whole_tokens=sum(len(ids) for ids in ids_N),
        last_N=torch.from_numpy(np.array([place[-1] for place in tokens.place_N])),
        group_N=torch.from_numpy(np.repeat(np.arange(len(examples)), counts)),
        best_N=best_N,
        better_P=better_P,
        worse_P=worse_P,
        step_K=torch.from_numpy(np.concatenate(step_K)),
        step_row_K=torch.from_numpy(np.repeat(np.arange(len(ids_N)), [len(ends) for ends in ends_N])),
        places=tuple(tokens.place_N),
        columns=_columns(examples, scored_N),
    )


def _columns(examples: Sequence[Encoded], scored_N: Sequence[NDArray[np.int64]]) -> dict[str, Tensor] | None:
    """Each column of which some row knows something: S, N or K; an example's value at each of its rows."""
    found: dict[str, Tensor] = {}
    for name in dict.fromkeys(name for example in examples for name in example.columns):
        column = columns.of(name)
        values = [example.column(name) for example in examples]
        if column.level == "token":
            rows = [one for each in values for one in each]
            parts = [np.asarray(one)[scored] for one, scored in zip(rows, scored_N, strict=True)]
        elif column.level == "step":
            parts = [np.asarray(one) for each in values for one in each]
        elif column.level == "response":
            parts = [np.asarray(each) for each in values]
        else:
            parts = [np.full(len(example.ids), each) for example, each in zip(examples, values, strict=True)]
        found[name] = torch.from_numpy(np.concatenate(parts).astype(column.dtype))
    return found or None


def _compared(examples: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the better and the worse response of each pair, and which rows are worth imitating.

    An example by itself decides that, not what lies beside it in a micro-batch.
    """
    pairs: list[tuple[int, int]] = []
    best: list[bool] = []
    for example in examples:
        first, count = len(best), len(example.ids)
        own = example.column("reward")
        inside = [(i, j) for i in range(count) for j in range(count) if own[i] > own[j]]
        pairs += [(first + i, first + j) for i, j in inside]
        better = {i for i, _ in inside}
        best += [i in better if inside else not own[i] <= 0.5 for i in range(count)]
    pairs_P2 = torch.tensor(pairs, dtype=torch.long).view(-1, 2)
    return pairs_P2[:, 0].contiguous(), pairs_P2[:, 1].contiguous(), torch.tensor(best, dtype=torch.bool)
