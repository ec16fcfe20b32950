"""Rows that the model under training writes: prompts drawn, answered, judged, and what the answers were worth."""
