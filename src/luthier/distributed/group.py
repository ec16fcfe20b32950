"""The processes of a run, as one object that everything asks which concerns more than one of them.

A process has a rank below the number of processes, the world. They find each other by the environment that `torchrun`
sets. There are two ways to speak: by the store, which waits for any time and in which each message has a name; and by
collectives, once `form` was called, which all processes must call in the same order.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.errors import LuthierError, Told

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import Store  # type: ignore[attr-defined]

Value = TypeVar("Value")
WAIT = timedelta(days=30)
"""For the slowest step of another process. Those that die are noticed by their closed connections, not by the clock."""
POLL = 0.05
GRACE = 5.0
"""Seconds that a process which has lost another waits for that one's own words."""
_groups = 0


class Lost(LuthierError):
    """Another process of the run is gone."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(
            f"another process of the run is gone, and without it there is no going on ({_first_line(cause)})",
            fix="see what ended it (memory? a kill?) and run the same command again: it continues from its checkpoint",
        )


class Group:
    """This process among all of the run."""

    def __init__(self, rank: int = 0, world: int = 1, here: int = 1, store: Store | None = None) -> None:
        """`here`: how many of the processes are on this machine."""
        self.rank, self.world, self.here, self._store = rank, world, here, store
        self._formed = False
        self._turns = 0

    @property
    def first(self) -> bool:
        """Is this the one that writes, shows and decides?"""
        return self.rank == 0

    @property
    def several(self) -> bool:
        """Are there others?"""
        return self.world > 1

    # by the store
    def tell(self, name: str, value: Any) -> None:
        """Leave a plain value for the others, under a name that was not used before."""
        if self._store is not None:
            self._store.set(name, json.dumps(value))

    def told(self, name: str) -> Any:
        """What was left under a name; waits for it. Raises Lost where the store is gone."""
        assert self._store is not None, "there are no others"
        try:
            while not self._store.check([name]):
                time.sleep(POLL)
            return json.loads(self._store.get(name))
        except RuntimeError as error:
            raise Lost(error) from error

    @contextmanager
    def first_goes(self) -> Iterator[None]:
        """The first process goes through the block before the others do, who may then find its work in the cache."""
        self._turns += 1
        name = f"turn {self._turns}"
        if self.several and not self.first:
            self.told(name)
        yield
        if self.first:
            self.tell(name, True)

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Of all faults that end the run, those of one process are told: raises Told in the others."""
        try:
            yield
        except Told:
            raise
        except (KeyboardInterrupt, Exception) as error:
            if not self.several:
                raise
            if isinstance(error, KeyboardInterrupt) and self.first:
                raise
            if isinstance(error, KeyboardInterrupt) or not self._is_mine_to_tell(error):
                raise Told from error
            if self._formed:
                error.add_note(f"(process {self.rank} of {self.world}, counted from 0)")
            raise

    def _is_mine_to_tell(self, error: BaseException) -> bool:
        assert self._store is not None
        lost, began = isinstance(error, Lost), time.monotonic()
        try:
            while lost and time.monotonic() - began < GRACE and not self._store.check(["faults"]):
                time.sleep(POLL)
            return self._store.add("faults", 1) == 1
        except RuntimeError:
            return self.first  # the store is gone with its owner, who has told or was killed

    # by collectives
    def form(self) -> None:
        """Meet the others. Call it when nothing slow is left that only one of them does."""
        if not self.several:
            return
        import torch
        import torch.distributed as dist

        cuda = torch.cuda.is_available()
        if cuda:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", self.rank)))
        backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
        with _losing():
            dist.init_process_group(backend, store=self._store, rank=self.rank, world_size=self.world, timeout=WAIT)
        self._formed = True

    def leave(self) -> None:
        """Part from the others; what comes after, each does alone."""
        if self._formed:
            import torch.distributed as dist

            dist.destroy_process_group()
            self._formed = False

    def add_up(self, tensor: Tensor) -> None:
        """Sum a tensor over all processes, in place."""
        if self.several:
            import torch.distributed as dist

            with _losing():
                dist.all_reduce(tensor)

    def by_place(self, mine: Mapping[int, Tensor], sizes: Sequence[int], device: Any) -> list[Tensor]:
        """Numbers by their places, fp64, of which this process has `mine`: all of them, known to all."""
        import torch

        if not self.several:
            return [mine[place] for place in range(len(sizes))]
        flat = torch.zeros(sum(sizes), dtype=torch.float64, device=device)
        pieces = torch.split(flat, list(sizes))
        for place, numbers in mine.items():
            pieces[place].copy_(numbers)
        self.add_up(flat)
        return list(pieces)

    def gather(self, value: Value) -> list[Value]:
        """What each process gives, by rank, known to all."""
        if not self.several:
            return [value]
        import torch.distributed as dist

        found: list[Any] = [None] * self.world
        with _losing():
            dist.all_gather_object(found, value)
        return found

    def share(self, value: Value) -> Value:
        """What the first process gives."""
        return self.gather(value if self.first else None)[0]  # type: ignore[return-value]

    def agree(self, flag: bool) -> bool:
        """Does any process say yes?"""
        if not self.several:
            return flag
        import torch

        yes = torch.tensor(float(flag))
        self.add_up(yes)
        return bool(yes > 0)

    def same(self, what: str, digests: dict[str, str]) -> None:
        """Raises LuthierError, in all processes, where the named digests of one differ from the first process's."""
        first, *others = self.gather(digests)
        for rank, other in enumerate(others, start=1):
            differing = [name for name in {**first, **other} if first.get(name) != other.get(name)]
            if differing:
                more = f" and {len(differing) - 1:,} more" if len(differing) > 1 else ""
                raise LuthierError(
                    f"{what} of process {rank} are not those of process 0: they differ in {differing[0]}{more}",
                    fix="run the same command again: it continues from the last checkpoint, before which all were "
                    "equal. If it comes again, give all processes the same machine, versions and train.threads",
                )


ALONE = Group()


def of_environment() -> Group:
    """This process's group, by what `torchrun` has set; alone where it has set nothing."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return Group()
    from torch.distributed import PrefixStore  # type: ignore[attr-defined]

    global _groups
    _groups += 1  # a process may train several times: what is said of one run is not heard in the next
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    store = PrefixStore(f"luthier {attempt} {_groups}", _store(world))
    return Group(int(os.environ["RANK"]), world, here, store)


@cache
def _store(world: int) -> Store:
    """The launcher's store, or else the first process's own; it lives as long as the process."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    of_launcher = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    with _losing():
        return TCPStore(
            os.environ["MASTER_ADDR"],
            int(os.environ["MASTER_PORT"]),
            world,
            is_master=os.environ["RANK"] == "0" and not of_launcher,
            timeout=timedelta(minutes=10),
            wait_for_workers=False,
        )


@contextmanager
def _losing() -> Iterator[None]:
    """A collective that fails has lost a process."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(error) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(group: Group) -> int:
    """Threads of each of several processes, so that those of one machine together use each core once."""
    return max(1, cores() // group.here)


def use_threads(group: Group, wish: int | None) -> None:
    """Compute with so many threads; without a wish, each of several processes with its share of the cores."""
    if wish or group.several:
        import torch

        torch.set_num_threads(wish or threads(group))


@contextmanager
def threads_of_training(group: Group) -> Iterator[None]:
    """Around the training: afterwards there are as many threads as before. The first of several processes, which goes
    on alone, then has all cores: before, there were others, and the launcher had left it its share."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(cores() if group.several and group.first else before)
