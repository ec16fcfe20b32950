"""From Examples to token ids and what of them trains."""
