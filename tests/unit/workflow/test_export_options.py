"""An option of `luthier export` that would do nothing is refused."""

from __future__ import annotations

from typing import Any

import pytest

from luthier.cli import main
from luthier.errors import LuthierError
from luthier.workflow.export_check import must_do_something

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
