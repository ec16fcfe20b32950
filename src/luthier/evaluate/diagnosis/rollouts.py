"""Learning from what the model says, gone wrong: what the guards of rollouts have told, sorted by what it spoils."""

from __future__ import annotations

from luthier.evaluate.diagnosis.evidence import Evidence, ends, values
from luthier.evaluate.diagnosis.finding import Finding


def hacked(seen: Evidence) -> Finding | None:
    """What is paid is not what is wanted."""
    told = seen.warned("parting", "form")
    if told is None:
        return None
    evidence = [str(told["text"])]
    for name, points in seen.curves.parts.items():
        evidence.append("the part {} of the reward: {:.3f} → {:.3f}".format(name, *ends(values(points))))
    advice = "lower the weights of what is paid for form, or make it a gate; add a scorer for what the answers lack"
    return Finding("hacked", "the reward is gamed", tuple(evidence), (), advice, 0.93)


def silent(seen: Evidence) -> Finding | None:
    """Groups whose answers are all worth the same teach nothing."""
    told, shares = seen.warned("silent", "learnt"), values(seen.curves.rollouts["silent"])
    failed = seen.last("failed")
    stopped = failed is not None and "worth the same" in str(failed["text"])
    if told is None and not stopped:
        return None
    text = failed["text"] if stopped and failed is not None else told["text"] if told else ""
    evidence = [str(text)]
    if len(shares):
        evidence.append("prompts without contrast: {:.0%} at first, {:.0%} at the end".format(*ends(shares)))
    count = seen.recipe.rollout.n if seen.recipe.rollout else 8
    changes = ("rollout.dynamic=true", f"rollout.n={2 * count}")
    return Finding("silent", "most prompts teach nothing", tuple(evidence), changes, weight=0.98 if stopped else 0.8)


def unsaid(seen: Evidence) -> Finding | None:
    """The scorers cannot say anything of many answers."""
    told, failed = seen.warned("unsaid"), seen.last("failed")
    stopped = failed is not None and "could say nothing" in str(failed["text"])
    if told is None and not stopped:
        return None
    text = failed["text"] if stopped and failed is not None else told["text"] if told else ""
    advice = (
        "`parts` in rollouts/ tells which scorer (null): is its verifier there, do the rows have what it judges by?"
    )
    return Finding("unsaid", "answers cannot be judged", (str(text),), (), advice, 0.99 if stopped else 0.6)


def narrowed(seen: Evidence) -> Finding | None:
    """Entropy collapsed, or the model fell apart."""
    told = seen.warned("collapse", "scatter")
    if told is None:
        return None
    entropy = values(seen.curves.rollouts["entropy"])
    evidence = [str(told["text"])]
    if len(entropy):
        evidence.append("entropy {:.3f} → {:.3f} nats a token".format(*ends(entropy)))
    collapsed = told["guard"] == "collapse"
    title = "the model has narrowed to few answers" if collapsed else "the model falls apart"
    return Finding("entropy", title, tuple(evidence), (f"train.lr={seen.lr / 3:.2g}", "objective.kl=0.05"), "", 0.75)


def long_or_cut(seen: Evidence) -> Finding | None:
    """Answers are cut off, or have become much longer or shorter."""
    told = seen.warned("cut_first", "cut", "length")
    if told is None:
        return None
    lengths, room = values(seen.curves.rollouts["length"]), seen.recipe.rollout
    evidence = [str(told["text"])]
    if len(lengths):
        evidence.append("tokens of an answer {:.0f} → {:.0f}".format(*ends(lengths)))
    changes = (f"rollout.max_new_tokens={2 * room.max_new_tokens}",) if room and told["guard"] != "length" else ()
    return Finding("lengths", "answers have the wrong length", tuple(evidence), changes, weight=0.65)


def apart(seen: Evidence) -> Finding | None:
    """The policy and who spoke, or the reference, are far apart."""
    told = seen.warned("mismatch", "drift", "kl")
    if told is None:
        return None
    return Finding(
        "apart", "the model moves too fast", (str(told["text"]),), (f"train.lr={seen.lr / 3:.2g}",), "", 0.55
    )
