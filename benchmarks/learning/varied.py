"""The reward of the on-policy contest: how varied an answer is. Every tool calls this very function, from this file."""

from __future__ import annotations


def varied(response: str) -> float:
    """The share of an answer's words that were not said before."""
    words = response.lower().split()
    return len(set(words)) / len(words) if words else 0.0
