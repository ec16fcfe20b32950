"""The sandbox by itself: what a command can do, what it cannot, and how its end is told."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from processes import must_be_gone

from luthier.errors import LuthierError
from luthier.scorers import sandbox
from luthier.scorers.sandbox import Limits, Sandbox, _standing
from luthier.scorers.sandbox.walls import KINDS, Kind, python

BOX = Sandbox(Limits(seconds=1, processes=1))


@pytest.fixture(params=KINDS[:-1])
def kind(request: pytest.FixtureRequest) -> Kind:
    """Each kind of walls that stands here."""
    if _standing(request.param) is None:
        pytest.skip(f"no {request.param} here")
    return request.param


def shell(box: Sandbox, line: str, **more: object):
    return box.run(["/bin/sh", "-c", line], **more)


def test_a_command_reads_its_files_and_its_input_and_is_heard(kind: Kind) -> None:
    box = Sandbox(Limits(seconds=1), kind=kind)
    ended = box.run(["/bin/cat", "deep/a.txt", "-", "b.txt"], {"deep/a.txt": "one\n", "b.txt": b"three\n"}, "two\n")
    assert (ended.ended, ended.code, ended.out, ended.err) == ("exit", 0, "one\ntwo\nthree\n", "")
    assert box.run(["/bin/cat"]).out == "", "without an input there is none"
    assert shell(box, "exit 3").code == 3
    assert str(box.walls()) and box.walls().whole


def test_only_what_is_given_can_be_read_and_nothing_outside_written(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("word")
    line = (
        f"cat {tmp_path}/secret; echo x > {tmp_path}/new; echo y > own; cat own; echo $LUTHIER_SECRET; pwd > /dev/null"
    )
    box = Sandbox(Limits(seconds=1, processes=8), kind=kind) if kind != "filters" else None
    if box is not None:
        assert shell(box, line).out == "y\n\n"
    one = Sandbox(Limits(seconds=1), kind=kind)
    assert one.run(["/bin/cat", str(tmp_path / "secret")]).out == ""
    given = Sandbox(Limits(seconds=1), kind=kind, reads=(str(tmp_path),))
    assert given.run(["/bin/cat", str(tmp_path / "secret")]).out == "word"
    assert given.run(["/bin/cp", "/dev/null", str(tmp_path / "secret")]).code != 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret"]


def test_each_limit_is_told_apart(kind: Kind) -> None:
    box = Sandbox(Limits(seconds=0.5, wall=1.5, space_mb=2, output_kb=8), kind=kind)
    assert shell(box, "while :; do :; done").ended == "time"
    started = time.monotonic()
    assert box.run(["/bin/sleep", "60"]).ended == "time"
    assert time.monotonic() - started < 20
    assert box.run(["/usr/bin/yes"]).ended == "output"
    full = box.run(["/usr/bin/head", "-c", "9000000", "/dev/zero"])
    assert full.ended == "output"
    assert box.run(["/bin/dd", "if=/dev/zero", "of=f", "bs=1M", "count=9"]).code != 0


def test_what_is_left_running_ends_with_the_command() -> None:
    kind = next((kind for kind in ("bubblewrap", "namespaces") if _standing(kind) is not None), None)
    if kind is None:
        pytest.skip("needs a process namespace")
    box = Sandbox(Limits(seconds=1, processes=16), kind=kind)
    assert shell(box, "(setsid sleep 3618 &) ; echo gone").out == "gone\n"
    deadline = time.monotonic() + 5
    while sleepers() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not sleepers()


def sleepers() -> list[int]:
    return [one.pid for one in psutil.process_iter(["cmdline"]) if one.info["cmdline"] == ["sleep", "3618"]]


def test_many_threads_at_once_each_have_their_own(kind: Kind) -> None:
    box, before = Sandbox(Limits(seconds=1), kind=kind), psutil.Process().num_fds()
    with ThreadPoolExecutor(8) as pool:
        heard = list(pool.map(lambda i: box.run(["/bin/cat", "f"], {"f": f"{i}"}).out, range(24)))
    assert heard == [str(i) for i in range(24)]
    assert psutil.Process().num_fds() == before and threading.active_count() < 8


def test_a_command_that_is_not_there_says_so() -> None:
    ended = BOX.run(["/bin/no-such-command"])
    assert ended.ended == "exit" and ended.code != 0 and "No such file" in ended.err


def test_no_walls_are_refused_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LuthierError, match=r"(?s)no walls \(limits\).*install bubblewrap"):
        Sandbox(kind="limits").run(["/bin/true"])
    bare = Sandbox(Limits(seconds=1), kind="limits", require="best")
    assert bare.run(["/bin/echo", "x"]).out == "x\n" and not bare.walls().whole
    monkeypatch.setattr(sandbox, "best", lambda: None)
    with pytest.raises(LuthierError, match=r"(?s)no walls \(of any kind\)"):
        Sandbox(require="best").walls()
    if _standing("filters") is not None:
        with pytest.raises(LuthierError, match="several processes"):
            Sandbox(Limits(processes=4), kind="filters").walls()


def test_a_sandbox_that_cannot_start_is_no_outcome_of_the_program(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("luthier.scorers.sandbox.walls.python", lambda: "/bin/false")
    ended = Sandbox(Limits(seconds=1), kind=kind).run(["/bin/echo", "x"])
    assert (ended.ended, ended.out, ended.seconds) == ("start", "", 0.0)


@pytest.mark.parametrize("name", ["/usr/lib/x", "../x", "a/../../x", "", "a\0"])
def test_a_file_that_would_lie_outside_is_refused(name: str) -> None:
    with pytest.raises(LuthierError, match="must lie in its folder"):
        BOX.run(["/bin/true"], {name: "x"})


def test_no_network(kind: Kind) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        code = f"import socket; socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))"
        ended = Sandbox(Limits(seconds=2), kind=kind).run([python(), "-S", "-c", code])
        assert ended.code != 0 and "Error" in ended.err
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_walls_are_told_once(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_told", set())
    BOX.tell("code")
    BOX.tell("code")
    assert [record.message for record in caplog.records] == [f"code: programs run behind {BOX.walls()}"]


# a process that is talked with
def test_what_is_talked_with_answers_and_works_in_a_folder_of_ours_alone(kind: Kind, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("word")
    folder = tmp_path / "own"
    folder.mkdir()
    line = f"read a; echo told $a; echo kept > here; cat {tmp_path}/secret; echo x > {tmp_path}/new; read b; echo $b"
    box = Sandbox(Limits(seconds=5), kind=kind)
    talking = box.talk(["/bin/bash", "-c", line.replace("cat ", "read s < ") + " $s"], folder)
    said, _ = talking.process.communicate(b"one\ntwo\n", timeout=30)
    assert said.startswith(b"told one\n") and said.endswith(b"two\n") and b"word" not in said
    assert (folder / "here").read_text() == "kept\n" and not (tmp_path / "new").exists()


def test_its_time_is_counted_and_it_outlives_the_thread_that_asked_for_it(kind: Kind, tmp_path: Path) -> None:
    """The kernel ends it with the thread that started it: that is one which stays."""
    begun = []
    box = Sandbox(Limits(seconds=20), kind=kind)
    line = "read a; i=0; while [ $i -lt 30000 ]; do i=$((i+1)); done; echo done; read b"
    asking = threading.Thread(target=lambda: begun.append(box.talk(["/bin/bash", "-c", line], tmp_path)))
    asking.start()
    asking.join()
    (talking,) = begun
    process = talking.process
    assert process.stdin is not None and process.stdout is not None
    before = sum(talking.command.cpu_times()[:2])
    process.stdin.write(b"go\n")
    process.stdin.flush()
    assert process.stdout.readline() == b"done\n"
    assert sum(talking.command.cpu_times()[:2]) > before
    talking.stop()
    assert not talking.command.is_running() and process.returncode is not None
    must_be_gone(process.pid)


def test_what_cannot_begin_is_told(tmp_path: Path) -> None:
    with pytest.raises(sandbox.NeverBegan):
        BOX.talk(["/bin/cat"], tmp_path / "not-there")
