"""Run folders that hold a reward model of the tiny chat model, its head planted or drawn; made without any training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.data import Template
from luthier.models import Beginning, Policy, load, save
from luthier.models.heads import HeadCard
from luthier.recipe import Model, Plugin, Recipe, Source, lock
from luthier.run import Run
from luthier.types import Example, Response, Turn


def row(question: str, *answers: str, scores: tuple[float, ...] = ()) -> Example:
    """A prompt and responses, scored or not."""
    known = scores or (None,) * len(answers)
    responses = tuple(Response((Turn("assistant", a),), reward=s) for a, s in zip(answers, known, strict=True))
    return Example((Turn("user", question),), responses)


def said(text: str) -> Response:
    return Response((Turn("assistant", text),))


def policy(model: Path, card: HeadCard | None = None, adapt: str = "lora") -> Policy:
    """The tiny model with a head whose weight is drawn, and an adapter that changes what the model computes."""
    made = load(
        Model(name=str(model), dtype="fp32"),
        [Plugin(name=adapt)],
        device="cpu",
        beginning=Beginning(heads={"reward": card or HeadCard()}),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in made.trainable():
            if name == "head.weight" or "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.5)
    return made


def write_run(folder: Path, made: Policy | None, model: Path, objective: str = "reward") -> Run:
    """A run folder as training leaves it (without a policy: as it begins)."""
    run = Run(folder)
    folder.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        model=Model(name=str(model), dtype="fp32"),
        data=(Source(path="rows.jsonl"),),
        objective=Plugin(name=objective),
        output=str(folder),
    )
    run.recipe_path.write_text(lock(recipe))
    if made is not None:
        save(made, run)
    return run


def hidden(made: Policy, example: Example, response: Response) -> tuple[Tensor, Any]:
    """The backbone's last hidden states of prompt and response by themselves, T x D, by transformers' way; the ids."""
    judged = Example(example.prompt, (Response(response.turns, reward=0.0),))
    ids = Template(made.tokenizer).encode(judged).ids[0]
    with torch.no_grad():
        out = made.module.eval()(input_ids=torch.tensor(ids[None], dtype=torch.long), output_hidden_states=True)
    return out.hidden_states[-1][0], ids
