"""How much likelier a prompt is among good responses' prompts than among bad ones': BCO's weights (arXiv:2404.04656).

Shape suffixes: N = examples, D = dimensions of an embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

LOWEST, HIGHEST = 0.5, 10.0
"""Bounds on a weight: the ones TRL's BCO has by default."""
STEPS = 100


def weights(embedding_ND: Tensor, good_N: Tensor) -> Tensor:
    """p(x | good) / p(x | bad) of each bad response's prompt, within [0.5, 10]; 1 for good responses. N, fp32.

    A logistic regression tells good from bad by the prompt's embedding; both classes count one half, so that its odds
    are the ratio of densities whatever the balance of labels. Features are standardised, the weights' squares penalised
    (as much as in scikit-learn by default); Newton's method from zero, in fp64: the same on every run. Raises
    ValueError where a class is empty.
    """
    good_N = good_N.bool()
    total, n_good = len(good_N), int(good_N.sum())
    if not 0 < n_good < total:
        raise ValueError("density ratios need good and bad responses")
    x_ND = embedding_ND.detach().double()
    spread_D = x_ND.std(0, correction=0)
    x_ND = (x_ND - x_ND.mean(0)) / torch.where(spread_D > 0, spread_D, 1.0)
    each_N = torch.where(good_N, total / (2 * n_good), total / (2 * (total - n_good))).double()
    logit_N = _fit(x_ND, good_N.double(), each_N)
    ratio_N = logit_N.exp().clamp(LOWEST, HIGHEST)
    return torch.where(good_N, 1.0, ratio_N).float()


def _fit(x_ND: Tensor, target_N: Tensor, each_N: Tensor) -> Tensor:
    """The logits of a regularised logistic regression with one weight per example; its bias is not penalised."""
    x_ND = torch.cat([x_ND, x_ND.new_ones(len(x_ND), 1)], 1)
    penalty_D = x_ND.new_ones(x_ND.shape[1])
    penalty_D[-1] = 0
    beta_D = x_ND.new_zeros(x_ND.shape[1])

    def objective(beta_D: Tensor) -> Tensor:
        logit_N = x_ND @ beta_D
        return (each_N * (softplus(logit_N) - target_N * logit_N)).sum() + 0.5 * (penalty_D * beta_D**2).sum()

    for _ in range(STEPS):
        p_N = torch.sigmoid(x_ND @ beta_D)
        gradient_D = x_ND.T @ (each_N * (p_N - target_N)) + penalty_D * beta_D
        hessian_DD = x_ND.T @ (x_ND * (each_N * p_N * (1 - p_N))[:, None]) + torch.diag(penalty_D)
        step_D = torch.linalg.solve(hessian_DD + 1e-10 * torch.eye(len(beta_D), dtype=beta_D.dtype), gradient_D)
        size, before = 1.0, objective(beta_D)
        while objective(beta_D - size * step_D) > before and size > 1e-6:
            size /= 2
        beta_D = beta_D - size * step_D
        if step_D.abs().max() < 1e-9:
            break
    return x_ND @ beta_D
