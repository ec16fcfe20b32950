"""Virtual tokens as a model reads them: PEFT makes them, here they are put before rows of real ones.

Shape suffixes: B = rows, T = tokens of a row, P = virtual tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from luthier.models import caching

KEYS = {"PREFIX_TUNING", "CARTRIDGE"}
"""Tuners whose virtual tokens are keys and values in every layer; those of all others are embeddings."""


class Virtual:
    """The virtual tokens of a PEFT model whose adapter is on."""

    def __init__(self, module: Any) -> None:
        self._module, self._config = module, module.active_peft_config
        self.model = module.get_base_model()
        """What reads them."""
        self.count: int = self._config.num_virtual_tokens
        self.in_cache = str(getattr(self._config.peft_type, "value", self._config.peft_type)) in KEYS
        """Are they keys and values in every layer, and not embeddings?"""

    @property
    def places(self) -> int:
        """How many places of a forward pass's output belong to them."""
        return 0 if self.in_cache else self.count

    def before(self, ids_BT: Tensor, mask_BT: Tensor | None) -> dict[str, Any]:
        """The model's inputs for rows padded on the right, virtual tokens before each."""
        rows, length = ids_BT.shape
        device = ids_BT.device
        inputs: dict[str, Any] = {"use_cache": False}
        if mask_BT is not None:
            inputs["attention_mask"] = torch.cat([mask_BT.new_ones(rows, self.count), mask_BT], 1)
        if self.in_cache:
            inputs |= {"input_ids": ids_BT, caching.keyword(self.model): self._module.get_prompt(rows)}
            positions = torch.arange(self.count, self.count + length, device=device)
        else:
            embedded = self.model.get_input_embeddings()(ids_BT)
            prompts = self._module.get_prompt(rows).to(embedded.dtype)
            inputs["inputs_embeds"] = torch.cat([prompts, embedded], 1)
            positions = torch.arange(self.count + length, device=device)
        return {**inputs, "position_ids": positions.expand(rows, -1)}

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """Those of each layer, for one row: 1, H, P, D."""
        return [(layer.keys, layer.values) for layer in self._module.get_prompt(1).layers]

    def embeddings(self) -> Tensor:
        """P, D."""
        prompts: Tensor = self._module.get_prompt(1)[0]
        return prompts

    def fill(self, cache: Any, rows: int) -> None:
        """Let an empty cache begin with them."""
        prompts = self._module.get_prompt(rows)
        if not self.in_cache:
            like = self.model.get_input_embeddings().weight
            self.model(inputs_embeds=prompts.to(like.dtype), use_cache=True, **{caching.keyword(self.model): cache})
            return
        for number, layer in enumerate(prompts.layers):
            cache.update(layer.keys, layer.values, number)


def virtual(module: Any) -> Virtual | None:
    """The virtual tokens that stand before a module's rows now, or None."""
    from peft import PeftModel

    # for virtual tokens PEFT has no public way to ask whether its adapter is switched off
    on = (
        isinstance(module, PeftModel) and module.active_peft_config.is_prompt_learning and not module._adapters_disabled
    )
    return Virtual(module) if on else None
