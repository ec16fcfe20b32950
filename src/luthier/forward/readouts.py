"""What can be read of each scored token from the distribution over the vocabulary, by the names that `Needs` uses.

All that is asked for comes out of one pass over the vocabulary (`luthier.forward.head`).
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.types.needs import JSD

LOGP, MEAN_LOGP, ENTROPY, TOP_K = "logp", "mean_logp", "entropy", "top_k"
KL, REVERSE_KL = "kl", "reverse_kl"
TOP_IDS = "top_ids"
"""Comes with `top_k`: which tokens they are."""

READOUTS = {
    LOGP: "log pi(y) of the token that stands there",
    MEAN_LOGP: "the mean over the vocabulary of log pi (label smoothing)",
    ENTROPY: "the entropy of pi, in nats",
    TOP_K: "the log-probabilities of the most probable tokens (`top_k`), without gradient, and their ids (`top_ids`)",
    KL: "KL(teacher, pi), over the whole vocabulary, or over what is known of the teacher (`luthier.forward.buckets`)",
    REVERSE_KL: "KL(pi, teacher), over the same",
    JSD: "before a beta between 0 and 1: the generalised Jensen-Shannon divergence (`luthier.forward.divergence`)",
}


def beta_of(name: str) -> float | None:
    """The beta of a generalised Jensen-Shannon divergence; None for any other readout."""
    return float(name.removeprefix(JSD)) if name.startswith(JSD) and name != JSD else None


def of_a_teacher(asked: Sequence[str]) -> bool:
    """Does any of them compare with the distribution of a teacher?"""
    return any(name in (KL, REVERSE_KL) or name.startswith(JSD) for name in asked)


TOP = 64
"""How many tokens `top_k` gives."""
