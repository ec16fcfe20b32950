"""A run goes on by the rewards that it began with: their files are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rollout_runs import Learner

from luthier.errors import LuthierError
from luthier.recipe import Plugin
from luthier.recipe.schema import Reward
from luthier.train.rollouts.judging import Judging

LONGER = "def worth(response):\n    return len(response) / 10\n"
SHORTER = "def worth(response):\n    return 1 - len(response) / 10\n"


class Killed(Exception):
    """As a kill after the first checkpoint."""


def learn(folder: Path, file: Path, *, dies: bool = False) -> Learner:
    def watch(event: Mapping[str, Any]) -> None:
        if dies and event["kind"] == "step" and event["step"] == 2:
            raise Killed

    reward = Reward(scorer=Plugin(name="python", args={"function": f"{file}:worth"}))
    return Learner(folder, None, {"grpo": {"kl": 0.0}}, rewards=(reward,), steps=3, save_every=1).fit(watch)


def test_a_run_whose_reward_was_edited_does_not_go_on(tmp_path: Path) -> None:
    file = tmp_path / "rewards.py"
    file.write_text(LONGER)
    with pytest.raises(Killed):
        learn(tmp_path / "run", file, dies=True)
    file.write_text(SHORTER)
    with pytest.raises(LuthierError, match=r"rewards.py: the file of a reward has changed since the run began") as told:
        learn(tmp_path / "run", file)
    assert "put it back as it was" in (told.value.fix or "") and str(tmp_path / "run") in (told.value.fix or "")
    file.write_text(LONGER)
    learner = learn(tmp_path / "run", file)
    assert [event["step"] for event in learner.events("step")] == [1, 2, 3]


def test_a_file_that_is_edited_meanwhile_changes_nothing_of_what_runs(tmp_path: Path) -> None:
    from test_judging import judged_by

    file = tmp_path / "rewards.py"
    file.write_text(LONGER)
    judging = Judging([Reward(scorer=Plugin(name="python", args={"function": f"{file}:worth"}))])
    known = dict(judging.files)
    file.write_text(SHORTER)
    assert judged_by(judging, "w5 w5").rewards == [pytest.approx(0.5)]
    assert judging.files == known and list(known) == [str(file)]


def test_what_else_a_reward_hangs_on_is_known(tmp_path: Path) -> None:
    own = tmp_path / "house.yaml"
    own.write_text("language: en\nprinciples:\n  - {name: brief, compare: a, critique: b, revise: c}\n")
    for keys, files in (({"constitution": str(own)}, [str(own)]), ({"constitution": "zh"}, [])):
        plugin = Plugin(name="judge", args={"engine": {"openai": {"url": "http://localhost:1", "model": "x"}}, **keys})
        from luthier.scorers.building import built

        assert list(built(plugin).files()) == files
