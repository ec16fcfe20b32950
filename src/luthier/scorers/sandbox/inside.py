"""The first that runs inside the sandbox: puts up the inner walls, lays out the files, then runs what is asked.

Sent in as code (`kit.py`), so it imports nothing but the standard library and `kernel`. `BOOT` is all that stands on
the command line.
"""

from __future__ import annotations

import os
import resource
import sys

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import ModuleType
    from typing import Any

BOOT = """
import marshal, sys
source = int(sys.argv.pop())  # a program is to see none
with open(source, "rb", closefd=source != 0) as file:
    job = marshal.loads(file.read())
for name, code in job["modules"]:
    sys.modules[name] = module = type(sys)(name)
    if code is None:
        module.__path__ = []
    else:
        exec(code, module.__dict__)
sys.modules[job["launcher"]].main(job)
"""


def main(job: Mapping[str, Any]) -> None:
    """Put up the walls and run `job`: a command, or the function `main` of one of the modules that came with it."""
    walls = job["walls"]
    if walls["mount"]:
        kernel().mount_memory(job["folder"], job["space"])
    os.chdir(job["folder"])
    for name, content in job["files"].items():
        folder = os.path.dirname(name)  # noqa: PTH120 (pathlib costs milliseconds)
        if folder:
            os.makedirs(folder, exist_ok=True)  # noqa: PTH103
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(content)
    if not job.get("talks"):  # its input is whoever started it
        _input(job["stdin"], job["folder"])
    if walls["die"]:
        kernel().die_with_parent()
    if walls["kernel"]:
        kernel().no_new_powers()
    if walls["landlock"]:
        kernel().restrict_files(job["reads"], [job["folder"], "/dev/null"])
    _limit(job["limits"])
    if walls["kernel"]:
        kernel().restrict_calls(processes=job["processes"] > 1, outside=walls["outside"])
    os.write(job["ready"], b"R")
    os.close(job["ready"])
    if job["quiet"]:
        nowhere = os.open("/dev/null", os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.close(nowhere)
    if job["command"]:
        os.execvpe(job["command"][0], job["command"], dict(os.environ))
    sys.path += job["packages"]
    sys.modules[job["start"]].main(job["work"])


def kernel() -> ModuleType:
    """The module of system calls; only there on Linux."""
    return sys.modules[__name__.rpartition(".")[0] + ".kernel"]


def _limit(limits: Mapping[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name}", None)  # NPROC and AS are not everywhere
        if number is None:
            continue
        most = resource.getrlimit(number)[1]
        if most == resource.RLIM_INFINITY or value <= most:
            resource.setrlimit(number, (value, value + (name == "CPU")))


def _input(text: bytes | None, folder: str) -> None:
    """What the program finds on its standard input: a text, or nothing. Replaces the job, which it must not see."""
    if text is None:
        source = os.open("/dev/null", os.O_RDONLY)
    else:
        name = os.path.join(folder, ".input")  # noqa: PTH118
        with open(name, "wb") as file:  # noqa: PTH123
            file.write(text)
        source = os.open(name, os.O_RDONLY)
        os.unlink(name)  # noqa: PTH108
    os.dup2(source, 0)
    os.close(source)
