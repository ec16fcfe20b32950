"""A process in the sandbox as the outside sees it: started, watched, ended with all that it started."""

from __future__ import annotations

import marshal
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from luthier.scorers.sandbox import walls as kinds
from luthier.scorers.sandbox.inside import BOOT
from luthier.scorers.sandbox.walls import Walls

START = 30.0
"""Seconds that a process may take until its walls stand; a loaded machine is slow, and this is no fault of it."""
INSIDE = "/sandbox"
"""The one folder that can be written, where the walls bring a file system of their own."""
LOOK = 0.05
"""Seconds between looks at how much it has written, where it writes to a disk of this machine."""
Ended = Literal["exit", "time", "output", "space", "start"]


@dataclass(frozen=True)
class Outcome:
    """How a process ended. `ended`: exit (of itself, or by the kernel), time, output or space (a limit), or start: the
    sandbox failed and the program never ran, which says nothing about it."""

    ended: Ended
    code: int | None
    """The exit status; 128 + n, or -n, for a signal."""
    out: str
    err: str
    seconds: float
    """By the clock, from when it began to run."""


class Running:
    """A started process. Leaving it as a context manager ends it, with all it started, and removes what it wrote."""

    def __init__(self, process: subprocess.Popen[bytes], ready: int, folder: Path | None, output: int, space: int):
        self._process, self._ready_fd, self.folder = process, ready, folder
        self._most = {"out": output, "err": output, "space": space}
        self._text = {"out": bytearray(), "err": bytearray()}
        self.began: float | None = None
        """When the walls stood, by the monotonic clock."""

    def finish(self, clock: float, beside: Sequence[Running] = ()) -> Outcome:
        """Wait until it has ended, at most `clock` seconds from when it begins to run. Then everything is ended.

        The disk that the processes `beside` it fill is watched, too.
        """
        deadline = time.monotonic() + START
        ended: Ended | None = None
        looks = any(one.folder is not None for one in (self, *beside))
        with selectors.DefaultSelector() as watch:
            for name, source in (("out", self._process.stdout), ("err", self._process.stderr), ("go", self._ready_fd)):
                if source is not None:
                    watch.register(source, selectors.EVENT_READ, name)
            while watch.get_map() and ended is None:
                left = deadline - time.monotonic()
                if left <= 0:
                    ended = "time"
                    break
                for key, _ in watch.select(min(left, LOOK) if looks else left):
                    if self._take(key.data, key.fd):
                        watch.unregister(key.fileobj)
                    if key.data == "go" and self.began is not None:
                        deadline = self.began + clock
                ended = self._over() or next(("space" for one in beside if one.is_full()), None)
        if ended is None:
            try:
                self._process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                ended = "time"
        self.stop()
        return self._outcome(ended)

    def _take(self, name: str, fd: int) -> bool:
        """Read what there is; True at the end of it."""
        said = os.read(fd, 65536)
        if name != "go":
            self._text[name] += said
        elif said:
            self.began = time.monotonic()
        return not said

    def _over(self) -> Ended | None:
        if any(len(text) > self._most[name] for name, text in self._text.items()):
            return "output"
        return "space" if self.is_full() else None

    def is_full(self) -> bool:
        """Has it written more than it may? Only asked where it writes to a disk of this machine."""
        if self.folder is None:
            return False
        sizes = (os.lstat(Path(at) / name).st_blocks for at, _, names in os.walk(self.folder) for name in names)
        try:
            return 512 * sum(sizes) > self._most["space"]
        except FileNotFoundError:  # it removes files while they are counted
            return False

    def has_begun(self) -> bool:
        """Have its walls stood? For one that nobody waits for."""
        if self.began is None and self._ready_fd is not None:
            os.set_blocking(self._ready_fd, False)
            try:
                self._take("go", self._ready_fd)
            except BlockingIOError:
                return False
        return self.began is not None

    def _outcome(self, ended: Ended | None) -> Outcome:
        code = self._process.returncode
        if self.began is None:
            ended = "start"
        elif ended is None:
            late = code in (-signal.SIGXCPU, 128 + signal.SIGXCPU)
            ended = "time" if late else "exit"
        out, err = (bytes(text).decode("utf-8", "replace") for text in self._text.values())
        seconds = 0.0 if self.began is None else time.monotonic() - self.began
        return Outcome(ended, code, out, err, seconds)

    def stop(self) -> None:
        """End it and all it started."""
        if self._process.poll() is None:
            with suppress(ProcessLookupError):  # it ended this moment
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
        os.close(self._ready_fd)
        if self.folder is not None:
            _remove(self.folder)


def _remove(folder: Path) -> None:
    """Remove a folder whatever modes its parts were given."""

    def again(function: Any, path: str, _: Any) -> None:
        Path(path).parent.chmod(0o700)
        Path(path).chmod(0o700, follow_symlinks=True) if not Path(path).is_symlink() else None
        function(path)

    shutil.rmtree(folder, onerror=again)


def start(walls: Walls, job: Mapping[str, Any], fds: Sequence[int], output: int) -> Running:
    """Start a job behind walls. `output`: bytes it may say on each output. Raises OSError where it cannot start."""
    folder = Path(tempfile.mkdtemp(prefix="luthier-sandbox-")) if walls.kind != "bubblewrap" else None
    where = INSIDE if folder is None else str(folder)
    told, ready = os.pipe()
    extra = kinds.python_reads()
    reads = (*kinds.SYSTEM, *kinds.DEVICES[1:], *extra, *job["reads"])
    whole = {
        **job, "folder": where, "ready": ready, "walls": walls.inner(), "reads": reads,
        "launcher": "luthier.scorers.sandbox.inside",
    }  # fmt: skip
    inner = [kinds.python(), "-P", "-s", "-S", "-B", "-X", "utf8", "-c", BOOT, "0"]
    try:
        with held(marshal.dumps(whole)) as source:
            process = subprocess.Popen(
                walls.command(where, job["space"], (*extra, *job["reads"]), inner),
                stdin=source,
                stdout=subprocess.DEVNULL if job["quiet"] else subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(where),
                cwd="/",
                pass_fds=(ready, *fds),
                start_new_session=True,
            )
    except BaseException:
        os.close(told)
        if folder is not None:
            _remove(folder)
        raise
    finally:
        os.close(ready)
    return Running(process, told, folder, output, job["space"])


def held(content: bytes) -> IO[bytes]:
    """The content as an open file that has no name."""
    if sys.platform == "linux":
        opened: IO[bytes] = os.fdopen(os.memfd_create("job"), "w+b")
    else:
        opened = tempfile.TemporaryFile()  # noqa: SIM115 (whoever asked closes it)
    opened.write(content)
    opened.seek(0)
    return opened


def environment(folder: str) -> dict[str, str]:
    """All that a program finds in its environment; the hash seed makes the order of sets the same every time."""
    return {
        "PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder, "LANG": "C.UTF-8", "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
    }  # fmt: skip
