"""Start the processes of a run on this machine, through torch's own launcher, and end with all of them."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from luthier.distributed.group import cores
from luthier.errors import LuthierError, Told


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

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed"):  # each has set its own level
            logging.getLogger(name).setLevel(logging.CRITICAL)
    # before torch is imported there; the loop sets it again, by the recipe
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // processes)))
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
        elastic_launch(config, sys.executable)("-m", "luthier", *arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        raise _ended(rank, failure.exitcode) from error
    except SignalException as error:
        raise Told(128 + error.sigval) from error  # the first process, which was sent it too, has said so


def _ended(rank: int, status: int) -> Exception:
    if status >= 0:
        return Told(status)
    name = signal.Signals(-status).name
    memory = " (the system does that where memory runs out)" if name == "SIGKILL" else ""
    return LuthierError(
        f"process {rank} of the run was ended by {name}{memory}; the others were stopped",
        fix="run the same command again: it continues from its last checkpoint",
    )
