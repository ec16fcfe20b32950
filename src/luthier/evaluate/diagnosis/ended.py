"""Runs that did not come to their end: memory, numbers that are none, other faults, and those that were killed."""

from __future__ import annotations

from luthier.evaluate.diagnosis.evidence import Evidence
from luthier.evaluate.diagnosis.finding import Finding

NEARLY_ALL = 0.85
"""Of the machine's memory: who stops without a word above it was most likely stopped for it."""
GIB = 2**30


def out_of_memory(seen: Evidence) -> Finding | None:
    """Memory ran out: the run failed, was killed for it, or went on with smaller micro-batches."""
    failed, step = seen.last("failed"), seen.last("step")
    most = max((event["memory"] for event in seen.events if event["kind"] == "step" and event.get("memory")), default=0)
    told = f"the last step that was done, {step['step']}, held {most / GIB:.2f} GiB" if step else "no step was done"
    if failed is not None and failed.get("memory"):
        return Finding("memory", "memory ran out", (str(failed["text"]), told), _smaller(seen), _LESS, 1.0)
    if not seen.ended and failed is None and most > NEARLY_ALL * seen.memory:
        has, ends = f"the machine has {seen.memory / GIB:.2f} GiB", "the log ends without a word, as if killed"
        return Finding("memory", "memory ran out, most likely", (told, has, ends), _smaller(seen), _LESS, 0.95)
    retried = [event for event in seen.events if event["kind"] == "oom"]
    if retried:
        now = retried[-1]
        how = "checkpointing" if now.get("checkpointing") else f"micro-batches of {now['micro_tokens']:,} tokens"
        evidence = (f"memory ran out {len(retried)} time{'s' * (len(retried) > 1)}; the run went on with {how}", told)
        return Finding("memory", "memory was short", evidence, _smaller(seen), _LESS, 0.3)
    return None


_LESS = "a smaller adapter (adapt.0.lora.r) or model takes less, too; `luthier plan` predicts it before a run"


def _smaller(seen: Evidence) -> tuple[str, ...]:
    train, changes = seen.recipe.train, []
    if train.checkpointing is not True:
        changes.append("train.checkpointing=true")
    changes.append(f"train.micro_tokens={max((train.micro_tokens or 2 * train.max_tokens) // 2, 64)}")
    longest, most = (int(seen.ledger.get("length", {}).get(name, 0)) for name in ("p99", "p100"))
    if longest and most > 1.5 * longest:
        changes.append(f"train.max_tokens={longest} train.long_rows=truncate")
    if seen.recipe.quantize is None and seen.recipe.adapt:
        changes.append("quantize=nf4")
    return tuple(changes)


def not_a_number(seen: Evidence) -> Finding | None:
    """A loss or gradient was infinite or no number."""
    warned, failed = seen.warned("not_finite"), seen.last("failed")
    text = warned["text"] if warned else failed["text"] if failed else ""
    if warned is None and "evaluation loss" not in text:
        return None
    norms = seen.curve("grad_norm")
    evidence = [str(text)]
    if len(norms):
        evidence.append(f"gradient norms before it: {norms[-1]:.3g} last, {norms.max():.3g} at most")
    changes = [f"train.lr={seen.lr / 10:.2g}", "train.warmup=0.1"]
    if seen.recipe.train.clip == 0 or seen.recipe.train.clip > 1:
        changes.append("train.clip=1.0")
    changes.append("model.dtype=fp32")
    return Finding("diverged", "the loss is no number any more", tuple(evidence), tuple(changes), weight=1.0)


def failed(seen: Evidence) -> Finding | None:
    """Any other fault, as it was told."""
    event = seen.last("failed")
    if event is None or event.get("memory") or event.get("stopped") or not_a_number(seen) is not None:
        return None
    return Finding("failed", "the run failed", (str(event["text"]),), weight=0.97)


def unfinished(seen: Evidence) -> Finding | None:
    """It was stopped, or killed, and can go on."""
    event, step = seen.last("failed"), seen.last("step")
    if seen.ended or not seen.events or (event is not None and not event.get("stopped")):
        return None
    saved = seen.last("checkpoint")
    done = f"{step['step'] if step else 0} of {seen.steps} steps are done"
    kept = f"the checkpoint of step {saved['step']} is kept" if saved else "no checkpoint was written yet"
    how = "it was stopped by hand" if event is not None else "the log ends without a word: killed, or a power cut"
    return Finding(
        "unfinished",
        "the run is not at its end",
        (done, kept, how),
        advice="`luthier train` with the same recipe goes on from there",
        weight=0.9 if event is None else 0.6,
    )
