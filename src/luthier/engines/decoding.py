"""One batch of sequences that grow token by token over a shared key-value cache.

Shape suffixes: B = rows, L = tokens of the longest prompt, V = vocabulary, H = key heads, K = cached tokens,
D = head dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer


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


class Decoding:
    """A batch under way: `step` gives the next logits, `keep` drops the rows that have ended."""

    def __init__(self, module: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        self._module, self._device = module, device
        self._cache: Any = DynamicCache(config=module.config)
        roomy: Any = RoomyLayer
        self._cache.layers = [roomy() if type(layer) is DynamicLayer else layer for layer in self._cache.layers]
        longest = max(len(prompt) for prompt in prompts)
        self._length_B = torch.tensor([len(prompt) for prompt in prompts])
        # Prompts end together, so that the last position is every row's; the room before a short one is masked.
        self._ids_BL = torch.zeros(len(prompts), longest, dtype=torch.long)
        self._mask_BL = torch.zeros_like(self._ids_BL)
        for row, prompt in enumerate(prompts):
            self._ids_BL[row, longest - len(prompt) :] = torch.tensor(list(prompt))
            self._mask_BL[row, longest - len(prompt) :] = 1

    def start(self) -> Tensor:
        """Read the prompts. Returns the logits of the first new token, [B, V]."""
        position_BL = (self._mask_BL.cumsum(-1) - 1).clamp(min=0)
        return self._forward(self._ids_BL, position_BL)

    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row. Returns the logits of the next one, [B, V]."""
        position_B1 = self._length_B[:, None]
        self._length_B = self._length_B + 1
        self._mask_BL = torch.cat([self._mask_BL, self._mask_BL.new_ones(len(tokens), 1)], -1)
        return self._forward(torch.tensor(tokens)[:, None], position_B1)

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only."""
        place = torch.tensor(rows, device=self._device)
        self._cache.reorder_cache(place)
        self._length_B, self._mask_BL = self._length_B[rows], self._mask_BL[rows]

    def _forward(self, ids: Tensor, position: Tensor) -> Tensor:
        # Without padding there is nothing to mask, and attention takes its faster way.
        padded = not bool(self._mask_BL.all())
        out = self._module(
            input_ids=ids.to(self._device),
            attention_mask=self._mask_BL.to(self._device) if padded else None,
            position_ids=position.to(self._device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = out.logits[:, -1]
        return logits
