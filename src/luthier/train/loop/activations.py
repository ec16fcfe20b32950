"""Gradient checkpointing (arXiv:1604.06174): keep one activation per layer, make the rest again when going back."""

from __future__ import annotations

from typing import Any

REMADE = {"use_reentrant": False}


def remake(model: Any) -> None:
    """Turn gradient checkpointing on in a transformers model."""
    if hasattr(model, "activation_checkpointing_enable"):  # its name in newer versions
        model.activation_checkpointing_enable(activation_checkpointing_kwargs=REMADE)
    else:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=REMADE)
    # transformers now makes the embeddings ask for gradients; only the reentrant kind needs that, and with a frozen
    # backbone it would send the backward pass below the lowest layer that trains
    model.disable_input_require_grads()


def keep(model: Any) -> None:
    """Turn it off again."""
    if hasattr(model, "activation_checkpointing_disable"):
        model.activation_checkpointing_disable()
    else:
        model.gradient_checkpointing_disable()
