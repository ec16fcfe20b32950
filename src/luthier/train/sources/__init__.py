"""Where each step's examples come from."""
