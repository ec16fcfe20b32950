"""What a run ran on: versions, hardware and the state of the user's project. Nothing here touches the network."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from luthier.run import Run

PACKAGES = (
    "luthier", "torch", "transformers", "peft", "tokenizers", "datasets", "safetensors", "numpy", "bitsandbytes",
    "sacrebleu", "rouge-score",
)  # fmt: skip
_GIT_SECONDS = 10


def environment(folder: Path | None = None) -> dict[str, Any]:
    """Versions, CPU, memory, GPUs, and the git commit of `folder` (default: the working directory), JSON-able."""
    import psutil

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cores": {"physical": psutil.cpu_count(logical=False), "usable": len(_affinity())},
        "memory_bytes": psutil.virtual_memory().total,
        **_torch(),
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
        "project": _commit(folder or Path.cwd()),
    }


def record_environment(run: Run) -> dict[str, Any]:
    """Append the environment to the run's events (kind `environment`), where the report finds it."""
    return run.event("environment", **environment())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _affinity() -> set[int]:
    # macOS cannot ask
    return os.sched_getaffinity(0) if sys.platform == "linux" else set(range(os.cpu_count() or 1))


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").split("\n"):
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _torch() -> dict[str, Any]:
    import torch

    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    return {
        "cuda": torch.version.cuda,
        "gpus": [{"name": gpu.name, "memory_bytes": gpu.total_memory} for gpu in gpus],
        "threads": torch.get_num_threads(),
    }


def _commit(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository around the folder, and whether tracked files differ from it; None outside one."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "modified": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):  # no git, no repository, or no commit yet
        return None
    return done.stdout.strip()
