"""Learning from judged responses that the model drew itself: policy gradients, with a critic or without."""
