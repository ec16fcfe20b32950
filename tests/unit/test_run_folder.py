"""The run folder: lines that stay lines, files that are not whole, and a folder that is taken away under a process."""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from luthier.errors import LuthierError
from luthier.run import Run, write_atomically
from luthier.train.rollouts.journal import Journal
from luthier.workflow.faults import words

ENDS = "a\x0bb\x0cc\x1cd\x1ee\x85f\u2028g\u2029h\ri\nj"


@pytest.fixture
def run(tmp_path) -> Run:
    folder = tmp_path / "run"
    folder.mkdir()
    return Run(folder)


# lines
def test_an_event_is_one_line_whatever_line_ends_its_text_holds(run):
    run.event("warning", text=ENDS)
    run.event("end")
    assert [event.get("text") for event in run.events()] == [ENDS, None]
    assert len(run.events_path.read_text(encoding="utf-8").splitlines()) == 2  # for other readers, too


def test_a_line_end_that_stands_raw_in_a_text_does_not_end_the_line(run):
    """As an earlier version wrote it."""
    run.samples_path.write_text(json.dumps({"task": "a", "text": ENDS}, ensure_ascii=False) + "\n", encoding="utf-8")
    assert "\u2028" in run.samples_path.read_text(encoding="utf-8")
    assert [sample["text"] for sample in run.samples()] == [ENDS]


def test_half_a_character_is_written_and_read_back(run):
    """Python gives a file's name so, where it is not UTF-8."""
    run.event("warning", text="caf\udce9")
    run.write_json(run.ledger_path, {"caf\udce9": 1})
    write_atomically(run.report_path, "caf\udce9")
    assert [event["text"] for event in run.events()] == ["caf\udce9"]
    assert run.read_json(run.ledger_path) == {"caf\udce9": 1}
    assert run.report_path.read_text(encoding="utf-8") == r"caf\udce9"


# files that are not whole
def test_an_event_that_was_cut_off_is_none_and_what_follows_is_a_line_of_its_own(run):
    run.event("start")
    with run.events_path.open("ab") as file:
        file.write('{"kind": "step", "text": "é'.encode()[:-1])  # in the middle of a character
    assert [event["kind"] for event in run.events()] == ["start"]
    run.event("end")
    assert [event["kind"] for event in run.events()] == ["start", "end"]


def test_a_log_that_is_half_a_line_begins_anew(run):
    run.events_path.write_text("x" * 70_000)
    run.event("start")
    assert [event["kind"] for event in run.events()] == ["start"]


@pytest.mark.parametrize("broken", ['{"kind": "st', "[]", '{"time": 1}', "\x00", "", '{"kind": "a"}{'])
def test_a_broken_line_among_the_events_is_named(run, broken):
    run.events_path.write_text(f'{{"kind": "start"}}\n{broken}\n{{"kind": "end"}}\n')
    with pytest.raises(LuthierError) as error:
        list(run.events())
    assert error.value.where == f"{run.events_path}:2" and "take the line out" in (error.value.fix or "")


@pytest.mark.parametrize("content", ['{"scores": {"held', "", "[1]", "nothing", '"\xff'])
@pytest.mark.parametrize("name", ["summary_path", "ledger_path"])
def test_a_json_file_that_is_not_whole_is_named_with_a_remedy(run, name, content):
    path = getattr(run, name)
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(LuthierError) as error:
        run.read_json(path)
    assert str(path) in (error.value.where or "") and "remove the file" in (error.value.fix or "")


def test_samples_that_are_not_whole_are_named(run):
    """They are written all at once, so that half a line is a fault, the last one, too."""
    run.samples_path.write_text('{"task": "a"}\n{"task": "b"')
    with pytest.raises(LuthierError, match="is not whole") as error:
        list(run.samples())
    assert error.value.where == f"{run.samples_path}:2" and "luthier evaluate" in (error.value.fix or "")


# a folder that is taken away
def test_who_holds_a_folder_notices_that_another_took_its_place(run):
    with run.locked():
        run.event("start")
        shutil.rmtree(run.folder)
        other = Run(run.folder)
        with other.locked():
            other.event("start", mine=True)
            for write in (
                lambda: run.event("step"),
                lambda: run.write_json(run.summary_path, {}),
                run.still_held,
            ):
                with pytest.raises(LuthierError, match="removed, or another put in its place"):
                    write()
            assert [event.get("mine") for event in other.events()] == [True]
            assert not run.summary_path.exists()


def test_who_holds_a_folder_does_not_make_it_again(run):
    with run.locked():
        shutil.rmtree(run.folder)
        with pytest.raises(LuthierError, match="removed"):
            run.write_json(run.summary_path, {})
        assert not run.folder.exists()


def test_a_held_folder_may_be_moved_back_and_a_free_one_is_written_by_anyone(run, tmp_path):
    with run.locked():
        run.folder.rename(tmp_path / "away")
        (tmp_path / "away").rename(run.folder)
        run.event("step")
    run.event("end")  # no lock, no claim
    assert len(list(run.events())) == 2


def test_a_folder_in_use_is_refused(run):
    with run.locked(), pytest.raises(LuthierError, match="in use by another process"), Run(run.folder).locked():
        pass
    with run.locked():
        run.event("start")


# a disk without space
def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(
    ("name", "call", "write"),
    [
        ("summary.json", "fsync", lambda run: run.write_json(run.summary_path, {})),
        (".lock", "write", lambda run: run.locked().__enter__()),
        ("rollouts/open.jsonl", "fsync", lambda run: Journal(run.rollouts / "open.jsonl", {"rollout": 0}).close()),
    ],
)
def test_a_full_disk_is_named(
    run: Run, name: str, call: str, write: Callable[[Run], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left") as told:
        write(run)
    assert words(told.value).startswith(f"{run.folder / name}: no space left on the disk\n  → free space")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_event_that_finds_no_space_names_its_file(run: Run) -> None:
    run.events_path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as told:
        run.event("start", text="x" * 100_000)
    assert words(told.value).startswith(f"{run.events_path}: no space left on the disk")
