"""`luthier serve` in a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

PATIENCE = 300
"""Seconds that it may take to open its model."""


class Server:
    """One that runs."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port
        self._seen = psutil.Process(process.pid)

    @property
    def rss(self) -> int:
        """Bytes resident."""
        return int(self._seen.memory_info().rss)

    @property
    def cpu(self) -> float:
        """Seconds of processor time so far."""
        times = self._seen.cpu_times()
        return float(times.user + times.system)

    @property
    def loop_cpu(self) -> float:
        """Those of the thread that talks to clients."""
        main = next(one for one in self._seen.threads() if one.id == self.process.pid)
        return float(main.user_time + main.system_time)

    def metrics(self) -> dict[str, float]:
        """What /metrics says, by name without its prefix; labels stay as they are."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=60) as answer:
            lines = answer.read().decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name.removeprefix("luthier_"): float(value) for name, _, value in pairs}

    def health(self) -> dict[str, object]:
        """What /health says. Raises HTTPError where it is not well."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=60) as answer:
            return dict(json.loads(answer.read()))


@contextmanager
def served(words: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> Iterator[Server]:
    """`luthier serve WORDS` on a free port, ended by SIGTERM. Raises RuntimeError where it does not start, or does not
    end by itself."""
    command = [sys.executable, "-m", "luthier", "serve", *words, "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})})
        try:
            yield Server(process, _port(process, log))
            process.terminate()
            if process.wait(60) != 0:
                raise RuntimeError(
                    f"the server ended with {process.returncode}:\n{log.read_text(encoding='utf-8')[-2000:]}"
                )
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _port(process: subprocess.Popen[bytes], log: Path) -> int:
    """It says where it listens once it does."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        found = re.search(r"at http://127\.0\.0\.1:(\d+)", log.read_text(encoding="utf-8"))
        if found:
            return int(found.group(1))
        time.sleep(0.1)
    raise RuntimeError(f"the server did not start:\n{log.read_text(encoding='utf-8')[-2000:]}")
