"""`cpu.c`, compiled once by the machine's C compiler and kept in the cache; None where there is no compiler.

The library is loaded after torch, whose OpenMP runtime it then shares: one pool of threads, set by
`torch.set_num_threads`.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from luthier.cache import root

SOURCE = Path(__file__).with_name("cpu.c")
FLAGS = [
    *("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"),
    # reassociation lets sums vectorise; NaN and infinity keep their meaning, the guards need them
    *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math"),
]
POINTER, SIZE, REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
SIGNATURES = {
    "rms_norm": [POINTER] * 4 + [SIZE] * 2 + [REAL],
    "rms_norm_backward": [POINTER] * 6 + [SIZE] * 2,
    "rope": [POINTER] * 3 + [SIZE] * 4 + [REAL],
    "swiglu": [POINTER] * 2 + [SIZE] * 2,
    "swiglu_backward": [POINTER] * 2 + [SIZE] * 2,
    "causal_softmax": [POINTER] * 3 + [SIZE] * 6 + [REAL],
    "causal_softmax_backward": [POINTER] * 2 + [SIZE] * 2 + [REAL],
    "online_softmax": [POINTER] * 5 + [SIZE] * 2,
}


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None. `LUTHIER_KERNELS=off` turns them off."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc") or shutil.which("clang")
    if os.environ.get("LUTHIER_KERNELS") == "off" or compiler is None:
        return None
    try:
        path = root() / "kernels" / f"cpu-{_digest(compiler)}.so"
        if not path.exists():
            _compile(compiler, path)
        loaded = ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError):
        return (
            None  # a compiler that cannot build them is no compiler to us; the path that a run takes says which it is
        )
    for name, signature in SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = signature, None
    return loaded


def _digest(compiler: str) -> str:
    """Names source, flags, compiler and processor: a cache shared between machines stays right."""
    processor = Path("/proc/cpuinfo")
    flags = ""
    if processor.exists():
        flags = next(
            (line for line in processor.read_text().splitlines() if line.startswith(("flags", "Features"))), ""
        )
    content = "\n".join([SOURCE.read_text(), *FLAGS, compiler, platform.platform(), flags])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _compile(compiler: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        built = Path(folder) / path.name
        subprocess.run(
            [compiler, *FLAGS, str(SOURCE), "-o", str(built), "-lm"], check=True, capture_output=True, timeout=120
        )
        built.replace(path)
