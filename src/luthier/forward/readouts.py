"""What can be read of each scored token from the distribution over the vocabulary, by the names that `Needs` uses.

All that is asked for comes out of one pass over the vocabulary (`luthier.forward.head`).
"""

from __future__ import annotations

LOGP, MEAN_LOGP, ENTROPY, TOP_K = "logp", "mean_logp", "entropy", "top_k"
KL, REVERSE_KL = "kl", "reverse_kl"
TOP_IDS = "top_ids"
"""Comes with `top_k`: which tokens they are."""

READOUTS = {
    LOGP: "log pi(y) of the token that stands there",
    MEAN_LOGP: "the mean over the vocabulary of log pi (label smoothing)",
    ENTROPY: "the entropy of pi, in nats",
    TOP_K: "the log-probabilities of the most probable tokens (`top_k`), without gradient, and their ids (`top_ids`)",
    KL: "KL(teacher, pi), over the whole vocabulary",
    REVERSE_KL: "KL(pi, teacher), over the whole vocabulary",
}
OF_A_TEACHER = (KL, REVERSE_KL)
"""Those that compare with the distribution of a teacher."""
TOP = 64
"""How many tokens `top_k` gives."""
