"""Rows measured by a real model: against transformers' own losses, and opened only when it must be."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters

from luthier.data.steps import Tools
from luthier.data.steps.measures import named
from luthier.recipe.curation import of_files
from luthier.types import Example, Response, Turn
from luthier.workflow import curation
from luthier.workflow.curation import Asked, Spoken

ROWS = [("Name a sea.", "The North Sea."), ("What is 2+2?", "4"), ("Sing!", "La la la."), ("", "Nothing was asked.")]


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    tokenizer = letters("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>", pad_token="<pad>", eos_token="</s>")
    tokenizer.chat_template = CHATML
    module = tiny.model(0, vocab_size=len(tokenizer), initializer_range=0.3, bos_token_id=1, eos_token_id=2)
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def example(question: str, answer: str) -> Example:
    return Example((Turn("user", question),), (Response((Turn("assistant", answer),)),))


def test_ifd_is_that_of_transformers(model: Path):
    with curation.settings(of_files(["rows.jsonl"])) as how:
        speaking = how.tools.speaker((str(model), {}))
        found = named({"ifd": str(model)}).ready(how.tools).measure([example(*row) for row in ROWS], Tools())
        assert isinstance(speaking, Spoken) and speaking.speaker is not None and speaking.template is not None
        module, ids_of, prompt = speaking.speaker.policy.module, speaking.template.ids_of, speaking.template.prompt_text

        def loss(question: str, answer: str) -> float:
            before, said = ids_of(prompt((Turn("user", question),))), ids_of(answer + "<|im_end|>")
            with torch.no_grad():
                logits = module(torch.tensor([[*before, *said]])).logits[0].float().log_softmax(-1)
            return -float(np.mean([logits[len(before) - 1 + n, token] for n, token in enumerate(said)]))

        expected = [loss(*row) / loss("", row[1]) for row in ROWS]
    assert found == pytest.approx(expected, rel=1e-4) and found[3] == 1.0
    assert len(set(np.round(found, 3))) > 2


def test_another_threshold_opens_no_model(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, recipe = tmp_path / "rows.jsonl", tmp_path / "recipe.yaml"
    path.write_text("\n".join(json.dumps({"prompt": q, "completion": a}) for q, a in ROWS[:3]), encoding="utf-8")
    steps = [{"select": {"by": "ifd", "keep": 0.4, "max": 9}}, {"diverse": {"top": 1, "model": str(model)}}]
    keys = {"model": str(model), "data": str(path), "steps": steps}
    recipe.write_text(json.dumps(keys), encoding="utf-8")  # JSON is YAML
    assert len(curation.curate([str(recipe)], Asked(processes=1))) == 1

    def opened(*args: object) -> None:
        raise AssertionError("it opened the model")

    monkeypatch.setattr(Spoken, "engine", property(opened))
    again = ["steps=[{select: {by: ifd, top: 2, max: 9}}]"]
    assert len(curation.curate([str(recipe), *again], Asked(processes=1))) == 2
