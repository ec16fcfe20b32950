"""Checkpoints that are whole or absent: written beside, synced, listed with their hashes, then renamed into place.

    checkpoints/step-00000040/
        weights.safetensors     what trains (fp32 masters where there are any)
        optimizer.safetensors   the optimisers' tensors
        rng.safetensors         random states
        state.json              step, position in the event log, guards, best evaluation, the rest of the states
        manifest.json           size and sha256 of each of these

Safetensors and JSON only: loading a checkpoint never runs code from it.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.errors import LuthierError
from luthier.run import Run
from luthier.train.loop import tree

VERSION = 1
MANIFEST = "manifest.json"
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk whose files were found whole."""

    folder: Path
    step: int

    def state(self) -> dict[str, Any]:
        """Everything but tensors."""
        content: dict[str, Any] = json.loads((self.folder / "state.json").read_text(encoding="utf-8"))
        return content

    def weights(self) -> dict[str, Tensor]:
        """What trains, by name."""
        return load_file(self.folder / "weights.safetensors")

    def optimizers(self) -> list[dict[Any, Any]]:
        """The optimisers' states."""
        states: list[dict[Any, Any]] = self._joined("optimizers", "optimizer.safetensors")
        return states

    def rng(self) -> dict[str, Any]:
        """Random states, for `rng.restore`."""
        state: dict[str, Any] = self._joined("rng", "rng.safetensors")
        return state

    def _joined(self, key: str, file: str) -> Any:
        return tree.join(self.state()[key], load_file(self.folder / file))


@dataclass(frozen=True)
class Content:
    """What goes into a checkpoint."""

    step: int
    weights: Mapping[str, Tensor]
    optimizers: list[dict[Any, Any]]
    rng: Mapping[str, Any]
    progress: Mapping[str, Any]
    """Plain JSON values; read back as `Checkpoint.state()["progress"]`."""


def save(run: Run, content: Content) -> Path:
    """Write a checkpoint whole, or nothing. Raises LuthierError when there is no space for it."""
    optimizer_plain, optimizer_tensors = tree.split(content.optimizers, "optimizer")
    rng_plain, rng_tensors = tree.split(dict(content.rng), "rng")
    tensors = {
        "weights.safetensors": {name: tensor.contiguous() for name, tensor in content.weights.items()},
        "optimizer.safetensors": optimizer_tensors,
        "rng.safetensors": rng_tensors,
    }
    state = {
        "version": VERSION,
        "step": content.step,
        "progress": dict(content.progress),
        "events_bytes": _sync_events(run),
        "optimizers": optimizer_plain,
        "rng": rng_plain,
    }
    needed = sum(tensor.nbytes for file in tensors.values() for tensor in file.values()) + (1 << 16)
    temporary = run.checkpoints / f".writing-{_name(content.step)}"
    try:
        run.checkpoints.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        if shutil.disk_usage(run.checkpoints).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(run.checkpoints))
        return _write(run.checkpoints / _name(content.step), temporary, tensors, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _no_space(error):
            raise
        raise _full(run, needed) from error


def _write(folder: Path, temporary: Path, tensors: Mapping[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
    temporary.mkdir()
    for name, content in tensors.items():
        save_file(content, temporary / name)
    (temporary / "state.json").write_text(json.dumps(state), encoding="utf-8")
    manifest = {path.name: _fingerprint(path, sync=True) for path in sorted(temporary.iterdir())}
    (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    _sync(temporary / MANIFEST)
    _sync(temporary)
    _remove(folder)
    temporary.rename(folder)
    _sync(folder.parent)
    return folder


def prune(run: Run, keep: int, best: int | None) -> None:
    """Remove all checkpoints but the newest `keep` and the one of step `best`."""
    for step, folder in _on_disk(run)[keep:]:
        if step != best:
            _remove(folder)


def latest(run: Run, say: Callable[[str], None] | None = None) -> Checkpoint | None:
    """The newest whole checkpoint, None if there is none. Each broken one that is passed over is told to `say`."""
    say = say or (lambda text: print(text, file=sys.stderr))
    for step, folder in _on_disk(run):
        fault = broken(folder)
        if fault is None:
            return _of_our_format(Checkpoint(folder, step))
        say(f"checkpoint {folder.name} is broken ({fault}) and is passed over")
    return None


def _of_our_format(found: Checkpoint) -> Checkpoint:
    version = found.state()["version"]
    if version != VERSION:
        raise LuthierError(
            f"the checkpoint has format {version}, this version of luthier reads format {VERSION}",
            where=str(found.folder),
            fix="continue with the version the run began with, or set another `output:`",
        )
    return found


def at(run: Run, step: int) -> Checkpoint:
    """The checkpoint of one step. Raises LuthierError if it is absent or broken."""
    folder = run.checkpoints / _name(step)
    fault = broken(folder)
    if fault is not None:
        raise LuthierError(
            f"the checkpoint of the best evaluation cannot be read: {fault}",
            where=str(folder),
            fix="train again into another `output:`, or with validate.keep_best=false",
        )
    return Checkpoint(folder, step)


def broken(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`; None if every file is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest.items():
            path = folder / name
            size = path.stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size:,} of {expected['bytes']:,} bytes"
            if _fingerprint(path) != expected:
                return f"{name} has changed since it was written"
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"


def discard_after(run: Run, step: int) -> None:
    """Remove the checkpoints beyond `step`: they are broken, and the run comes by there again."""
    for found, folder in _on_disk(run):
        if found > step:
            _remove(folder)


def remove_leftovers(run: Run) -> None:
    """Remove what a killed process left half written or half removed."""
    for folder in run.checkpoints.glob(".*ing-*"):
        shutil.rmtree(folder)


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _on_disk(run: Run) -> list[tuple[int, Path]]:
    """Steps and folders, newest first."""
    folders = [path for path in run.checkpoints.glob("step-*") if path.name[5:].isdigit()]
    return sorted(((int(path.name[5:]), path) for path in folders), reverse=True)


def _remove(folder: Path) -> None:
    if folder.exists():
        # renamed first: a kill while it is being removed leaves no half checkpoint under its own name
        going = folder.with_name(f".removing-{folder.name}")
        folder.rename(going)
        shutil.rmtree(going)


def _fingerprint(path: Path, *, sync: bool = False) -> dict[str, Any]:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())
        return {"bytes": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_events(run: Run) -> int:
    """The length of the event log, all of it on disk."""
    if not run.events_path.exists():
        return 0
    _sync(run.events_path)
    return run.events_path.stat().st_size


def _no_space(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    return any(f"os error {code}" in str(error) for code in NO_SPACE)


def _full(run: Run, needed: int) -> LuthierError:
    kept, free = _on_disk(run), shutil.disk_usage(run.checkpoints).free
    return LuthierError(
        f"no space left for a checkpoint: it needs {needed:,} bytes, {free:,} are free",
        where=str(run.checkpoints),
        fix="make space and run the same command again: it continues from "
        + (f"{kept[0][1].name}" if kept else "the beginning, for no checkpoint was written yet"),
    )
