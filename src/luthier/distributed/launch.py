"""Start the processes of a run on this machine, through torch's own launcher, and end with all of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from luthier.distributed.group import cores
from luthier.errors import LuthierError, Told

LAUNCHER = "torch.distributed"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
"""Those that torch's launcher takes for itself, and does not give back."""


def launch(processes: int, arguments: Sequence[str]) -> None:
    """Run `luthier ARGUMENTS` in so many processes that know of each other. The first one's screen is the run's.

    Raises Told where one of them has said what went wrong, and LuthierError where one went without a word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise LuthierError(
            "this process is one of several already", where="--processes", fix="leave it out under torchrun"
        )
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"luthier-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        shutdown_timeout=10,
    )
    try:
        with _left_as_it_was(cores() // processes):
            elastic_launch(config, sys.executable)("-m", "luthier", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _ended(rank, failure.exitcode) from error
    except SignalException as error:
        raise Told(128 + error.sigval) from error  # the first process, which was sent it too, has said so


@contextmanager
def _left_as_it_was(threads: int) -> Iterator[None]:
    """Around the launcher: it is quiet, its processes begin with so many threads, and what it changes of this process
    is put back, which may be a Python session that goes on."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict) if name.startswith(LAUNCHER)]
    levels = [logger.level for logger in loggers]
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS} if main else {}
    given = os.environ.get("OMP_NUM_THREADS")
    for logger in loggers:  # each has set its own level
        logger.setLevel(logging.CRITICAL)
    # before torch is imported there; the loop sets it again, by the recipe
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, threads)))
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if given is None:
            del os.environ["OMP_NUM_THREADS"]


def _ended(rank: int, status: int) -> Exception:
    if status >= 0:
        return Told(status)
    name = signal.Signals(-status).name
    memory = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
    return LuthierError(
        f"process {rank} of the run was ended by {name}{memory}; the others were stopped",
        fix="run the same command again: it continues from its last checkpoint",
    )
