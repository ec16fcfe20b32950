"""The keyword under which a model takes its cache of keys and values: transformers renamed it in 5.24.

Both names are known, because the range of versions that Luthier supports has both, and so have models that bring their
own code.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

NEW, OLD = "cache", "past_key_values"


def keyword(module: nn.Module) -> str:
    """How a model wants it called."""
    return NEW if NEW in inspect.signature(module.forward).parameters else OLD


def given(kwargs: Mapping[str, Any]) -> Any:
    """The cache among a forward pass's keywords, or None."""
    return kwargs.get(NEW) if kwargs.get(NEW) is not None else kwargs.get(OLD)
