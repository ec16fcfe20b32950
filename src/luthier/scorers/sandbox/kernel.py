"""What Linux lets a process forbid itself, for good: files (Landlock), system calls (seccomp), and its powers.

Runs inside the sandbox, so it imports nothing but the standard library, and little of that. The numbers are those of
Linux's headers (`linux/landlock.h`, `linux/seccomp.h`, `linux/filter.h`, `asm/unistd.h`).
"""

from __future__ import annotations

import ctypes
import os
import struct

TYPE_CHECKING = False  # as typing has it: importing that takes longer than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence

LIBC = ctypes.CDLL(None, use_errno=True)
EPERM, ENOSYS = 1, 38

MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls the processors whose system calls are known here."""

ALWAYS: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "socket": (41, 198), "bind": (49, 200), "connect": (42, 203), "listen": (50, 201),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "unshare": (272, 97),
    "setns": (308, 268), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "mount_setattr": (442, 442), "open_by_handle_at": (304, 265), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "pidfd_open": (434, 434), "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424), "personality": (135, 92), "syslog": (103, 116), "quotactl": (179, 60),
    "setsid": (112, 157), "setpgid": (109, 154),
}  # fmt: skip
"""Never allowed: (x86_64, aarch64). Other processes, networks, mounts, and memory that no limit counts."""

OUTSIDE: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "utime": (132, None), "utimes": (235, None),
    "futimesat": (261, None), "utimensat": (280, 88), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119), "sched_setparam": (142, 118), "sched_setattr": (314, 274),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "migrate_pages": (256, 238),
    "move_pages": (279, 239), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "tkill": (200, 130),
}  # fmt: skip
"""Not allowed where it sees the machine's own files and processes: Landlock does not cover these."""

FORK, VFORK, CLONE, CLONE3 = (57, None), (58, None), (56, 220), (435, 435)
KILL, TGKILL, PRCTL, PRLIMIT = (62, 129), (234, 131), (157, 167), (302, 261)
CLONE_THREAD, SET_PDEATHSIG = 0x10000, 1


def restrict_calls(*, processes: bool, outside: bool) -> None:
    """Refuse system calls from here on: those of `ALWAYS`; unless `processes`, new processes (threads are allowed) and
    signals to others; where `outside`, those of `OUTSIDE`. Raises OSError."""
    which = list(MACHINES).index(os.uname().machine)
    program = _Filter()
    program.add(0x20, 4)  # load the architecture
    program.add(0x15, MACHINES[os.uname().machine], 1, 0)
    program.give(0x80000000)  # another one's numbers mean other things: the process dies
    program.add(0x20, 0)  # load the number of the call
    if which == 0:  # x32 has numbers of its own
        program.add(0x35, 0x40000000, 0, 1)
        program.refuse(EPERM)
    for numbers in [*ALWAYS.values(), *(OUTSIDE.values() if outside else ())]:
        program.never(numbers[which])
    if not processes:
        program.never(FORK[which])
        program.never(VFORK[which])
        program.never(CLONE3[which], ENOSYS)  # libc then asks by clone, whose flags can be read
        program.unless(CLONE[which], 0x45, CLONE_THREAD)
        program.unless(KILL[which], 0x15, os.getpid())
        program.unless(TGKILL[which], 0x15, os.getpid())
    program.but(PRCTL[which], SET_PDEATHSIG)
    if outside:
        program.unless(PRLIMIT[which], 0x15, 0)
    program.give(0x7FFF0000)
    program.load()


class _Filter:
    """A program of Berkeley's packet filter, as seccomp reads it."""

    def __init__(self) -> None:
        self.steps: list[bytes] = []

    def add(self, code: int, value: int, if_true: int = 0, if_false: int = 0) -> None:
        self.steps.append(struct.pack("=HBBI", code, if_true, if_false, value))

    def give(self, action: int) -> None:
        self.add(0x06, action)

    def refuse(self, number: int) -> None:
        self.give(0x00050000 | number)

    def never(self, call: int | None, number: int = EPERM) -> None:
        """Refuse a call."""
        if call is not None:
            self.add(0x15, call, 0, 1)
            self.refuse(number)

    def unless(self, call: int | None, test: int, value: int) -> None:
        """Refuse a call unless its first argument passes the test (0x15: equals; 0x45: has these bits)."""
        if call is not None:
            self.add(0x15, call, 0, 4)
            self.add(0x20, 16)
            self.add(test, value, 1, 0)
            self.refuse(EPERM)
            self.give(0x7FFF0000)

    def but(self, call: int | None, value: int) -> None:
        """Allow a call unless its first argument equals a value."""
        if call is not None:
            self.add(0x15, call, 0, 4)
            self.add(0x20, 16)
            self.add(0x15, value, 0, 1)
            self.refuse(EPERM)
            self.give(0x7FFF0000)

    def load(self) -> None:
        whole = ctypes.create_string_buffer(b"".join(self.steps))
        head = struct.pack("@HP", len(self.steps), ctypes.addressof(whole))
        check(LIBC.prctl(22, 2, ctypes.create_string_buffer(head), 0, 0), "seccomp")


def no_new_powers() -> None:
    """No program that is run from here on has more rights than this one; what powers this one has are dropped."""
    check(LIBC.prctl(38, 1, 0, 0, 0), "no_new_privs")
    head, none = struct.pack("=Ii", 0x20080522, 0), bytes(24)
    check(_call(126 if os.uname().machine == "x86_64" else 91, head, none), "capset")


READ, CHANGE = 0b1101, 0b1110111110010 | 1 << 13 | 1 << 14
"""Landlock's rights: to run, read and list; to write, remove, make (no devices), move and cut."""
OF_FILES = 0b0111 | 1 << 14
EVERY = (1 << 15) - 1


def landlock_version() -> int:
    """The version of Landlock that this kernel has; 0 for none."""
    return max(0, int(LIBC.syscall(444, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def restrict_files(reads: Sequence[str], writes: Sequence[str]) -> None:
    """From here on files can be opened for reading below `reads` and `writes`, for writing below `writes`, and nothing
    else. What is absent of them is passed over. Needs version 3 (Linux 6.2). Raises OSError."""
    version = landlock_version()
    every = EVERY | (1 << 15 if version >= 5 else 0)
    asked = [every, *([0b11] if version >= 4 else []), *([0b11] if version >= 6 else [])]  # TCP; sockets and signals
    rules = check(_call(444, struct.pack(f"={len(asked)}Q", *asked), ctypes.c_size_t(8 * len(asked)), 0), "landlock")
    for paths, rights in ((reads, READ), (writes, READ | CHANGE)):
        for path in paths:
            try:
                place = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                continue
            allowed = rights if os.path.isdir(path) else rights & OF_FILES  # noqa: PTH112 (pathlib costs milliseconds)
            check(_call(445, rules, 1, struct.pack("=Qi", allowed, place), 0), "landlock")
            os.close(place)
    check(_call(446, rules, 0), "landlock")
    os.close(rules)


def mount_memory(folder: str, size: int) -> None:
    """A file system in memory, of so many bytes, over a folder; seen in this mount namespace alone."""
    flags = 0b110  # no set-uid programs, no devices
    asked = LIBC.mount(b"tmpfs", folder.encode(), b"tmpfs", flags, f"size={size},nr_inodes=10k,mode=700".encode())
    check(asked, "mount")


def die_with_parent() -> None:
    """Killed when the thread that started this process ends."""
    check(LIBC.prctl(SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def check(result: int, what: str) -> int:
    """The result of a system call. Raises OSError where it is a fault."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return int(result)


def _call(number: int, *arguments: object) -> int:
    return int(LIBC.syscall(number, *arguments))
