"""Rows measured by a real model: against transformers' own losses, and opened only when it must be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters

from luthier import verbs
from luthier.data.steps import Tools
from luthier.data.steps.measures import named
from luthier.forward.influence import Influences
from luthier.recipe.curation import of_files
from luthier.run import Run
from luthier.train.loop import checkpoint
from luthier.types import Example, Response, Turn
from luthier.workflow import curation
from luthier.workflow.curation import Asked, Spoken
from luthier.workflow.influence import influences
from luthier.workflow.speaker import Speaker

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


SONGS = [(f"Sing of {what}!", f"La la {what}, la la {what}, la la la.") for what in ("tea", "rain", "a sea", "bees")]
SUMS = [(f"What is {n}+{n}?", f"{n}+{n}={2 * n}, so {n} and {n} is {2 * n}.") for n in (2, 3, 4, 6, 7, 8)]


def written(path: Path, rows: list[tuple[str, str]]) -> str:
    path.write_text("".join(json.dumps({"prompt": q, "completion": a}) + "\n" for q, a in rows), encoding="utf-8")
    return str(path)


def test_rows_of_the_task_have_the_most_influence(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sing, add = written(tmp_path / "sing.jsonl", SONGS[2:]), written(tmp_path / "add.jsonl", SUMS[3:])
    path = written(tmp_path / "rows.jsonl", [SUMS[0], SONGS[0], SUMS[1], SONGS[1], SUMS[2]])

    def kept(by: str, top: int) -> list[str]:
        made = curation.curate([path, f"steps=[{{select: {{by: {by}, top: {top}}}}}]"], Asked(processes=1))
        return [row.prompt[-1].text for row in made.examples(0)]

    assert kept(f"{{less: {{like: {sing}, model: {model}}}}}", 2) == [SONGS[0][0], SONGS[1][0]]
    asked: list[int] = []
    gradients = Spoken.gradients

    def counted(self: Spoken, rows: Any, size: int, *, adam: bool) -> Any:
        asked.append(len(rows) if adam else 0)
        return gradients(self, rows, size, adam=adam)

    monkeypatch.setattr(Spoken, "gradients", counted)
    assert kept(f"{{less: {{like: {sing}, model: {model}}}}}", 1) and not asked, "another threshold asks nothing"
    assert kept(f"{{less: {{like: {add}, model: {model}}}}}", 3) == [SUMS[n][0] for n in range(3)]
    assert asked == [0], "another task asks for its own rows alone"
    assert len(kept(f"{{less: {{like: [{sing}, {add}], model: {model}}}}}", 5)) == 5


def test_a_warm_run_brings_what_adam_remembers(model: Path, tmp_path: Path):
    warm = written(tmp_path / "warm.jsonl", [*SONGS, *SUMS])
    recipe = tmp_path / "recipe.yaml"
    keys = {"model": {"name": str(model), "dtype": "fp32"}, "data": warm, "output": str(tmp_path / "warm")}
    keys |= {"adapt": {"lora": {"r": 2}}, "train": {"steps": 2, "batch": 4, "threads": 1, "lr": 1e-2}}
    recipe.write_text(json.dumps(keys), encoding="utf-8")
    verbs.train(recipe)
    made = influences(Speaker(tmp_path / "warm"), 512, lambda told: pytest.fail(told))
    held = checkpoint.latest(Run(tmp_path / "warm"))
    assert held is not None and made._moments.keys() == held.weights().keys()
    known = {id(state["exp_avg"]): state for one in held.optimizers() for state in one.values()}
    norms = sorted(float(state["exp_avg"].norm()) for state in known.values())
    assert sorted(float(one.mean.norm()) for one in made._moments.values()) == pytest.approx(norms)
    assert {one.steps for one in made._moments.values()} == {2}
    shapes = {name: tuple(weight.shape) for name, weight in made._trained}
    assert all(tuple(one.square.shape) == shapes[name] for name, one in made._moments.items())

    plain = Influences(made._module, made._trained, {}, 512)
    with curation.settings(of_files([warm])) as how:
        speaking = how.tools.speaker((str(tmp_path / "warm"), {}))
        row = speaking.encode(example(*SONGS[0]))
        (remembering,), (fresh,) = made([row], adam=True), plain([row], adam=True)
        assert not np.allclose(remembering, fresh)
        assert np.array_equal(speaking.gradients([row], 512, adam=True)[0], remembering)

    shutil.rmtree(held.folder.parent)
    told: list[str] = []
    assert influences(Speaker(tmp_path / "warm"), 512, told.append)._moments == {}
    assert "no checkpoint says what Adam remembers" in told[0]
