"""A reward model scores and does not chat: who talks to one is told what it is good for."""

from pathlib import Path

import pytest
from bench import save_tiny_model
from reward_runs import policy, write_run

from luthier import verbs
from luthier.errors import LuthierError


@pytest.mark.parametrize("adapt", ["lora", "full"])
def test_a_reward_model_is_not_talked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adapt: str):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    model = save_tiny_model(tmp_path / "tiny")
    run = write_run(tmp_path / "rm", policy(model, adapt=adapt), model)
    with pytest.raises(LuthierError, match="a reward model: it scores answers, it gives none") as error:
        verbs.chat(run.folder)
    fix = error.value.fix or ""
    assert error.value.where == str(run.folder) and f"luthier chat {model}" in fix
    assert f"scorers: [{{reward_model: {run.folder}}}]" in fix and "best_of" in fix
