"""The peers' own virtual environments: `.peers/NAME`, from `benchmarks/peers/NAME.txt`.

The text files pin every package of a working CPU environment, so they are installed without dependency resolution:
a resolver would add GPU requirements (torchvision, triton, xformers, bitsandbytes) that a CPU run does not need.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".peers"
TORCH = "torch==2.13.0"
EMPTY_MODULES = {"llamafactory": ("torchaudio",)}
"""Modules a peer imports at its start but never uses here, put in place as empty files."""


def python_of(peer: str) -> Path:
    """The interpreter of a peer's environment; building it first if `peers/NAME.txt` is not what it holds."""
    home = PEERS / peer
    python = home / "bin" / "python"
    wanted = (Path(__file__).parent / "peers" / f"{peer}.txt").read_text(encoding="utf-8")
    ready = home / "ready.txt"
    if ready.exists() and ready.read_text(encoding="utf-8") == wanted:
        return python
    print(f"building .peers/{peer} …", file=sys.stderr, flush=True)
    if not python.exists():
        venv.create(home, with_pip=True)
    pip = [str(python), "-m", "pip", "install", "-q"]
    # torch first and alone: left to a looser requirement, pip would fetch gigabytes of CUDA packages
    subprocess.run([*pip, TORCH], check=True)
    subprocess.run([*pip, "--no-deps", "-r", str(Path(__file__).parent / "peers" / f"{peer}.txt")], check=True)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = Path(subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip())
    for module in EMPTY_MODULES.get(peer, ()):
        (site / f"{module}.py").touch()
    ready.write_text(wanted, encoding="utf-8")
    return python


def environment(tool: str) -> dict[str, str]:
    """The caller's environment variables, without network, GPU or telemetry, and a cache of the tool's own."""
    cache = PEERS / "cache" / tool
    cache.mkdir(parents=True, exist_ok=True)
    own = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "LUTHIER_CACHE": str(cache)}
    return {**os.environ, **own, "UNSLOTH_DISABLE_STATISTICS": "1", "DO_NOT_TRACK": "1"}
