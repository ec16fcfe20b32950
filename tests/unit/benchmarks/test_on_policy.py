"""The contest of whole on-policy steps: what it reads of a run, and what it divides by what."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

import on_policy
from learning.varied import varied

WORK = on_policy.OnPolicy("m", "t.jsonl", "r.py", steps=3, prompts=4)


def run(seconds: list[float], training: float, peak: float) -> dict[str, Any]:
    parts = {"sampling": 1.0, "scoring": 0.0, "training": training, "tokens": 1500, "cut": 24}
    return {"steps": [{"seconds": one, **parts} for one in seconds], "rewards": [0.5], "peak_gib": peak}


def test_the_first_step_is_not_counted_and_rivals_are_taken_at_their_best() -> None:
    runs = {
        "luthier": [run([50.0, 10.0, 12.0], 4.0, 1.5)],
        "luthier-whole-rows": [run([90.0, 20.0], 10.0, 2.0)],
        "trl-defaults": [run([1.0, 66.0], 50.0, 2.7)],
        "trl-best": [run([1.0, 44.0], 30.0, 4.0)],
    }
    rivals, sharing = on_policy.bars(runs)
    assert "4.00 × the samples a second" in rivals and "(bar 4: met)" in rivals
    assert "1.80 × its memory (bar 2: NOT met)" in rivals, "the leanest, not the fastest"
    assert "0.40 × whole rows (bar 0.45: met)" in sharing
    assert not on_policy.bars({"trl-best": runs["trl-best"]})
    (line,) = [one for one in on_policy.table(runs, WORK).splitlines() if one.startswith("| luthier |")]
    assert [cell.strip() for cell in line.split("|")[2:5]] == ["2.91", "136", "11.0"] and "75%" in line


def test_a_step_is_everything_between_the_ends_of_two(tmp_path: Path) -> None:
    said = {"speaking_seconds": 2.0, "scoring_seconds": 0.5, "length": 46.5, "cut": 0.75, "reward": 0.3}
    events = [{"kind": "start", "time": 100.0, "versions": {}, "path": "packed"}]
    for end in (110.0, 117.0):
        events += [{"kind": "rollout", "time": end - 4, **said}, {"kind": "step", "time": end, "training_seconds": 4.0}]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "events.jsonl").write_text("\n".join(json.dumps(event) for event in events))
    found = on_policy.of_luthier(tmp_path, WORK)["steps"]
    assert [step["seconds"] for step in found] == [10.0, 7.0]
    assert found[1] | {"seconds": 0} == {
        "seconds": 0, "sampling": 2.0, "scoring": 0.5, "training": 4.0, "tokens": 1488, "cut": 24,
    }  # fmt: skip


def test_the_reward_is_the_share_of_new_words() -> None:
    assert varied("a b A c") == pytest.approx(0.75) and varied("") == 0.0
