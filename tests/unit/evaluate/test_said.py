"""What a model said while it learnt: which answers of which step are shown, and the curves of what it was worth."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from luthier.errors import LuthierError
from luthier.evaluate import said, write_report
from luthier.evaluate.curves import read_curves
from luthier.run import Run


def answer(text: str, reward: float | None, **more: Any) -> dict[str, Any]:
    parts = {"maths": None if reward is None else float(reward > 0.5), "format": 1.0}
    fixed = {"step": 1, "source": "q.jsonl:1", "asked": "how many?", "prompt": "p", "finish": "stop", "tokens": 3}
    return {**fixed, "text": text, "reward": reward, "parts": parts, "advantage": None, "index": 0, **more}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Rollouts begun by steps 1 and 3, each for two steps; the run has made three."""
    run = Run(tmp_path / "run")
    run.rollouts.mkdir(parents=True)
    for step in (1, 3):
        rows = [answer("good", 1.0), answer("mute", None), answer("bad", 0.1)]
        text = "".join(json.dumps({**row, "step": step}) + "\n" for row in rows)
        (run.rollouts / f"step-{step:06d}.jsonl").write_text(text)
        parts = {"reward_maths": step / 4, "reward_format": 1 - step / 4}
        run.event(
            "rollout", step=step, reward=0.5, reward_std=0.1, right=0.5, length=9 + step, cut=0.0, entropy=1.0, **parts
        )
    for step in (1, 2, 3):
        run.event("step", step=step, loss=0.1 * step, kl=0.01 * step, lr=1e-4)
    for step in (1, 3):
        run.event("evaluation", step=step, loss=1 - step / 10, score=step / 10, best=True)
    return run


def shown(run: Run, step: int | None, count: int, *, worst: bool = False) -> str:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(said.table(run, step, count, worst=worst))
    return console.export_text()


def test_answers_of_which_nothing_could_be_said_are_shown(run: Run) -> None:
    every = shown(run, None, 5)
    assert "3 answers, 1 of which nothing could be said" in every
    assert every.index("good") < every.index("bad") < every.index("nothing could be said (maths ?, format 1)")
    assert "mute" in every
    assert "mute" not in shown(run, 1, 2)
    first = shown(run, 1, 1, worst=True)
    assert "mute" in first and "bad" not in first and "step-000001" in first


def test_a_step_is_served_by_the_rollout_that_was_open_and_one_that_never_came_is_told(run: Run) -> None:
    assert [said.at(run, step).stem for step in (1, 2, 3, None)] == ["step-000001"] * 2 + ["step-000003"] * 2
    for step in (4, 99):
        with pytest.raises(LuthierError, match=f"has not come to step {step}: its last is 3") as told:
            said.at(run, step)
        assert "--step 3" in (told.value.fix or "")


def test_each_part_of_the_reward_and_the_held_out_score_have_a_curve(run: Run) -> None:
    curves = read_curves(run)
    assert curves.parts == {"maths": ((1, 0.25), (3, 0.75)), "format": ((1, 0.75), (3, 0.25))}
    assert curves.scores == ((1, 0.1), (3, 0.3)) and curves.evaluation == ()
    page = write_report(run).read_text()
    for title in ("Reward", "Reward: maths", "Reward: format", "Held-out score", "Share right", "Tokens of an answer"):
        assert title in page
    for title in ("KL to the reference, nats a token", "Entropy, nats a token", "Loss"):
        assert title in page


def test_what_was_said_is_shown_where_nothing_is_called_right_and_where_nobody_judges(run: Run) -> None:
    page = write_report(run).read_text()  # there is no prompts.jsonl: the first scorer has no right and wrong
    assert '<h2 id="said">' in page and 'href="#said"' in page and "best paid" in page and "hopeless" not in page
    for path in run.rollouts.iterdir():
        path.write_text(json.dumps(answer("as it comes", 0.0, parts={})) + "\n")
    page = write_report(run).read_text()
    assert "an answer" in page and "as it comes" in page and "paid" not in page.split('id="said"')[1].split("<h2")[0]
    assert "3 tokens · q.jsonl:1" in shown(run, None, 1) and "()" not in shown(run, None, 1)


def test_rewards_stand_above_all_where_the_loss_says_nothing(run: Run) -> None:
    run.write_json(run.summary_path, {"steps": 3, "first_loss": 0.0, "last_loss": 9e-5, "evaluation_loss": 0.7})
    told = "".join(write_report(run).read_text().split('id="curves"')[0])
    assert (
        "first loss" in told and "first reward" in told and "evaluation loss" not in told
    )  # a distillation's loss says much
    assert "held-out score" in told and "0.3" in told
    run.event("step", step=4, loss=0.0, clipped=0.0)
    told = "".join(write_report(run).read_text().split('id="curves"')[0])
    assert "loss" not in told and "last reward" in told


def test_one_reward_alone_has_one_curve(run: Run) -> None:
    run.events_path.write_text("")
    for step in (1, 2):
        run.event("rollout", step=step, reward=0.5, reward_std=0.1, reward_maths=0.5)
    assert read_curves(run).parts == {} and "Reward: maths" not in write_report(run).read_text()
