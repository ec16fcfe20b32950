"""The proofs of learning: what is read of runs, what is divided by what, and what the tasks are given."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from learning import contest, runs, sums, teacher, theorems

from luthier.demo.theorems import split
from luthier.objectives import OBJECTIVES


def run(drawn: list[int], right: list[float], tuned: float) -> dict[str, Any]:
    systems = {"base": {"value": 0.5, "low": 0.4, "high": 0.6}, "tuned": {"value": tuned, "low": 0.0, "high": 1.0}}
    score = {"systems": systems, "difference": {"tuned": {"value": tuned - 0.5, "low": -0.1, "high": 0.3}}}
    rollouts = [{"drawn": one, "length": 10.0, "right": share} for one, share in zip(drawn, right, strict=True)]
    return {"n": 2, "rollouts": rollouts, "warned": ["kl"], "summary": {"scores": {"held-out": {"scores": [score]}}}}


def test_a_method_that_draws_more_is_judged_at_as_many_tokens() -> None:
    found = {"GRPO": [run([4, 4], [0.5, 0.7], 0.8)], "DAPO": [run([8, 8], [0.5, 0.9], 0.9)]}
    task = contest.Task("t", (), "m", "a", "b", {"exact_match": {}}, {}, {}, "full", 2)
    assert contest.drawn_tokens(found["DAPO"][0]) == [160, 160]
    lines = contest.text(task, [7], found).splitlines()
    assert lines[2] == "|  | before | seed 7 | tokens drawn | at GRPO's tokens | warned |"
    assert lines[4:] == ["| GRPO | 0.500 | 0.800 | 160 | 0.600 | kl |", "| DAPO | 0.500 | 0.900 | 320 | 0.500 | kl |"]


def test_runs_of_one_method_have_each_a_file_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "WORK", tmp_path)
    written: list[str] = []
    monkeypatch.setattr(runs, "luthier", lambda log, *words, threads=1: written.append(words[1]))
    monkeypatch.setattr(runs, "read", lambda folder: {})
    task = contest.Task("t", (), "m", "a", "b", {"exact_match": {}}, {"n": 3, "max_new_tokens": 4}, {}, "full", 2)
    recipes = [task.recipe(contest.Method("PPO 0.95", {"ppo": {}}), seed) for seed in (0, 1)]
    assert [one["n"] for one in runs.all_ran(recipes, 2)] == [3, 3]
    assert sorted(Path(one).name for one in written) == ["PPO_0.95-0.yaml", "PPO_0.95-1.yaml"]


def test_a_score_without_a_base_has_no_difference() -> None:
    found = run([1], [0.0], 0.75)
    assert set(runs.scored(found)) == {"base", "tuned", "difference"}
    (score,) = found["summary"]["scores"]["held-out"]["scores"]
    score["difference"] = {}
    assert set(runs.scored(found)) == {"base", "tuned"}
    assert runs.shown(runs.scored(found)["base"]) == "0.500 [0.400, 0.600]"
    assert runs.mean([1.0, 1.0]) == {"value": 1.0, "low": 1.0, "high": 1.0}


@pytest.mark.parametrize("task", ["first", "last"])
def test_steps_beyond_those_of_others_are_the_critics_alone(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[contest.Task] = []
    monkeypatch.setattr(sums, "half_taught", lambda *args, **keys: "m")
    monkeypatch.setattr(sums.runs, "write", lambda path, rows: str(path))
    monkeypatch.setattr(sums, "held", lambda task, *rest: asked.append(task))
    getattr(sums, task)([0], 1)
    for method in asked[0].methods:
        ((name, keys),) = method.objective.items()
        assert getattr(OBJECTIVES.build(name, keys), "warm", 0) == method.extra, method.name


def memoryless(folder: Path, logits: torch.Tensor) -> str:
    """A model that says each token with the same probabilities wherever it stands."""
    sums.folder(folder, 0, hidden=16, layers=1)
    module = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        module.model.embed_tokens.weight.fill_(1.0)
        for layer in module.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        module.lm_head.weight.copy_(logits[:, None].expand(-1, 16) / 16)
    module.save_pretrained(folder)
    return str(folder)


def test_divergences_are_those_of_whole_answers(tmp_path: Path) -> None:
    count, longest = len(sums.SYMBOLS), teacher.DIGITS + 6
    of_V, to_V = torch.zeros(count), torch.linspace(-1, 1, count)
    of_V[1] = 1.5  # the end
    one, other = memoryless(tmp_path / "one", of_V), memoryless(tmp_path / "other", to_V)
    prompts = [row["prompt"] for row in sums.rows(400, teacher.DIGITS, 0)]
    found = teacher.apart(one, other, prompts)
    for key, p_V, q_V in (("own", of_V, to_V), ("taught", to_V, of_V)):
        p_V, q_V = p_V.log_softmax(-1), q_V.log_softmax(-1)
        end = float(p_V[1].exp())
        length = (1 - (1 - end) ** longest) / end
        assert found[key] == pytest.approx(length * float((p_V.exp() * (p_V - q_V)).sum()), rel=0.15)
    assert teacher.apart(one, one, prompts[:8]) == pytest.approx({"own": 0.0, "taught": 0.0}, abs=1e-6)


def test_an_answer_is_said_up_to_its_end(tmp_path: Path) -> None:
    logits_V = torch.zeros(len(sums.SYMBOLS))
    logits_V[1] = 2.0
    module = AutoModelForCausalLM.from_pretrained(memoryless(tmp_path / "one", logits_V))
    with torch.no_grad():
        ids_BT, said_BT = teacher.drawn(module, torch.full((64, 3), 4), 1)
    for ids_T, said_T in zip(ids_BT[:, 3:].tolist(), said_BT.tolist(), strict=True):
        end = ids_T.index(1) if 1 in ids_T else math.inf
        assert said_T == [place <= end for place in range(teacher.DIGITS + 6)]


def test_the_prover_reads_and_writes_every_theorem(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(theorems.folder(tmp_path, 0))
    for statement, proof in (*split()[0], *split()[1]):
        for text in (statement, proof):
            ids = tokenizer(text).input_ids
            assert tokenizer.unk_token_id not in ids
            assert "".join(tokenizer.decode(ids).split()) == "".join(text.split())


def test_the_pipeline_that_ships_is_the_one_that_is_measured(tmp_path: Path) -> None:
    given = theorems.pipeline(tmp_path, 3)
    stages = given["stages"]["rounds"]["stages"]
    assert list(given["stages"]) == ["first", "rounds"] and list(stages) == ["proofs", "right", "tuned"]
    shown = stages["tuned"]["data"][0]
    assert shown == given["stages"]["first"]["data"] and Path(shown["path"]).is_file() and shown["limit"] == 40
    assert stages["proofs"]["seed"] == stages["tuned"]["seed"] == 3
    rows = [json.loads(line) for line in Path(stages["proofs"]["data"]).read_text().splitlines()]
    assert [row["statement"] for row in rows] == [statement for statement, _ in split()[0]]
