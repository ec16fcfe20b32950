"""The engine inside this process: continuous batching over pages of keys and values, with the weights that train."""

from __future__ import annotations

from luthier.engines.local.engine import LocalEngine

__all__ = ["LocalEngine"]
