"""What the answers to held-out rows show: cut off, going round in circles, all alike, or worse than the base's."""

from __future__ import annotations

from collections import Counter

from luthier.evaluate.diagnosis.evidence import BASE, TUNED, Evidence
from luthier.evaluate.diagnosis.finding import Finding

SOME = 5
"""Fewer answers say nothing (judged)."""
CUT, LOOPS, ALIKE = 0.2, 0.1, 0.5
"""Shares of the answers from which on it is a fault (judged)."""
GRAM, REPEATED = 4, 0.5
"""An answer goes round in circles when so many of its 4-grams stood in it before."""


def cut_off(seen: Evidence) -> Finding | None:
    """Answers that do not end."""
    said = [answer for answer in seen.answers() if "finish" in answer]
    # those that go round in circles have a fault of their own
    ends = [answer["finish"] == "length" and repeats(str(answer.get("text") or "")) <= REPEATED for answer in said]
    if len(ends) < SOME or sum(ends) < CUT * len(ends):
        return None
    evidence = [f"{sum(ends)} of {len(ends)} answers were cut off at `max_new_tokens`"]
    before = [answer["finish"] == "length" for answer in seen.answers(BASE) if "finish" in answer]
    if before:
        evidence.append(f"of the base's answers {sum(before)} of {len(before)}")
    task = next((task for task in seen.recipe.evaluate), None)
    own = task is not None and task.benchmark is None
    changes = (f"evaluate.0.max_new_tokens={2 * task.max_new_tokens}",) if task and own else ()
    advice = (
        "if they go on for ever, the end of an answer does not train: `luthier data RECIPE --show 3` shows whether the "
        "end token is coloured"
    )
    return Finding("cut", "answers are cut off", tuple(evidence), changes, advice, 0.5 + 0.4 * sum(ends) / len(ends))


def repeating(seen: Evidence) -> Finding | None:
    """Answers that say the same again and again."""
    said = [str(answer.get("text") or "") for answer in seen.answers()]
    looping = [text for text in said if repeats(text) > REPEATED]
    if len(said) < SOME or len(looping) < LOOPS * len(said):
        return None
    shown = " ".join(looping[0].split())
    evidence = (f"{len(looping)} of {len(said)} answers repeat themselves, for instance: …{shown[-120:]!r}",)
    changes = (f"train.lr={seen.lr / 3:.2g}",)
    advice = "rows that repeat themselves teach it (`steps: [repetition]` finds them); `repetition_penalty` hides it"
    return Finding("repetition", "answers go round in circles", evidence, changes, advice, 0.7)


def repeats(text: str) -> float:
    """The share of a text's 4-grams (of words, or of characters where it has no spaces) that stood in it before."""
    words = text.split() if " " in text.strip() else list(text)
    grams = [tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)]
    return 1 - len(set(grams)) / len(grams) if len(grams) >= 2 * GRAM else 0.0


def all_alike(seen: Evidence) -> Finding | None:
    """One answer to most rows, whose known answers differ."""
    said = [(sample.get("expected"), sample["systems"][TUNED]) for sample in seen.samples if TUNED in sample["systems"]]
    texts = Counter(str(answer.get("text")) for _, answer in said if answer.get("text") is not None)
    if sum(texts.values()) < SOME:
        return None
    most, count = texts.most_common(1)[0]
    known = Counter(str(expected) for expected, answer in said if answer.get("text") == most)
    if repeats(most) > REPEATED or count < ALIKE * sum(texts.values()) or len(known) < max(2, count // 2):
        return None
    evidence = (
        f"{count} of {sum(texts.values())} rows get the same answer, {most[:80]!r}; {len(known)} were expected",
    )
    advice = "the prompt may not reach the model (`luthier data RECIPE --show 3`), or one answer outweighs the rows"
    return Finding(
        "alike", "the model says one thing to everything", evidence, (f"train.lr={seen.lr / 3:.2g}",), advice, 0.8
    )


def worse_than_base(seen: Evidence) -> Finding | None:
    """A task on which the tuned model is below its base, by more than chance."""
    found = seen.moved(better=False)
    if not found:
        return None
    changes = [f"train.lr={seen.lr / 5:.2g}"]
    if seen.recipe.train.epochs > 1:
        changes.append("train.epochs=1")
    advice = (
        "mix in 5–10 % of general rows (`rehearse: {data: …, share: 0.05}`), freeze more, or take a smaller adapter"
    )
    return Finding("forgetting", "the model got worse than its base", tuple(found), tuple(changes), advice, 0.85)
