"""What a model can read: how long a sequence (what its configuration says, less the virtual tokens before each row),
and how many tokens it has embeddings for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from luthier.models import adapters
from luthier.models.loading.fetching import fetch
from luthier.models.virtual import virtual
from luthier.recipe import Model, Plugin

KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""What model configurations call the longest sequence they were made for."""


def context_length(config: Any) -> int | None:
    """The longest sequence a model's configuration was made for; None if it does not say."""
    text = config.get_text_config()
    for key in KEYS:
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def max_context(module: Any) -> int | None:
    """The tokens of the longest row that a loaded model can read; None if its configuration does not say.

    Beyond it learned positions have no entry, and rotary ones were never trained.
    """
    length, before = context_length(module.config), virtual(module)
    return length - before.count if length is not None and before is not None else length


def expected_max_context(model: Model, adapt: Sequence[Plugin]) -> tuple[int | None, int]:
    """`max_context` of the model that a recipe asks for, before its weights are loaded (it is fetched); and the virtual
    tokens that take of it."""
    length = context_length(_config(model))
    before = sum(adapter.virtual_tokens for adapter in adapters.build(adapt))
    return None if length is None else length - before, before


def embeddings(module: Any) -> int:
    """How many tokens a loaded model has embeddings for."""
    return int(module.get_input_embeddings().weight.shape[0])


def expected_embeddings(model: Model) -> int | None:
    """`embeddings` of the model that a recipe asks for, before its weights are loaded; None if it does not say."""
    rows = getattr(_config(model).get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) and rows > 0 else None


def _config(model: Model) -> Any:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(
        fetch(model).folder, trust_remote_code=model.trust_remote_code, local_files_only=True
    )
