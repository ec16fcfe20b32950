"""Which walls stand between a program of a model's and this machine, and how a process is put behind them.

Tried in order of strength, once per process and by really running something behind each: bubblewrap, namespaces of
`unshare` with Landlock, Landlock and seccomp alone (needs no right at all; the one that works within most containers),
and bare limits.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Kind = Literal["bubblewrap", "namespaces", "filters", "limits"]
KINDS: tuple[Kind, ...] = ("bubblewrap", "namespaces", "filters", "limits")
"""The strongest first."""
SYSTEM = ("/usr/lib", "/usr/lib64", "/usr/bin", "/lib", "/lib64", "/bin", "/etc/ld.so.cache")
"""What a program needs of the system to run at all; only ever read."""
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
LIMITS = "limits of CPU time, memory, output and files"
SAID: dict[Kind, str] = {
    "bubblewrap": f"bubblewrap: no files but its own, no network, no other processes; {LIMITS}",
    "namespaces": f"namespaces and Landlock: no files but its own, no network, no other processes; {LIMITS}",
    "filters": f"Landlock and seccomp: no files but its own, no network, no new processes; {LIMITS}",
    "limits": f"none but {LIMITS}: what is run has all rights of this user, to files and to the network",
}


@dataclass(frozen=True)
class Walls:
    """One kind of walls on this machine."""

    kind: Kind

    @property
    def whole(self) -> bool:
        """Are files and network out of reach?"""
        return self.kind != "limits"

    @property
    def own_folder(self) -> bool:
        """Does a process write to a folder of this machine, rather than to memory that goes with it?"""
        return self.kind in ("filters", "limits")

    def __str__(self) -> str:
        return SAID[self.kind]

    def inner(self) -> dict[str, bool]:
        """What the process puts up itself once it is inside."""
        filters = self.kind in ("namespaces", "filters")
        return {
            "mount": self.kind == "namespaces",
            "landlock": filters,
            "outside": filters,
            "kernel": self.kind != "limits",
            "die": self.kind in ("namespaces", "filters"),
        }

    def command(self, folder: str, space: int | None, reads: tuple[str, ...], inner: list[str]) -> list[str]:
        """The command line that runs `inner` behind these walls. `space`: bytes of a file system of its own in
        `folder`; None: this machine's folder of that name. Raises FileNotFoundError where a tool is absent."""
        if self.kind == "bubblewrap":
            return [_tool("bwrap"), *_bubble(folder, space, reads), *inner]
        if self.kind == "namespaces":
            asked = ["--user", "--map-root-user", "--mount", "--net", "--pid", "--ipc", "--uts"]
            dying = [_tool("setpriv"), "--pdeathsig", "KILL", _tool("unshare")]
            return [*dying, *asked, "--fork", "--kill-child", "--propagation", "private", "--", *inner]
        return inner


def python() -> str:
    """The Python that runs programs: the one that runs us, without its virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


def python_reads() -> tuple[str, ...]:
    """What that Python must be able to read beside `SYSTEM`."""
    return tuple(dict.fromkeys([os.path.realpath(sys.base_prefix), *(_parent(python()),)]))


def _parent(path: str) -> str:
    return str(Path(path).parent)


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(name)
    return found


def _bubble(folder: str, space: int | None, reads: tuple[str, ...]) -> list[str]:
    asked = ["--unshare-all", "--die-with-parent", "--cap-drop", "ALL"]
    for path in dict.fromkeys((*SYSTEM, *reads)):
        if Path(path).is_symlink() and path in SYSTEM and Path(path).is_dir():
            asked += ["--symlink", str(Path(path).readlink()), path]
        else:
            asked += ["--ro-bind-try", path, path]
    for path in DEVICES:
        asked += ["--dev-bind", path, path]
    place = ["--bind", folder, folder] if space is None else ["--size", str(space), "--tmpfs", folder]
    return [*asked, *place, "--remount-ro", "/", "--chdir", folder, "--"]
