"""One batch of sequences that grow token by token over a shared key-value cache.

The cache of a batch is laid out as [common prefix | room | rest of the prompt | new tokens]: what all prompts begin
with is read once, and prompts of unlike length end together, so that the last place is every row's. Room is masked.

Shape suffixes: B = rows, L = tokens of the longest rest, V = vocabulary, H = key heads, K = cached tokens,
D = head dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

from luthier.models import caching
from luthier.models.adapters.kit.attached import bare
from luthier.models.positions import placed
from luthier.models.virtual import virtual

SHORTEST_PREFIX = 4
"""A shorter common prefix is not worth a forward pass of its own."""
NO_ID = -1
PADDING = 1.1
"""Prompts are read together while padding adds at most a tenth to their tokens."""


@dataclass(frozen=True)
class Places:
    """Where the rows of a part go in the whole: row `rows[i]` at `places[i]`, that of a repeated prompt at several."""

    rows: list[int]
    places: list[int]

    @classmethod
    def of(cls, numbers: Sequence[int], where: Sequence[Sequence[int]]) -> Places:
        """The part that holds the distinct prompts `numbers`, each of which stands at the places `where[number]`."""
        pairs = [(row, place) for row, number in enumerate(numbers) for place in where[number]]
        return cls([row for row, _ in pairs], [place for _, place in pairs])

    @property
    def each_once(self) -> bool:
        """Does every row stand at one place?"""
        return self.rows == list(range(len(self.rows)))


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """A cache layer that takes memory in steps of `ROOM` tokens, where DynamicLayer copies itself for every token."""

    ROOM = 128

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        super().lazy_initialization(key_states, value_states)
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append [B, H, new, D]; returns all keys and values so far, [B, H, K, D]."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._room = self._wider(key_states, self.keys, end), self._wider(value_states, self.values, end)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, start:end] = new
        self.keys, self.values = self._room[0][:, :, :end], self._room[1][:, :, :end]
        return self.keys, self.values

    def _wider(self, like: Tensor, old: Any, end: int) -> Tensor:
        batch, heads, _, dimension = like.shape
        room = like.new_empty(batch, heads, end + self.ROOM, dimension)
        if old.numel():
            room[:, :, : old.shape[-2]] = old
        return room

    def reorder_cache(self, beam_idx: Any) -> None:
        """Keep these rows, in this order."""
        super().reorder_cache(beam_idx)
        self._room = None

    def begin(self, prefix: RoomyLayer, rows: int) -> None:
        """Stand at the end of a prefix that `rows` rows have in common."""
        keys, values = prefix.stored()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)

    def gather(self, parts: Sequence[tuple[RoomyLayer, Places]], prefix: int, length: int) -> None:
        """Take the rows of other caches, each at its places in this one; room (zeros) comes after the prefix."""
        like, _ = parts[0][0].stored()
        self.lazy_initialization(like, like)
        rows = sum(len(taken.places) for _, taken in parts)
        shape = (rows, like.shape[1], length, like.shape[3])
        self.keys, self.values = keys, values = like.new_zeros(shape), like.new_zeros(shape)
        for part, taken in parts:
            for whole, piece in zip((keys, values), part.stored(), strict=True):
                rest = piece.shape[-2] - prefix
                piece = piece if taken.each_once else piece[taken.rows]
                whole[taken.places, :, :prefix] = piece[:, :, :prefix]
                whole[taken.places, :, length - rest :] = piece[:, :, prefix:]

    def stored(self) -> tuple[Tensor, Tensor]:
        """All keys and values so far, [B, H, K, D]."""
        assert self.keys is not None and self.values is not None
        return self.keys, self.values


class Decoding:
    """A batch under way: `start` and `step` give the next logits, `keep` drops the rows that have ended."""

    def __init__(self, module: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self._virtual = virtual(module)
        self._module, self._device = self._virtual.model if self._virtual else module, device
        # virtual tokens are in the cache before a real one is read; no id stands for them
        self._first = self._virtual.count if self._virtual else 0
        self._prompts = [[NO_ID] * self._first + list(prompt) for prompt in prompts]
        self._length_B = torch.tensor([len(prompt) for prompt in self._prompts])
        self._keyword = caching.keyword(bare(self._module))
        self._cache: Any = self._empty()
        self._mask_BK = torch.zeros(0, 0, dtype=torch.long)

    def start(self) -> Tensor:
        """Read the prompts. Returns the logits of the first new token, [B, V]."""
        roomy = all(type(layer) is RoomyLayer for layer in self._cache.layers)
        if len(self._prompts) == 1 or not roomy or placed(self._module):
            # A sliding window counts places, not tokens: room between prefix and rest would shorten it. And where
            # tokens are treated by their place in the prompt, a prefix of several prompts has more than one.
            self._begin(self._cache, len(self._prompts))
            logits_BV, self._mask_BK = self._read(self._cache, self._prompts, self._first)
            return logits_BV
        first, prefix = self._first, max(_common(self._prompts), self._first)
        begun = self._empty()
        self._begin(begun, 1)
        if prefix > first:
            ids, position = torch.tensor([self._prompts[0][first:prefix]]), torch.arange(first, prefix)[None]
            self._forward(begun, ids, position, None)
        parts = []
        distinct, where = _distinct(self._prompts)
        for numbers in self._alike(distinct, prefix):
            cache = self._empty()
            if prefix:
                for layer, shared in zip(cache.layers, begun.layers, strict=True):
                    layer.begin(shared, len(numbers))
            taken = Places.of(numbers, where)
            parts.append((taken, cache, *self._read(cache, [distinct[number] for number in numbers], prefix)))
        return self._join(parts, prefix)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row. Returns the logits of the next one, [B, V]."""
        position_B1 = self._length_B[:, None]
        self._length_B = self._length_B + 1
        self._mask_BK = torch.cat([self._mask_BK, self._mask_BK.new_ones(len(tokens), 1)], -1)
        return self._forward(self._cache, torch.tensor(tokens)[:, None], position_B1, self._mask_BK)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        self._cache.reorder_cache(torch.tensor(rows, device=self._device))
        self._length_B, self._mask_BK = self._length_B[rows], self._mask_BK[rows]

    def _begin(self, cache: Any, rows: int) -> None:
        if self._virtual:
            self._virtual.fill(cache, rows)

    def _empty(self) -> Any:
        cache: Any = DynamicCache(config=self._module.config)
        roomy: Any = RoomyLayer
        cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        return cache

    def _alike(self, prompts: Sequence[list[int]], prefix: int) -> Iterator[list[int]]:
        """Numbers of the prompts whose rests are read together: of like length, the longest first."""
        waiting = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        while waiting:
            longest, real, count = len(prompts[waiting[0]]) - prefix, 0, 0
            for number in waiting:
                real += len(prompts[number]) - prefix
                if longest * (count + 1) > PADDING * real:
                    break
                count += 1
            yield waiting[:count]
            waiting = waiting[count:]

    def _read(self, cache: Any, prompts: Sequence[list[int]], prefix: int) -> tuple[Tensor, Tensor]:
        """Read what follows the prefix. Returns the last logits, [B, V], and the mask of the cache, [B, K]."""
        longest = max(len(prompt) for prompt in prompts) - prefix
        ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
        mask_BK = torch.ones(len(prompts), prefix + longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            room = longest - (len(prompt) - prefix)
            ids_BL[row, room:] = torch.tensor(prompt[prefix:])
            mask_BK[row, prefix : prefix + room] = 0
        position_BL = (mask_BK.cumsum(-1) - 1).clamp(min=0)[:, prefix:]
        return self._forward(cache, ids_BL, position_BL, mask_BK), mask_BK

    def _join(self, parts: Sequence[tuple[Places, Any, Tensor, Tensor]], prefix: int) -> Tensor:
        """One batch of all that was read, in the order of the prompts."""
        length = max(mask_BK.shape[-1] for _, _, _, mask_BK in parts)
        for number, layer in enumerate(self._cache.layers):
            layer.gather([(cache.layers[number], taken) for taken, cache, _, _ in parts], prefix, length)
            for _, cache, _, _ in parts:
                cache.layers[number] = None  # copied: its memory goes back at once
        self._mask_BK = torch.zeros(len(self._prompts), length, dtype=torch.long)
        logits_BV = parts[0][2].new_empty(len(self._prompts), parts[0][2].shape[-1])
        for taken, _, part_BV, mask_BK in parts:
            self._mask_BK[taken.places, :prefix] = 1
            self._mask_BK[taken.places, length - mask_BK.shape[-1] + prefix :] = mask_BK[taken.rows, prefix:]
            logits_BV[taken.places] = part_BV[taken.rows]
        return logits_BV

    def _forward(self, cache: Any, ids: Tensor, position: Tensor, mask_BK: Tensor | None) -> Tensor:
        # Without padding there is nothing to mask, and attention takes its faster way.
        padded = mask_BK is not None and not bool(mask_BK.all())
        out = self._module(
            input_ids=ids.to(self._device),
            attention_mask=mask_BK.to(self._device) if padded and mask_BK is not None else None,
            position_ids=position.expand(len(ids), -1).to(self._device),
            use_cache=True,
            # The last place as an index, not as a slice: of a slice, whose rows lie apart, torch multiplies each row
            # with its own copy of the output head.
            logits_to_keep=torch.tensor([ids.shape[1] - 1], device=self._device),
            **{self._keyword: cache},
        )
        logits: Tensor = out.logits[:, -1]
        return logits


def _distinct(prompts: Sequence[list[int]]) -> tuple[list[list[int]], list[list[int]]]:
    """Each prompt once, and the places where it stands: a prompt with several answers to draw is read once."""
    where: dict[tuple[int, ...], list[int]] = {}
    for place, prompt in enumerate(prompts):
        where.setdefault(tuple(prompt), []).append(place)
    return [list(prompt) for prompt in where], list(where.values())


def _common(prompts: Sequence[list[int]]) -> int:
    """Length of the prefix that all prompts have in common, at least one token short of the shortest."""
    least, most = min(prompts), max(prompts)  # what these two share in order of tokens, all others share
    limit = min(len(prompt) for prompt in prompts) - 1
    length = next((place for place in range(limit) if least[place] != most[place]), limit)
    return length if length >= SHORTEST_PREFIX else 0
