"""A model's own parts computed faster: packed attention, fused layers, kernels."""
