"""Preference training that goes wrong: both answers fall, or none is told from the other."""

from __future__ import annotations

from luthier.evaluate.diagnosis.evidence import Evidence, ends
from luthier.evaluate.diagnosis.finding import Finding

CHANCE = 0.55
"""Accuracy on the pairs that train, near which nothing was learnt (judged)."""


def both_fall(seen: Evidence) -> Finding | None:
    """Better and worse responses lose probability alike."""
    better, worse = seen.curve("logp_better"), seen.curve("logp_worse")
    rewards = seen.curve("reward_better")
    warned = seen.warned("falling")
    if warned is None and (len(rewards) < 10 or not len(seen.curve("kl")) or ends(rewards)[1] >= 0):
        return None
    evidence = []
    if len(better) and len(worse):
        first, last = ends(better)
        evidence.append(f"log-probability of the better responses {first:.2f} → {last:.2f} over the run")
        evidence.append("… of the worse {:.2f} → {:.2f}".format(*ends(worse)))
    if len(rewards):
        evidence.append(
            f"reward of the better responses at the end {ends(rewards)[1]:.3f} (below 0: less likely than before)"
        )
    name = seen.recipe.objective.name
    beta = float(seen.recipe.objective.args.get("beta", 0.1) or 0.1)
    changes = (f"train.lr={seen.lr / 5:.2g}", f"objective.{name}.beta={min(beta * 3, 1.0):g}")
    advice = "or add a term of likelihood: `objective: {sum: …}` of this one and sft"
    weight = 0.9 if warned is not None else 0.6
    return Finding(
        "falling", "better and worse responses both lose probability", tuple(evidence), changes, advice, weight
    )


def not_told_apart(seen: Evidence) -> Finding | None:
    """Accuracy stays at chance."""
    accuracy = seen.curve("accuracy")
    if len(accuracy) < 10 or ends(accuracy)[1] >= CHANCE:
        return None
    evidence = (
        "accuracy on the pairs that train: {:.2f} → {:.2f} (chance is 0.5)".format(*ends(accuracy)),
        f"lr {seen.lr:g}",
    )
    advice = "are better and worse the right way round? `luthier data RECIPE --show 5` shows pairs"
    return Finding(
        "apart", "the model cannot tell better from worse", evidence, (f"train.lr={seen.lr * 5:.2g}",), advice, 0.8
    )
