"""Reading a sequence at a time over transformers' own cache: for models whose tokens reach each other in other ways
than through plain attention (states that run on, sinks, caps on scores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from luthier.forward.forward import causal_lm
from luthier.models import caching, positions
from luthier.models.decode.step import PAGE, Run
from luthier.models.virtual import Virtual, virtual


class AloneReader:
    """A `Reader` whose pages only count: what a sequence needs lies in a cache of its own."""

    shares = False

    def __init__(self, module: Any) -> None:
        self._module, self._model = module, causal_lm(module)
        self._virtual: Virtual | None = virtual(module)
        self._device = next(module.parameters()).device
        self._keyword = caching.keyword(self._model)
        self._caches: dict[int, Any] = {}
        self.first = self._virtual.count if self._virtual else 0
        self.whole_prompts = positions.placed(self._model) or self._virtual is not None
        text = self._model.config.get_text_config()
        self.page_bytes = 2 * text.num_hidden_layers * PAGE * text.hidden_size * self._model.dtype.itemsize

    def grow(self, pages: int) -> None:
        """Caches grow by themselves."""

    def copy(self, source: int, target: int) -> None:
        """Raises ValueError: nothing is shared."""
        raise ValueError("sequences that are read alone share no pages")

    def release(self, pages: Sequence[int]) -> None:
        """A sequence has ended: so has its cache."""
        for page in pages[:1]:
            self._caches.pop(page, None)

    def rest(self) -> None:
        """A cache goes with its sequence."""

    def refresh(self) -> None:
        """The weights are read where they lie."""
        self._virtual = virtual(self._module)

    @torch.no_grad()
    def read(self, runs: Sequence[Run]) -> Tensor:
        """As `Reader.read`."""
        read = [self._one(run) for run in runs]
        wanted = [logits for logits, run in zip(read, runs, strict=True) if run.wanted]
        return torch.cat(wanted) if wanted else torch.empty(0)

    def _one(self, run: Run) -> Tensor:
        ids, start = list(run.ids), run.start
        if start == 0:
            cache: Any = DynamicCache(config=self._model.config)
            self._caches[run.pages[0]] = cache
            if self._virtual is not None:
                self._virtual.fill(cache, 1)
                ids, start = ids[self._virtual.count :], self._virtual.count
        position = torch.arange(start, start + len(ids), device=self._device)
        inputs: dict[str, Any] = {"input_ids": torch.tensor([ids], device=self._device), "use_cache": True}
        logits: Tensor = self._model(
            **inputs,
            position_ids=position[None],
            # as an index, not as a slice: of a slice, whose rows lie apart, torch multiplies each with its own copy
            logits_to_keep=torch.tensor([len(ids) - 1], device=self._device),
            **{self._keyword: self._caches[run.pages[0]]},
        ).logits[:, -1]
        return logits.float()
