"""Curves that look wrong: flat, diverging, reciting, drifting away from rows that do not train.

Limits are the guards' of training where those have one; those marked `judged` are ours.
"""

from __future__ import annotations

import math

import numpy as np

from luthier.evaluate.curves import smoothed
from luthier.evaluate.diagnosis.evidence import Evidence, ends, values
from luthier.evaluate.diagnosis.finding import Finding

STEPS = 10
"""Fewer say nothing of a trend (judged)."""
FLAT = 0.02
"""The share of its first height that a loss falls by, below which nothing was learnt (judged)."""
GROWN = 1.15
"""How far above its lowest a smoothed loss ends when it diverges (judged)."""
LEAPT, FELL_APART = 1.3, 2.0
"""A loss so many times its first is no noise any more; and from where on it has surely spoilt the run (judged)."""
LOW = 0.2
"""Nats a token: each next token has a probability of 82 % or more. What is learnt by then is the rows themselves."""
GAP = 0.03
"""How far above its lowest an evaluation loss ends when the rows are learnt by heart (judged)."""
SMALL_LR, LARGE_LR = 2e-5, 1e-3
"""Rates outside which an adapter learns next to nothing, or falls apart, in the published recipes (2e-4 is common)."""


def untrained(seen: Evidence) -> Finding | None:
    """No gradient: what is scored does not depend on what trains."""
    norms = seen.curve("grad_norm")
    if not len(norms) or norms.max() > 1e-12:
        return None
    evidence = (f"the gradient norm is 0 in all {len(norms)} steps",)
    advice = "see what trains (`luthier explain RECIPE`, adapt) and what is scored (`luthier data RECIPE --show 5`)"
    return Finding("untrained", "nothing trains", evidence, advice=advice, weight=0.95)


def flat(seen: Evidence) -> Finding | None:
    """The loss has not fallen."""
    loss = seen.loss
    if len(loss) < STEPS or seen.recipe.rollout is not None or seen.curves.rollouts["reward"]:
        return None
    told_apart = seen.curve("accuracy")
    if len(told_apart) and ends(told_apart)[1] > ends(told_apart)[0] + 0.1:
        return None  # where probabilities are compared, what counts is which is larger
    first, last = ends(loss)
    if not (1 - FLAT) * first < last < (1 + FLAT) * first or (seen.per_token and last < LOW):
        return None
    evidence = [f"loss {first:.4f} over the first steps, {last:.4f} over the last of {len(loss)}", f"lr {seen.lr:g}"]
    changes, advice = [], "what is scored, and do the answers fit their prompts? `luthier data RECIPE --show 5`"
    if seen.lr < SMALL_LR and seen.recipe.adapt:
        evidence.append(f"adapters are usually trained at 2e-4: this is {2e-4 / seen.lr:,.0f} × less")
        changes.append("train.lr=2e-4")
    else:
        changes.append(f"train.lr={min(seen.lr * 5, LARGE_LR):.2g}")
    if len(loss) < 3 * STEPS:
        changes.append(f"train.epochs={max(3, math.ceil(seen.recipe.train.epochs * 3))}")
    return Finding("flat", "the loss does not fall", tuple(evidence), tuple(changes), advice, 0.85)


def diverging(seen: Evidence) -> Finding | None:
    """The loss rose, and stayed up; or gradients leapt."""
    loss, norms = seen.loss, seen.curve("grad_norm")
    if len(loss) < STEPS:
        return None
    line = values(smoothed(seen.curves.loss))
    lowest, at, last = float(line.min()), int(line.argmin()), float(line[-1])
    limit = seen.recipe.train.clip or math.inf
    clipped = float((norms > limit).mean()) if len(norms) else 0.0
    peak = int(loss[2:].argmax()) + 2
    evidence = (
        [f"gradient norms: {np.median(norms):.3g} in the middle, {norms.max():.3g} at most"] if len(norms) else []
    )
    if clipped > 0.5:
        evidence.append(f"{clipped:.0%} of the steps were clipped at {limit:g}")
    rate = f"lr {seen.lr:g}"
    changes = (f"train.lr={seen.lr / 5:.2g}", "train.warmup=0.1")
    if last > GROWN * lowest and last > lowest + 0.05 and at < len(line) - 2:
        rose = f"the smoothed loss was {lowest:.4f} at step {at + 1} and ends at {last:.4f}"
        return Finding(
            "rate", "the learning rate is too high: the loss rises", (rose, rate, *evidence), changes, "", 0.92
        )
    if loss[peak] > LEAPT * loss[0]:
        leapt = f"the loss leapt from {loss[0]:.4f} at the first step to {loss[peak]:.4f} at step {peak + 1}"
        weight = 0.85 if loss[peak] > FELL_APART * loss[0] else 0.5
        title = "the learning rate is too high: training is unsteady"
        return Finding("rate", title, (leapt, rate, *evidence), changes, "", weight)
    return None


def reciting(seen: Evidence) -> Finding | None:
    """The model knows its rows by heart: a loss near nothing, or rows that do not train get worse meanwhile."""
    loss, held = seen.loss, values(seen.curves.evaluation)
    if seen.recipe.rollout is not None or not len(loss):
        return None
    evidence, weight = [], 0.0
    if len(held) > 2 and held[-1] > (1 + GAP) * held.min():
        best = int(held.argmin())
        step = seen.curves.evaluation[best][0]
        if ends(loss)[1] < ends(loss)[0]:
            evidence.append(f"the evaluation loss was {held[best]:.4f} at step {step:.0f} and ends at {held[-1]:.4f}")
            evidence.append(f"the training loss fell meanwhile, {ends(loss)[0]:.4f} → {ends(loss)[1]:.4f}")
            weight = 0.9
    recent = float(loss[-STEPS:].mean())
    if seen.per_token and len(loss) >= STEPS and recent < LOW:
        evidence.append(f"the training loss is {recent:.3f} nats a token over the last {STEPS} steps, below {LOW}")
        fits = len(held) > 0 and held[-1] < 2 * LOW
        weight = max(weight, 0.25 if fits else 0.7)
    if not evidence:
        return None
    rose = seen.moved(better=True)
    if rose and weight < 0.9:  # what is held out decides: an exact task may be as easy as that
        evidence.append(f"but rows that did not train are answered better: {rose[0]}")
        weight = 0.15
    epochs = seen.recipe.train.epochs
    changes = [f"train.epochs={max(epochs / 2, 1):g}"] if epochs > 1 else []
    if not len(held):
        changes.append("validate.share=0.1")
        evidence.append("nothing was held out to compare it with")
    else:
        changes.append("validate.patience=2")
    advice = "more, and more varied, rows; a smaller adapter; dropout (adapt.0.lora.dropout=0.05)"
    return Finding("reciting", "the model learns its rows by heart", tuple(evidence), tuple(changes), advice, weight)
