"""Numbers that are on record do not change: losses, gradient norms, judgements, evaluations, scores, final weights.

The record of a machine's kind (`unchanged/<kind>/<run>.json`) is held to the last bit. A kind without a record is
compared with the nearest one, within the run's tolerance and without the weights. After a change that is meant to
change numbers, `-k` picking the runs that it means to change:

    LUTHIER_RECORD=1 python -m pytest tests/trajectory/test_unchanged.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import unchanged_runs
from unchanged_runs import CASES, PINNED, STORIES

HERE = Path(__file__).parent / "unchanged"
RECORDING = os.environ.get("LUTHIER_RECORD", "") not in ("", "0")
FLOOR = 0.3
"""Smaller values are held to a share of this where a machine has no record of its own: margins begin at 0."""
SHOWN = 8


class Runner:
    """A process with a pinned environment that does the runs one after another: torch is loaded once."""

    def __init__(self, cache: Path, said: Path) -> None:
        self.said = said
        environment = {**os.environ, **PINNED, "LUTHIER_CACHE": str(cache)}
        with said.open("w") as log:
            command = [sys.executable, unchanged_runs.__file__]
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.machine = self._answer()

    def __call__(self, name: str) -> dict[str, dict[str, Any]]:
        assert self.process.stdin is not None
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        assert "numbers" in answer, answer["error"]
        found: dict[str, dict[str, Any]] = answer["numbers"]
        return found

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the process is gone; its last words:\n{self.said.read_text()[-2000:]}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.communicate()


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("unchanged")
    running = Runner(folder / "cache", folder / "said.txt")
    yield running
    running.close()


def nearest(kind: str) -> str:
    """The kind on record that has most in common with this one."""
    known = sorted(path.name for path in HERE.iterdir() if path.is_dir())
    assert known, f"nothing is on record in {HERE}"
    return max(known, key=lambda other: (other == kind, len(set(other.split("_")) & set(kind.split("_")))))


def file_of(kind: str, name: str) -> Path:
    return HERE / kind / f"{name.replace(', ', '-').replace(' ', '-')}.json"


def differences(
    record: dict[str, dict[str, Any]], found: dict[str, dict[str, Any]], close: float | None
) -> Iterator[str]:
    """What differs, as `step 2: loss was 1.0, is 1.1`; bit by bit, or within a share and without weights."""
    for where in [*record, *(where for where in found if where not in record)]:
        if where == "weights" and close is not None:
            continue
        was, now = record.get(where), found.get(where)
        if was is None or now is None:
            yield f"{where}: {'is new' if was is None else 'is gone'}"
            continue
        for field, old in was.items():
            new = now.get(field)
            if not same(old, new, close):
                apart = f" (apart by {abs(new - old):.3g})" if isinstance(old, float) and new is not None else ""
                yield f"{where}: {field} was {old!r}, is {new!r}{apart}"
        if where == "weights":
            yield from (f"weights: {name} is new" for name in now if name not in was)


def same(old: Any, new: Any, close: float | None) -> bool:
    if close is None or new is None or not isinstance(old, float):
        return type(old) is type(new) and old == new
    return abs(new - old) <= close * max(abs(old), FLOOR)


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_on_record(name: str, runner: Runner) -> None:
    if CASES[name].model == "stories260k" and not STORIES.is_dir():
        pytest.skip(f"{STORIES} is absent")
    if name == "nf4":
        pytest.importorskip("bitsandbytes")
    found, here = runner(name), runner.machine
    if RECORDING:
        path = file_of(here["kind"], name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"on": here["surroundings"], "numbers": found}, indent=1) + "\n")
        return
    kind = nearest(here["kind"])
    path, exact = file_of(kind, name), kind == here["kind"]
    assert path.exists(), f"{name!r} is not on record as {path}; LUTHIER_RECORD=1 records it"
    record = json.loads(path.read_text())
    differing = list(differences(record["numbers"], found, None if exact else CASES[name].close))
    if differing:
        more = [f"… and {len(differing) - SHOWN} more"] if len(differing) > SHOWN else []
        held = "to the last bit" if exact else f"within {CASES[name].close:g} of a {kind} (this is a {here['kind']})"
        around = {
            key: f"{value} then, {here['surroundings'].get(key)} now"
            for key, value in record["on"].items()
            if value != here["surroundings"].get(key)
        }
        pytest.fail(
            "\n".join([f"{name}, held {held}:", *differing[:SHOWN], *more, f"surroundings that differ: {around}"])
        )


def test_every_record_is_of_a_run() -> None:
    for folder in HERE.iterdir():
        known = {file_of(folder.name, name) for name in CASES}
        assert set(folder.iterdir()) <= known


def test_a_last_bit_is_seen_and_the_message_says_where() -> None:
    record = {"step 1": {"loss": 1.0, "tokens": 3}, "step 2": {"loss": 0.0}, "weights": {"a": "12"}}
    found = {"step 1": {"loss": 1.0 + 2**-52, "tokens": 3}, "step 2": {"loss": 0.0}, "weights": {"a": "13"}}
    assert list(differences(record, record, None)) == []
    assert [each.partition(" (")[0] for each in differences(record, found, None)] == [
        "step 1: loss was 1.0, is 1.0000000000000002",
        "weights: a was '12', is '13'",
    ]
    assert list(differences(record, found, 1e-4)) == []
    assert list(differences(record, {**found, "step 1": {"loss": 1.001, "tokens": 4}}, 1e-4)) == [
        "step 1: loss was 1.0, is 1.001 (apart by 0.001)",
        "step 1: tokens was 3, is 4",
    ]
    assert list(differences(record, {"step 1": found["step 1"]}, 1e-4)) == ["step 2: is gone"]
