"""Where Luthier keeps what it can make again, and how a folder comes to be whole or not at all. Never imports torch."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from luthier.errors import LuthierError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def root() -> Path:
    """The cache folder: $LUTHIER_CACHE, else ~/.cache/luthier. It may be deleted at any time."""
    return Path(os.environ.get("LUTHIER_CACHE") or "~/.cache/luthier").expanduser()


def is_full(error: BaseException) -> bool:
    """Did this fault come of a full disk? (safetensors reports the system's message, not its number.)"""
    if isinstance(error, OSError) and error.errno in FULL:
        return True
    return any(os.strerror(number) in str(error) for number in FULL)


def no_space(folder: Path, purpose: str) -> LuthierError:
    """The error of a full disk. `purpose`: what was being written, as in "the adapter"."""
    inside = folder.absolute().is_relative_to(root().absolute())
    more = f"free space, or set LUTHIER_CACHE to a folder on a larger disk (now {root()})"
    return LuthierError(
        f"no space left on the disk while writing {purpose}; nothing was left half-written",
        where=str(folder),
        fix=more if inside else "free space there, or choose a folder on a larger disk",
    )


@contextmanager
def whole_folder(folder: Path, purpose: str, *, size: int = 0) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its place when the block ends well, and vanishes when it does not.

    `size` is the bytes about to be written: asked of the disk first, so that a full one is known before the work.
    Raises LuthierError for a full disk and for a place that cannot be written to.
    """
    folder = folder.absolute()
    temporary = _beside(folder, purpose, size)
    try:
        yield temporary
        _take_place(temporary, folder)
    except Exception as error:
        if is_full(error):
            raise no_space(folder, purpose) from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(folder: Path, purpose: str, size: int) -> Path:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(folder.parent).free < size:
            raise no_space(folder, purpose)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        temporary.chmod(0o755)
        return temporary
    except OSError as error:
        if is_full(error):
            raise no_space(folder, purpose) from error
        raise LuthierError(
            f"cannot write {purpose}: {error.strerror}", where=str(folder), fix="choose a folder you may write to"
        ) from error


def _take_place(temporary: Path, folder: Path) -> None:
    for path in temporary.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    if not folder.exists():
        temporary.replace(folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    folder.replace(old / folder.name)
    try:
        temporary.replace(folder)
    except OSError:
        (old / folder.name).replace(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def size_of(folder: Path) -> int:
    """Bytes of all files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
