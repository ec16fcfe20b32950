"""One forward pass for training, scoring, reward models and rollouts."""
