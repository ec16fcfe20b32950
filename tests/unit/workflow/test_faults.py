"""Faults in plain words."""

from __future__ import annotations

import errno

import pytest

from luthier.errors import LuthierError
from luthier.workflow.faults import report, words


@pytest.mark.parametrize(
    ("error", "start"),
    [
        (LuthierError("bad", where="a.yaml:3", fix="mend it"), "a.yaml:3: bad\n  → mend it"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: no space left on the disk\n  → free space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "no space left on the disk"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: permission denied\n  → "),
        (FileNotFoundError(errno.ENOENT, "No such file", "/x"), "/x: no such file or directory\n  → check the path"),
        (MemoryError(), "out of memory\n  → lower train.max_tokens"),
        (ModuleNotFoundError("No module named 'wandb'", name="wandb"), "the package 'wandb' is not installed"),
        (ZeroDivisionError("division by zero"), "something went wrong inside Luthier: ZeroDivisionError: division"),
    ],
)
def test_every_kind_of_fault_has_plain_words(error: Exception, start: str) -> None:
    assert words(error).startswith(start)


def test_a_fault_has_its_exit_status_and_a_traceback_only_if_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert report(LuthierError("bad")) == 1
    assert capsys.readouterr().err == "error: bad\n"
    assert report(KeyboardInterrupt(), resumes=True) == 130
    assert capsys.readouterr().err == "stopped; run the same command to resume\n"
    assert report(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "stopped\n", "there is nothing to resume"
    try:
        raise LuthierError("bad")
    except LuthierError as error:
        assert report(error, debug=True) == 1
    assert "Traceback" in capsys.readouterr().err
