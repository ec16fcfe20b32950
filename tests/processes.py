"""Several processes that run the command line together, forked from a server that has loaded all there is to load.

What `torchrun` does for them is done here: the environment by which they find each other. One group of processes does
a list of runs, one after another.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import load_file

from luthier.run import Run

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "tiny",
        "peft",
        "luthier.verbs",
        "luthier.data",
        "luthier.evaluate.report",
        "luthier.models.loading.load",
        "luthier.objectives",
        "luthier.train.fitting",
        "luthier.train.optim.optimizers",
        "luthier.workflow.scoring",
    ]
)
OF_THE_CLOCK = {"time", "tokens_per_s", "memory", "seconds", "peak_memory", "resumed_from"}
Work = Callable[[], None]


class Together:
    """Processes that were started together."""

    def __init__(self, count: int, target: Callable[..., None], *args: Any, said: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.said = said
        self.processes = [
            FORKED.Process(target=_member, args=(rank, count, port, said, target, *args)) for rank in range(count)
        ]
        for process in self.processes:
            process.start()

    def join(self, timeout: float = 280) -> list[int | None]:
        """Wait for all; their exit statuses."""
        end = time.monotonic() + timeout
        for process in self.processes:
            process.join(max(0.0, end - time.monotonic()))
        return [process.exitcode for process in self.processes]

    def kill(self) -> None:
        """End all that still run."""
        for process in self.processes:
            process.kill()
            process.join()

    def words(self) -> str:
        """What all of them have written."""
        return "".join(path.read_text() for path in sorted(self.said.parent.glob(self.said.name + ".*")))


def _member(rank: int, world: int, port: int, said: Path, target: Callable[..., None], *args: Any) -> None:
    file = os.open(f"{said}.{rank}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    several = {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update({"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **(several if world > 1 else alone)})
    target(*args)


def runs(folder: Path, names: Sequence[str]) -> None:
    """Do the runs of `names.yaml` in a folder one after the other; the status is how many did not end well."""
    from luthier.cli import main
    from luthier.verbs import scoring

    scoring.report = lambda _: None  # type: ignore[assignment]  # takes longer to draw than the run takes
    os.chdir(folder)
    os.environ["LUTHIER_CACHE"] = str(folder / "cache")
    failed = 0
    for name in names:
        try:
            main(["train", f"{name}.yaml"])
        except SystemExit as ended:
            failed += ended.code != 0
    sys.exit(failed)


def write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**content, "output": name}))


def numbers(run: Path) -> list[dict[str, Any]]:
    """What a run has recorded of its steps and evaluations."""
    kinds = ("step", "evaluation", "end", "warning")
    found = [event for event in Run(run).events() if event["kind"] in kinds]
    return [{key: value for key, value in event.items() if key not in OF_THE_CLOCK} for event in found]


def weights(run: Path) -> dict[str, Any]:
    """The tensors a run ends with."""
    files = [*run.glob("adapter/*.safetensors"), *run.glob("model/*.safetensors")]
    return {f"{file.name} {key}": tensor for file in files for key, tensor in load_file(file).items()}


def rows(folder: Path, name: str, content: Sequence[Mapping[str, Any]]) -> str:
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in content))
    return f"{name}.jsonl"


def must_be_gone(group: int) -> None:
    """Of a process group that was ended nobody is left, once the system has tidied up."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.01)
    raise AssertionError(f"the process group {group} is still there")
