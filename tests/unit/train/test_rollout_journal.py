"""Rollouts on disk: what was drawn and judged is read again as it was, and what is lost is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rollout_runs import Learner

from luthier.errors import LuthierError
from luthier.train.rollouts.drawn import Answer
from luthier.train.rollouts.journal import Journal

PLAIN: dict[str, Any] = {"grpo": {"kl": 0.0}}
HEAD = {"rollout": 3, "recipe": "abc"}


def filled(path: Path) -> Journal:
    journal = Journal(path, HEAD)
    journal.answer(7, 0, Answer((5, 1), np.array([-0.1, -1 / 3], np.float32), "w5 ein Bär \u2028", "stop"))
    journal.judged(7, 0, {"contains": 1.0, "f1": None})
    journal.judged(7, 0, {"late": 0.5})
    journal.computed("old_logp", 7, [np.array([-0.7, np.float32(-1 / 7)], np.float32)])
    return journal


def test_a_journal_reads_what_it_wrote_to_the_bit(tmp_path: Path) -> None:
    filled(tmp_path / "j.jsonl").close()
    again = Journal(tmp_path / "j.jsonl", HEAD)
    assert again.answers[7, 0].ids == (5, 1) and again.answers[7, 0].text == "w5 ein Bär \u2028"
    assert np.array_equal(again.answers[7, 0].logp_T, np.array([-0.1, -1 / 3], np.float32))
    assert again.parts[7, 0] == {"contains": 1.0, "f1": None, "late": 0.5}
    assert np.array_equal(again.passes["old_logp", 7][0], np.array([-0.7, -1 / 7], np.float32))


@pytest.mark.parametrize("cut", [1, 20, 400])
def test_a_half_written_line_is_none_and_is_written_again(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    filled(path).close()
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(path, HEAD)
    assert ("old_logp", 7) not in journal.passes
    journal.computed("old_logp", 7, [np.zeros(2, np.float32)])
    journal.close()
    again = Journal(path, HEAD)
    assert (("old_logp", 7) in again.passes and (7, 0) in again.answers) or cut == 400


def test_the_journal_of_another_rollout_is_begun_anew(tmp_path: Path) -> None:
    filled(tmp_path / "j.jsonl").close()
    assert not Journal(tmp_path / "j.jsonl", {**HEAD, "recipe": "another"}).answers
    assert not Journal(tmp_path / "j.jsonl", HEAD).answers, "the file is the other one's now"


def test_an_open_rollout_that_is_lost_is_told(tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(event: Any) -> None:
        if event["kind"] == "step" and event["step"] == 4:
            raise Stopped

    def learner() -> Learner:
        return Learner(tmp_path, {"updates": 3}, PLAIN, steps=6, save_every=2)

    with pytest.raises(Stopped):
        learner().fit(stop)
    (tmp_path / "rollouts" / "open-000004.jsonl").unlink()
    for path in (tmp_path / "checkpoints").glob("step-00000004"):
        raise AssertionError(path)
    found = learner().fit()  # the checkpoint of step 2 goes on with the first rollout, which is there
    assert len(found.events("step")) == 6
    with pytest.raises(Stopped):
        again = Learner(tmp_path / "b", {"updates": 3}, PLAIN, steps=6, save_every=2)
        again.fit(stop)
    (tmp_path / "b" / "rollouts" / "open-000001.jsonl").unlink()
    with pytest.raises(LuthierError, match="not whole any more"):
        Learner(tmp_path / "b", {"updates": 3}, PLAIN, steps=6, save_every=2).fit()
