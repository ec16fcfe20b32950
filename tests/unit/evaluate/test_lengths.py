"""Mean conversation length: by hand, its intervals over users, and what the end of a log hides."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from luthier.errors import LuthierError
from luthier.evaluate.lengths import Lengths, lines, table
from luthier.workflow.engagement import engagement

DAY = 86400


def lengths(*given: tuple[str, str, int]) -> Lengths:
    found = Lengths()
    for model, user, length in given:
        found.add(model, user, length)
    return found


def test_lengths_by_hand() -> None:
    found = lengths(("b", "ann", 2), ("b", "ann", 4), ("b", "bo", 9), ("a", "cy", 3), ("a", "cy", 1), ("a", "bo", 8))
    compared = found.compared()
    assert list(compared) == ["a", "b"] and list(found.compared("b")) == ["b", "a"]
    a, b = compared["a"], compared["b"]
    assert (a.users, a.conversations, a.mean.value) == (2, 3, 4.0) and (b.users, b.conversations, b.mean.value) == (
        2,
        3,
        5.0,
    )
    assert a.difference is None and b.difference is not None and b.difference.value == 1.0
    assert found.compared("b")["a"].difference.value == -1.0  # type: ignore[union-attr]
    assert found.crossing == 1 and list(lines(found)) == ["1 users talked with more than one model"]
    console = Console(file=StringIO(), width=120)
    console.print(table(compared, "turns"))
    assert "+1.00" in console.file.getvalue()  # type: ignore[attr-defined]
    with pytest.raises(LuthierError, match="the models are a, b"):
        found.compared("c")


def test_intervals_are_over_users_not_conversations() -> None:
    """Each user has a length of their own, and a hundred conversations of it: there are 50 numbers, not 5,000."""
    rng = np.random.default_rng(0)
    own = rng.poisson(6, 50)
    many = lengths(*(("m", f"u{n}", int(length)) for n, length in enumerate(own) for _ in range(100)))
    one = many.compared()["m"].mean
    half = 1.96 * own.std() / np.sqrt(50)
    assert one.low == pytest.approx(own.mean() - half, abs=0.15) and one.high == pytest.approx(
        own.mean() + half, abs=0.15
    )
    once = lengths(*(("m", f"u{n}", int(length)) for n, length in enumerate(own))).compared()["m"].mean
    assert (once.low, once.high) == (one.low, one.high)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Users of two models, unequal in how much they talk; the true lengths are known."""
    rng = np.random.default_rng(1)
    held = 0
    for trial in range(100):
        found = Lengths()
        for model, mean in (("a", 4.0), ("b", 5.0)):
            for user in range(60):
                taste = rng.gamma(4, mean / 4)
                for _ in range(3):
                    found.add(model, f"{model}{user}", int(rng.poisson(taste)))
        difference = found.compared(seed=trial)["b"].difference
        held += difference.low <= 1.0 <= difference.high
    assert 88 <= held <= 99, "95 of 100, give or take chance"


def test_users_of_both_models_make_the_difference_sharper() -> None:
    rng = np.random.default_rng(2)
    own = rng.poisson(8, 80)
    paired = [
        row for n, length in enumerate(own) for row in (("a", f"u{n}", int(length)), ("b", f"u{n}", int(length) + 1))
    ]
    difference = lengths(*paired).compared()["b"].difference
    assert (difference.low, difference.high) == (pytest.approx(1.0), pytest.approx(1.0))
    apart = [(model, user + model, length) for model, user, length in paired]
    wide = lengths(*apart).compared()["b"].difference
    assert wide.high - wide.low > 1.0


def test_few_users_have_no_interval() -> None:
    compared = lengths(("a", "u", 1), ("a", "u", 5), ("b", "v", 2), ("b", "w", 4)).compared()
    assert compared["a"].mean.low is None and compared["b"].mean.low is not None
    assert compared["b"].difference.low is None
    assert Lengths().compared() == {}


def test_only_what_was_watched_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def talk(start: float, turns: int, **more: object) -> dict[str, object]:
        said = [
            {"role": role, "content": "x", "time": start + 2 * n + late}
            for n in range(turns)
            for late, role in enumerate(("user", "assistant"))
        ]
        return {"messages": said, **more}

    retried = talk(0, 2, model="a")
    retried["messages"].insert(1, {"role": "assistant", "content": "y", "time": 0, "events": ["retried"]})  # type: ignore[attr-defined]
    rows = [
        retried, talk(0, 5, model="b"), talk(3 * DAY - 9, 1, model="b"),
        {"messages": [*talk(0, 1)["messages"], *talk(2 * DAY, 3)["messages"]], "model": "a"},  # type: ignore[misc]
        talk(2 * DAY + 5, 9, model="a"),
    ]  # fmt: skip
    path = tmp_path / "logs.jsonl"
    path.write_text(
        "".join(json.dumps({"user": f"u{n}", "conversation": n, **row}) + "\n" for n, row in enumerate(rows))
    )
    compared = engagement([str(path)])
    assert {name: (one.conversations, one.mean.value) for name, one in compared.items()} == {
        "a": (2, 1.5),
        "b": (1, 5.0),
    }
    assert "2 conversations do not count" in capsys.readouterr().err
    both = engagement([str(path)], overrides=["count=messages"])
    assert {name: one.mean.value for name, one in both.items()} == {"a": 3.0, "b": 10.0}, "a retried response is gone"
    by_user = engagement([str(path)], overrides=["columns.model=user", "baseline=u1"])
    assert list(by_user) == ["u1", "u0", "u3"]
