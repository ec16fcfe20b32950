"""Tasks small enough to be learnt from scratch on a CPU, on which methods of reinforcement learning differ."""
