"""Reading through the model's own layers: transformers' forward over tokens of many sequences, attention over pages.

For the architectures that have no compiled step, on any device. Attention travels as the packed layout does. On CUDA,
steps of one token a row take `static.py`'s way.

Shape suffixes: T = tokens of the step, R = single tokens, C = tokens of a run, K = keys of a sequence (padded),
H = heads, G = key heads, D = head dimension, V = vocabulary.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from luthier.engines.local.pool import Pool
from luthier.engines.local.static import StaticSteps
from luthier.errors import LuthierError
from luthier.forward import packing
from luthier.forward.forward import causal_lm, why_not_packed
from luthier.models import positions
from luthier.models.blocks import attention
from luthier.models.decode.step import NO_ID, PAGE, Run, places
from luthier.models.virtual import Virtual, virtual


class PagedReader:
    """A `Reader` for models whose tokens reach each other through transformers' attention interface alone."""

    def __init__(self, module: Any) -> None:
        self._module, self._model = module, causal_lm(module)
        self._virtual: Virtual | None = virtual(module)
        self._device, self._dtype = next(module.parameters()).device, self._model.dtype
        self._pool = Pool()
        self.first = self._virtual.count if self._virtual else 0
        self._placed = positions.placed(self._model)
        self.shares = not self._placed  # a prefix of several prompts would have more than one place in them
        self.whole_prompts = self._placed or self._virtual is not None
        text = self._model.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        self.static: StaticSteps | None = None
        """What reads steps of single tokens on CUDA. `LUTHIER_GRAPHS=off` turns it off."""
        if self._device.type == "cuda" and not self._placed and os.environ.get("LUTHIER_GRAPHS") != "off":
            self.static = StaticSteps(module, self._model, self._pool)
        self.page_bytes = 2 * text.num_hidden_layers * PAGE * heads * size * self._model.dtype.itemsize

    @staticmethod
    def why_not(module: Any) -> str | None:
        """Why a model cannot be read so, or None where it can."""
        return why_not_packed(module) if virtual(module) is None else why_not_packed(causal_lm(module))

    def grow(self, pages: int) -> None:
        """Make room in the layers that were read before; others do when they are first read."""
        self._pool.grow(pages)

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        self._pool.copy(source, target)

    def release(self, pages: Sequence[int]) -> None:
        """Nothing is kept beside the pages."""

    def rest(self) -> None:
        """As `Reader.rest`."""
        self._pool.rest()

    def refresh(self) -> None:
        """The weights are read where they lie. Raises LuthierError where they are of another type or place by now."""
        now = next(self._module.parameters()).device, self._model.dtype
        if now != (self._device, self._dtype):
            raise LuthierError("the model was cast or moved since it was opened", fix="open it anew")
        self._virtual = virtual(self._module)
        if self.static is not None:
            self.static.refresh()

    @torch.no_grad()
    def read(self, runs: Sequence[Run]) -> Tensor:
        """As `Reader.read`."""
        if self.static is None or not self.static.serves(runs):
            return self._read(runs)
        if self.static.known(runs):
            return self.static.read(runs)
        return self.static.proved(runs, self._read)

    def _read(self, runs: Sequence[Run]) -> Tensor:
        if self._virtual is not None and self._virtual.in_cache:
            runs = [self._begun(run, self._virtual) for run in runs]
        ids_T, position_T, _ = (torch.from_numpy(x).to(self._device) for x in places(runs))
        inputs: dict[str, Any] = {"position_ids": position_T[None], "use_cache": False}
        if self._virtual is not None and not self._virtual.in_cache:
            inputs["inputs_embeds"] = self._embedded(ids_T, position_T)[None]
        else:
            inputs["input_ids"] = ids_T[None]
        call = inputs[attention.LAYOUT] = PagedCall(self._pool, runs, position_T)
        if self._placed:
            inputs[positions.KEYWORD] = _prompts(runs, self._device)
        with packing.paged(self._model):
            logits_TV = self._model(**inputs, logits_to_keep=call.wanted_W).logits[0]
        logits: Tensor = logits_TV[: call.wanted].float()
        return logits

    def _begun(self, run: Run, tokens: Virtual) -> Run:
        """The run without its virtual tokens, whose keys and values are put into its pages."""
        if run.start >= tokens.count:
            return run
        cache = tokens.keys_and_values()
        slots = _slots(run, self._device)[: tokens.count]
        for number, (key, value) in enumerate(cache):
            key_TGD, value_TGD = key[0].transpose(0, 1), value[0].transpose(0, 1)
            for pool, new in zip(self._pool.of(number, key_TGD, value_TGD), (key_TGD, value_TGD), strict=True):
                pool[slots] = new.to(pool.dtype)
        left = tokens.count - run.start
        return Run(run.ids[left:], tokens.count, run.pages, run.wanted, run.adapter, run.prompt)

    def _embedded(self, ids_T: Tensor, position_T: Tensor) -> Tensor:
        """Embeddings, those of virtual tokens from the adapter."""
        embedded: Tensor = self._model.get_input_embeddings()(ids_T.clamp(min=0))
        made = ids_T == NO_ID
        if self._virtual is not None and bool(made.any()):
            embedded[made] = self._virtual.embeddings()[position_T[made]].to(embedded.dtype)
        return embedded


class PagedCall:
    """Who attends to whom in one step: what travels to the layers in the packed layout's place."""

    def __init__(self, pool: Pool, runs: Sequence[Run], position_T: Tensor) -> None:
        self._pool, self._position_T = pool, position_T
        device = position_T.device
        ends, end = [], 0
        self._singles: list[tuple[int, Run]] = []
        self._longer: list[tuple[int, Run]] = []
        for run in runs:
            (self._singles if len(run.ids) == 1 else self._longer).append((end, run))
            end += len(run.ids)
            if run.wanted:
                ends.append(end - 1)
        self.wanted = len(ends)
        self.wanted_W = torch.tensor(ends or [0], device=device)
        slots = [_slots(run, device)[run.start : run.start + len(run.ids)] for run in runs]
        self._slot_T = torch.cat(slots)
        self._single_R = torch.tensor([place for place, _ in self._singles], dtype=torch.long, device=device)
        longest = max((run.start + 1 for _, run in self._singles), default=0)
        key_RK = torch.zeros(len(self._singles), longest, dtype=torch.long, device=device)
        for number, (_, run) in enumerate(self._singles):
            own = _slots(run, device)
            key_RK[number] = own[0]  # filled up by its own: another's may be no number, which a mask does not hide
            key_RK[number, : run.start + 1] = own[: run.start + 1]
        self._key_RK = key_RK

    def attend(
        self, module: Any, qkv: tuple[Tensor, Tensor, Tensor], scale: float | None, window: int | None
    ) -> Tensor:
        """Write the step's keys and values to their pages, and attend: (1, H, T, D) each in, (1, T, H, D) out."""
        query_HTD, key_TGD, value_TGD = qkv[0][0], qkv[1][0].transpose(0, 1), qkv[2][0].transpose(0, 1)
        keys, values = self._pool.of(module.layer_idx, key_TGD, value_TGD)
        keys[self._slot_T], values[self._slot_T] = key_TGD, value_TGD
        out_THD = query_HTD.new_empty(query_HTD.shape[1], query_HTD.shape[0], value_TGD.shape[-1])
        grouped = query_HTD.shape[0] != key_TGD.shape[1]

        def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            attention = torch.nn.functional.scaled_dot_product_attention
            return attention(q, k, v, mask, scale=scale, enable_gqa=grouped)

        if self._singles:
            position_R1 = self._position_T[self._single_R][:, None]
            mask_RK = _seen(position_R1, self._key_RK.shape[1], window)
            q = query_HTD[:, self._single_R].permute(1, 0, 2)[:, :, None]
            k, v = (pool[self._key_RK].transpose(1, 2) for pool in (keys, values))
            out_THD[self._single_R] = attend(q, k, v, mask_RK[:, None, None])[:, :, 0]
        for place, run in self._longer:
            count, total = len(run.ids), run.start + len(run.ids)
            slots = _slots(run, keys.device)[:total]
            mask_CK = _seen(self._position_T[place : place + count, None], total, window)
            q = query_HTD[None, :, place : place + count]
            k, v = (pool[slots].transpose(0, 1)[None] for pool in (keys, values))
            out_THD[place : place + count] = attend(q, k, v, mask_CK[None, None])[0].transpose(0, 1)
        return out_THD[None]


def _slots(run: Run, device: Any) -> Tensor:
    """Places of a sequence's keys in the pool."""
    page_P = torch.tensor(list(run.pages), dtype=torch.long, device=device)
    return (page_P[:, None] * PAGE + torch.arange(PAGE, device=device)).flatten()


def _seen(position: Tensor, keys: int, window: int | None) -> Tensor:
    """Which keys a token at a place sees, (…, 1) -> (…, K)."""
    key_K = torch.arange(keys, device=position.device)
    seen = key_K <= position
    return seen & (key_K > position - window) if window else seen


def _prompts(runs: Sequence[Run], device: Any) -> positions.Prompts:
    """Where prompts lie in the step."""
    spans, place = [], 0
    for run in runs:
        if run.start < run.prompt:
            spans.append((place, place + min(len(run.ids), run.prompt - run.start)))
        place += len(run.ids)
    return positions.Prompts.spans(place, spans, device)
