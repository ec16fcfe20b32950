"""An option of `luthier export` that would do nothing is refused."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from luthier.cli import app, main
from luthier.errors import LuthierError
from luthier.workflow.export_check import asked, must_do_something

NOTHING: dict[str, Any] = {"merge": False, "how": None, "density": None, "to": None, "keys": []}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"how": "ties"}, "--how says how several adapters become one"),
        ({"how": "linear"}, "--how says how several adapters become one"),
        ({"density": 0.5}, "--density says how several"),
        ({"merge": True, "density": 0.5}, "linear keeps all of it"),
        ({"merge": True, "density": 0.5, "how": "linear"}, "linear keeps all of it"),
        ({"merge": True, "keys": ["dtype=fp32"]}, "the combined run is not exported"),
    ],
)
def test_it_says_what_it_would_not_do(given: dict[str, Any], says: str) -> None:
    with pytest.raises(LuthierError, match=says):
        must_do_something(**NOTHING | given)


@pytest.mark.parametrize(
    "given",
    [
        {"keys": ["dtype=fp32"]},
        {"merge": True},
        {"merge": True, "how": "ties", "density": 0.5, "to": "merged", "keys": ["dtype=fp32"]},
    ],
)
def test_what_does_something_passes(given: dict[str, Any]) -> None:
    must_do_something(**NOTHING | given)


def test_the_command_line_asks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["export", "no-run", "--how", "ties"])
    assert "nothing is merged here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "option"),
    [("x-merged", "--folder x-merged"), ("merged", "--to merged"), ("other:0.5", "--merge --folder NEW")],
)
def test_a_word_behind_the_run_is_told_the_option_it_wants(
    word: str, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "recipe.lock.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LuthierError) as error:
        asked("merged", ["dtype=fp32", word])
    assert error.value.where == word and option in (error.value.fix or "")


def test_every_verb_takes_six_parameters_at_most() -> None:
    counts = {command.name: len(inspect.signature(command.callback).parameters) for command in app.registered_commands}
    assert max(counts.values()) <= 6, counts
