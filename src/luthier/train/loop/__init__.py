"""The loop itself: steps, accumulation, losses, guards, checkpoints."""
