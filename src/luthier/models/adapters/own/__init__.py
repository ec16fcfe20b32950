"""Adapters of ours beside the base's weights."""
