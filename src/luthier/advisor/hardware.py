"""What a run is to fit on: this machine, or one that is named (`8GB`, `4090`, `8x80GB`, `cpu`, `cpu:16GB`)."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from luthier import machine
from luthier.errors import LuthierError

GB, GIB = 10**9, 2**30
CARDS = {"L4": 24, "4090": 24, "A100": 80, "H100": 80}
"""GPUs by the memory that they are sold with, in GiB; of the A100 the larger one."""
LEFT = 0.03
"""Of a GPU's memory, what its driver keeps for itself and fragments take."""


@dataclass(frozen=True)
class Hardware:
    """Where a run is to fit."""

    name: str
    kind: Literal["cpu", "cuda"]
    memory: float
    """Bytes of one device that a run may use."""
    count: int = 1
    here: bool = True
    """It is this machine, whose rates can be measured."""

    @property
    def measured(self) -> bool:
        """Do the constants come from such a machine?"""
        return self.kind == "cpu"


def here() -> Hardware:
    """This machine."""
    if machine.uses_gpu():
        found = _gpus()
        if found:
            return Hardware(found[0][0], "cuda", found[0][1] * (1 - LEFT), len(found))
    return here_cpu()


def cgroup_limit() -> int | None:
    """The bytes that a container may use; None without such a limit."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        if file.is_file():
            said = file.read_text(encoding="ascii", errors="replace").strip()
            if said.isdigit() and int(said) < 1 << 60:
                return int(said)
    return None


def named(text: str) -> Hardware:
    """What `--gpu` means: a size (8GB; what is sold as a GB of a card is a GiB of it), a card (4090), several of them
    (8x80GB, 2x4090), or `cpu:16GB`. Raises LuthierError for anything else."""
    found = re.fullmatch(r"(?:(\d+)\s*[x×*]\s*)?([A-Za-z]*\s*\d+)\s*(GB|GiB|G|gb|g|gib)?", text.strip())
    on_cpu = re.fullmatch(r"cpu(?:[:=]?\s*(\d+(?:\.\d+)?)\s*(GB|GiB|G|gb|g)?)?", text.strip(), re.IGNORECASE)
    if on_cpu:
        if on_cpu[1] is None:
            return here_cpu()
        size = float(on_cpu[1]) * (GIB if on_cpu[2] == "GiB" else GB)
        return Hardware(f"a processor with {on_cpu[1]} GB", "cpu", size, here=False)
    if not found:
        raise _unknown(text)
    count, what, unit = int(found[1] or 1), found[2].replace(" ", "").upper(), found[3]
    if what.isdigit() and unit:
        memory = int(what) * GIB
    elif unit is None and what.removeprefix("RTX") in CARDS:
        memory = CARDS[what.removeprefix("RTX")] * GIB
    else:
        raise _unknown(text)
    if count < 1 or memory < GIB:
        raise _unknown(text)
    return Hardware(text, "cuda", memory * (1 - LEFT), count, here=False)


def here_cpu() -> Hardware:
    """This machine's processor, whatever GPU there is."""
    free, limit = psutil.virtual_memory().available, cgroup_limit()
    memory = min(free, limit) if limit is not None else free
    return Hardware(f"this machine, {memory / GIB:.1f} GiB free", "cpu", memory)


def _unknown(text: str) -> LuthierError:
    return LuthierError(
        f"{text!r} is no hardware that is known here",
        where="--gpu",
        fix=f"give the memory of a card (24GB, 8x80GB), one of {', '.join(CARDS)}, or `cpu:16GB`",
    )


def _gpus() -> list[tuple[str, float]]:
    """Name and bytes of each GPU, the smallest first."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, check=True, capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [line.rsplit(",", 1) for line in said.splitlines() if "," in line]
    return sorted(((name.strip(), float(size) * 2**20) for name, size in found), key=lambda each: each[1])
