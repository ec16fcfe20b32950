"""Every pipeline that ships holds together and finds its rows; with `-m slow` each goes through to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from tiny_tokenizers import CHATML, letters

from luthier import verbs
from luthier.recipe import Recipe
from luthier.workflow.pipeline import reading

ROOT = Path(__file__).parents[2]
PIPELINES = sorted((ROOT / "recipes" / "pipelines").glob("*.yaml"))
ANY = "reward=[{length: {unit: characters, least: 5, most: 20, fade: 60}}]"
"""What a random model is paid for: it answers no question."""
PLAIN = {
    "raft": [f"stages.rounds.stages.best.{ANY}"],
    "star": [f"stages.rounds.stages.right.{ANY}", "stages.rounds.stages.right.above=0.01"],
    "expert_iteration": [f"stages.rounds.stages.right.{ANY}", "stages.rounds.stages.right.above=0.01"],
    "best_worst_dpo": [f"stages.rounds.stages.pairs.{ANY}"],
    "backtranslation": [],
    "constitution": [f"stages.pairs.{ANY}", "stages.revised.temperature=1.0", "stages.revised.rounds=1"],
    "instructgpt": [],
    "sequence_kd": [],
    "r1": [f"stages.right.{ANY}", "stages.right.above=0.01"],
}
OUTPUTS = {"best_worst_dpo": "best-worst", "expert_iteration": "expert-iteration"}
"""Where the name of the file is not that of the output."""


def test_there_is_one_for_each_way() -> None:
    assert {path.stem for path in PIPELINES} == set(PLAIN)


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_pipeline_holds_together_and_finds_its_data(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    found = reading.read(path)
    assert found.output == tmp_path / "runs" / OUTPUTS.get(path.stem, path.stem)
    assert found.stages and not found.told
    made = {str(stage.made) for stage in found.stages}
    for stage in found.stages:
        keys = stage.work if isinstance(stage.work, Recipe) else getattr(stage.work, "keys", stage.work)
        assert keys.data
        for source in keys.data:
            assert source.path in made or Path(source.path or "").is_file(), f"{stage.name}: {source.path}"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ") and len(lines) < 50


def test_each_round_of_backtranslation_is_asked_of_the_model_that_the_last_one_made(tmp_path: Path) -> None:
    given = ["stages.rounds.repeat=3", f"output={tmp_path / 'out'}"]
    first, *rounds = reading.read(ROOT / "recipes/pipelines/backtranslation.yaml", given).stages
    made = [str(one.made) for one in (first, *rounds)]
    for number, stage in enumerate(rounds):
        assert isinstance(stage.work, Recipe) and isinstance(first.work, Recipe)
        (_, step) = stage.work.data[1].steps
        assert (step.name, step.args["model"], step.args["keep"]) == ("backtranslate", made[number], 4)
        assert stage.work.model.name == first.work.model.name, "learnt is only ever by the first model"


@pytest.mark.slow
@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_a_tiny_model_goes_through_a_pipeline(path: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))  # what it says is kept, and is nobody's
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": 8192}
    module = tiny.model(0, **sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=2)
    module.lm_head.weight.data[2] *= 4  # the end comes now and then
    module.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = path.read_text(encoding="utf-8").replace("smollm2-135m-instruct", str(tmp_path / "model"))
    (tmp_path / "pipeline.yaml").write_text(text.replace("../", f"{ROOT}/recipes/"), encoding="utf-8")
    given = [f"output={tmp_path / 'out'}", *PLAIN[path.stem]]
    for stage in reading.read(tmp_path / "pipeline.yaml", given).stages:
        way = stage.name.replace("/1/", "/stages/").replace("/", ".")
        if "/" not in stage.name or "/1/" in stage.name:
            given += [f"stages.{way}.train.steps=1", f"stages.{way}.evaluate=[]"] if stage.kind == "train" else []
            given += [f"stages.{way}.data.limit=12"] if stage.kind in ("generate", "revise") else []
    out = verbs.run(tmp_path / "pipeline.yaml", given)
    assert {stage["state"] for stage in json.loads((out / "pipeline.json").read_text())["stages"].values()} == {
        "finished"
    }
