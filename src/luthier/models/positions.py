"""Where each row's prompt lies in the tokens of a forward pass, for adapters that treat tokens by their place in it.

`Prompts` travels as a keyword of the model's forward, as the packed layout does: so the layers have it again when
gradient checkpointing makes their activations a second time. Who lays rows out knows where the prompts end and hands
the keyword over; where nobody does, a whole row is its prompt, and what follows a cache of keys and values (the tokens
being generated) is not.

Shape suffixes: T = tokens of the pass, all rows one after the other (padding counted), B = rows, L = tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models import caching

KEYWORD = "prompts"
"""The keyword under which `Prompts` is handed to the model."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """For each token how many prompt tokens of its row lie before it and after it; -1 outside a prompt."""

    before_T: Tensor
    after_T: Tensor

    @classmethod
    def spans(cls, tokens: int, spans: Iterable[tuple[int, int]], device: Any) -> Prompts:
        """Prompts that lie at [start, end) of the pass."""
        before_T = torch.full((tokens,), -1)
        after_T = torch.full((tokens,), -1)
        for start, end in spans:
            before_T[start:end] = torch.arange(end - start)
            after_T[start:end] = torch.arange(end - start).flip(0)
        return cls(before_T.to(device), after_T.to(device))

    @classmethod
    def whole(cls, mask_BL: Tensor) -> Prompts:
        """Every row is a prompt, without its padding (where the mask is 0), on whichever side that lies."""
        mask_BL = (mask_BL > 0).long()
        before_BL = mask_BL.cumsum(-1) - 1
        after_BL = mask_BL.sum(-1, keepdim=True) - 1 - before_BL
        outside = mask_BL == 0
        return cls(before_BL.masked_fill(outside, -1).flatten(), after_BL.masked_fill(outside, -1).flatten())

    def ends(self, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Places of the first and of the last tokens of each prompt; one that is both counts as one of the first."""
        head_T = (self.before_T >= 0) & (self.before_T < first)
        tail_T = (self.after_T >= 0) & (self.after_T < last) & ~head_T
        return head_T.nonzero().squeeze(1), tail_T.nonzero().squeeze(1)


class Placed(nn.Module):
    """Base of the modules that ask where prompts lie: whoever runs the model finds them by this."""


def placed(module: nn.Module) -> bool:
    """Does anything in the model treat tokens by their place in the prompt?

    Then rows share no prefix, whose tokens would have one place for all of them, and prompts are read whole.
    """
    return any(isinstance(part, Placed) for part in module.modules())


def supply(backbone: nn.Module) -> Any:
    """See to it that the layers of a backbone find the keyword whenever it is called; returns the hook's handle."""

    def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, kwargs if KEYWORD in kwargs else {**kwargs, KEYWORD: _assumed(args, kwargs)}

    return backbone.register_forward_pre_hook(hook, with_kwargs=True)


def _assumed(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Prompts:
    """What is a prompt when nobody says: whole rows, unless they go on from a cache."""
    given: Any = kwargs.get("input_ids", args[0] if args else None)
    if given is None:
        given = kwargs["inputs_embeds"]
    mask_BL: Any = kwargs.get("attention_mask")
    cache = caching.given(kwargs)
    if cache is not None and cache.get_seq_length():
        mask_BL = torch.zeros(given.shape[:2], device=given.device)
    elif not isinstance(mask_BL, Tensor) or mask_BL.shape != given.shape[:2]:
        mask_BL = torch.ones(given.shape[:2], device=given.device)
    return Prompts.whole(mask_BL)
