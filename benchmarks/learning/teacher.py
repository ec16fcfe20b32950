"""A small model learns running sums from a larger one that knows them (GKD, arXiv:2306.13649).

By what the small model says itself (lambda 1), or by fixed answers (lambda 0), with three divergences, as many answers
a step and as many steps for each. How far it is from its teacher in the end is measured apart from Luthier, in plain
torch: the divergence of whole answers to held-out prompts, both ways, each a mean over drawn answers of the exact
divergences at their tokens.

Shape suffixes: B = prompts, T = tokens, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from learning import runs, sums
from learning.contest import RARELY

if TYPE_CHECKING:
    from torch import Tensor

DIGITS, STEPS = 14, 96
WAYS = {
    f"{who}, {what}": {"own": own, "beta": beta}
    for what, beta in (("KL(teacher, model)", 0.0), ("JSD ½", 0.5), ("KL(model, teacher)", 1.0))
    for who, own in (("fixed", 0.0), ("own", 1.0))
}
STUDENTS: Mapping[str, tuple[tuple[float, float], range]] = {
    "much": ((0.6, 0.85), range(500, 3000, 100)),
    "little": ((0.1, 0.45), range(360, 500, 10)),
}
"""How much of what it draws the small model has right when it meets its teacher, and after how many steps of likelihood
it is looked for. "much" came first; both are told."""
LOADED: dict[str, Any] = {"dtype": "fp32"}


Ends = dict[str, list[dict[str, float]]]
"""By way, and by seed: the score, and how far the two models are apart."""


@dataclass(frozen=True)
class Pair:
    """Who learns from whom, and from what: rows with answers, and held-out prompts."""

    begun: str
    student: str
    teacher: str
    learnt: str
    held_out: str


def recipe(pair: Pair, way: str, seed: int) -> runs.Recipe:
    """What `luthier train` is given."""
    objective, longest = WAYS[way], DIGITS + 6
    drawn = {"rollout": {"n": 1, "prompts": 64, "max_new_tokens": longest}} if objective["own"] else {}
    scored = {"data": pair.held_out, "scorers": [{"exact_match": {"regex": sums.LAST}}], "temperature": 1.0}
    return {
        "model": {"name": pair.student, **LOADED},
        "teacher": {"name": pair.teacher, **LOADED},
        "data": pair.learnt,
        "objective": {"gkd": objective},
        "adapt": ["full"],
        **drawn,
        "seed": seed,
        "train": {
            "steps": STEPS,
            "batch": 64,
            "lr": 3e-4,
            "schedule": "constant",
            "warmup": 0,
            "save_every": RARELY,
        },
        "evaluate": [{**scored, "max_new_tokens": longest}],
        "output": str(
            runs.home("teacher") / f"{pair.begun}-own-{objective['own']:g}-beta-{objective['beta']:g}-{seed}"
        ),
    }


def apart(student: str, teacher: str, prompts: Sequence[str]) -> dict[str, float]:
    """How far two models are from one another, in nats an answer: `own` is KL(student, teacher) over what the student
    draws, `taught` KL(teacher, student) over what the teacher draws."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(student)
    asked_BT = torch.tensor([tokenizer(f"{prompt} =").input_ids for prompt in prompts])  # all of one length
    pupil, master = (AutoModelForCausalLM.from_pretrained(name).float().eval() for name in (student, teacher))
    found = {}
    with torch.no_grad():
        for name, one, other in (("own", pupil, master), ("taught", master, pupil)):
            ids_BT, said_BT = drawn(one, asked_BT, tokenizer.eos_token_id)
            of_BTV, to_BTV = (
                model(ids_BT).logits[:, asked_BT.shape[1] - 1 : -1].log_softmax(-1) for model in (one, other)
            )
            divergence_BT = (of_BTV.exp() * (of_BTV - to_BTV)).sum(-1)
            found[name] = float((divergence_BT * said_BT).sum(-1).mean())
    return found


def drawn(model: Any, asked_BT: Tensor, end: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Prompts with answers drawn from the model, and which of the answers' tokens were said: up to the end token, and
    that. No cache: it is fifteen tokens of a tiny model."""
    import torch

    chance = torch.Generator().manual_seed(seed)
    ids_BT, said = asked_BT, []
    open_B = torch.ones(len(asked_BT), dtype=torch.bool)
    for _ in range(DIGITS + 6):
        next_B = torch.multinomial(model(ids_BT).logits[:, -1].softmax(-1), 1, generator=chance)[:, 0]
        said.append(open_B)
        open_B = open_B & (next_B != end)
        ids_BT = torch.cat((ids_BT, next_B[:, None]), 1)
    return ids_BT, torch.stack(said, 1)


def result(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """Every way by every seed, and how it ended, for each student."""
    teacher = sums.half_taught("teacher/taught", DIGITS, sums.LAST, (0.97, 1.0), range(600, 3000, 200))
    home, held_out = runs.home("teacher"), sums.rows(512, DIGITS, 2)
    learnt = sums.write(home / "learnt.jsonl", sums.rows(512, DIGITS, 3), answers=True)
    tested = sums.write(home / "held-out.jsonl", held_out, answers=False)
    found = {}
    for begun, (about, steps) in STUDENTS.items():
        student = sums.half_taught("teacher/student", DIGITS, sums.LAST, about, steps, hidden=32)
        pair = Pair(begun, student, teacher, learnt, tested)
        found[begun] = of_student(pair, seeds, at_once, [row["prompt"] for row in held_out])
    return {"students": found}, "\n".join(text(begun, ends) for begun, ends in found.items())


def of_student(pair: Pair, seeds: Sequence[int], at_once: int, prompts: Sequence[str]) -> Ends:
    """How a student began, and how it ended by each way and seed."""
    wanted = [(way, seed) for way in WAYS for seed in seeds]
    done = runs.all_ran([recipe(pair, *one) for one in wanted], at_once)
    before = [runs.scored(run)["base"]["value"] for run in done[: len(seeds)]]
    found: Ends = {"before": [{"score": score, **apart(pair.student, pair.teacher, prompts)} for score in before]}
    for (way, seed), run in zip(wanted, done, strict=True):
        ended = apart(f"{recipe(pair, way, seed)['output']}/model", pair.teacher, prompts)
        found.setdefault(way, []).append({"score": runs.scored(run)["tuned"]["value"], **ended})
    return found


def text(begun: str, found: Ends) -> str:
    """A line a way."""
    heads = ["answers, divergence learnt by", "score", "KL(model, teacher)", "KL(teacher, model)"]
    lines = [[way, *(_told(ends, key) for key in ("score", "own", "taught"))] for way, ends in found.items()]
    return (
        f"A student that knows {begun}: last sums right of 512 held-out prompts, drawn at temperature 1; divergences "
        f"in nats an answer. Means over seeds, and each seed's.\n\n{runs.table(heads, lines)}\n"
    )


def _told(ends: Sequence[dict[str, float]], key: str) -> str:
    return f"{fmean(end[key] for end in ends):.3f} ({', '.join(f'{end[key]:.3f}' for end in ends)})"
