"""A model with its tokenizer and what trains in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedTokenizerBase

from luthier.errors import LuthierError
from luthier.models.adapters import Adapter
from luthier.models.adapters.kit.attached import Attached, bare
from luthier.models.heads import REWARD, ScalarHead, parameter
from luthier.models.loading.digest import weights_digest
from luthier.models.quantizers import numbers
from luthier.recipe.schema import Model, Plugin


@dataclass
class Policy:
    """A loaded model. `module` is transformers' own class, or PEFT's around it when an adapter is attached."""

    module: Any
    tokenizer: PreTrainedTokenizerBase
    model: Model
    """As the recipe names it."""
    folder: Path
    """Where the base's weights, configuration and tokenizer lie."""
    reference: str
    """Where others find the same base: a hub id, or the folder."""
    device: torch.device
    dtype: torch.dtype
    """Type of the base's weights; added ones are fp32."""
    heads: dict[str, ScalarHead] = field(default_factory=dict)
    """Scalar heads by role (a reward model's, a critic's); they lie beside the module and are no part of it."""
    quantize: Plugin | None = None
    """How the base's matrices are held in few bits, if they are."""
    adapters: list[Adapter] = field(default_factory=list)
    """What is attached, in order."""
    adapt: list[Plugin] = field(default_factory=list)
    """The same, as a recipe names them."""
    ends: frozenset[int] = frozenset()
    """Tokens that end a turn, by the chat template: whole models are written so that they end generation."""
    started: dict[str, Tensor] = field(default_factory=dict)
    """PEFT's weights before training, where they were taken out of the base's."""

    @property
    def head(self) -> ScalarHead | None:
        """The head of a reward model."""
        return self.heads.get(REWARD)

    @property
    def base(self) -> str:
        """The base model's name."""
        return self.model.name

    @property
    def quantized(self) -> str | None:
        """In what the base's matrices are held ("nf4", "int8"), None as they were: with the adapter off the module is
        the base rounded to that, and so is the reference of preference training."""
        return None if self.quantize is None else self.quantize.name

    @cached_property
    def digest(self) -> str:
        """Identity of the base's weights on disk, by content."""
        return weights_digest(self.folder)

    @property
    def has_adapter(self) -> bool:
        """Does the module carry added weights that can be switched off?"""
        return any(adapter.kind != "base" for adapter in self.adapters)

    @property
    def rewrites_base(self) -> bool:
        """Were the base's own weights changed when the adapter was attached? Then switching off is not the base.

        A run that is opened has PEFT's adapters as plain LoRA on the base as it was.
        """
        return any(a.rewrites_base and (a.kind != "peft" or bool(self.started)) for a in self.adapters)

    @property
    def attached(self) -> Attached:
        """The module with its adapters."""
        return Attached(self.module, self.adapters)

    @property
    def bare(self) -> Any:
        """The transformers model inside `module`, with whatever is attached to its layers."""
        return bare(self.module)

    def trainable(self) -> list[tuple[str, Parameter]]:
        """Name and parameter of all that trains, each once, in the module's order, and last the heads ("head.weight" a
        reward model's)."""
        named = list(self.module.named_parameters())
        for role, head in self.heads.items():
            named.append((parameter(role), head.weight))
        return [(name, parameter) for name, parameter in named if parameter.requires_grad]

    def parameter_counts(self) -> tuple[int, int]:
        """How many numbers train, and how many there are (tied matrices once, added weights too)."""
        total = sum(numbers(parameter) for parameter in self.module.parameters())
        # a matrix of which some entries train (sara) is held as a buffer
        total += sum(matrix.numel() for name, matrix in self.module.named_buffers() if name.endswith(".weight"))
        total += sum(head.weight.numel() for head in self.heads.values())
        return sum(parameter.numel() for _, parameter in self.trainable()), total

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Inside the block the module is the base.

        Raises LuthierError when the base's own weights were trained, or rewritten as the adapter was attached.
        """
        if not self.has_adapter:
            raise LuthierError(
                "this model has no adapter to switch off: its own weights were trained",
                fix="load the base model instead",
            )
        if self.rewrites_base:
            name = next(p.name for p, adapter in zip(self.adapt, self.adapters, strict=True) if adapter.rewrites_base)
            raise LuthierError(
                f"`{name}` took its first weights out of the base's: switched off, it is not the base",
                fix="load the base model instead",
            )
        trainable = [parameter for _, parameter in self.trainable()]
        try:
            with self.attached.off():
                yield
        finally:  # PEFT (0.21.2, `disable_adapter`) lets its weights train on the way out, whether they did or not
            for parameter in self.module.parameters():
                parameter.requires_grad_(False)
            for parameter in trainable:
                parameter.requires_grad_(True)
