"""Rows that the model under training writes: prompts drawn, answered, judged, and made rows with what they were worth."""
