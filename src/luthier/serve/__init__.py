"""Serve a model: talk to it in the terminal. Light to import: torch comes on first use."""

from __future__ import annotations

from luthier.serve.chat import Chat, Elsewhere, Streaming, chat, scores_only

__all__ = ["Chat", "Elsewhere", "Streaming", "chat", "scores_only"]
