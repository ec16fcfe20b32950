"""The compiled reader: one C call a step, over the very weights of a module on the CPU.

Shape suffixes: T = tokens of the step, R = runs, W = tokens whose logits are wanted, V = vocabulary, P = positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.models.blocks.kernels import decode
from luthier.models.decode import adapters
from luthier.models.decode.copies import Copies, Kind
from luthier.models.decode.pages import Pages
from luthier.models.decode.step import OWN, PAGE, Run, places
from luthier.models.decode.watch import Watch
from luthier.models.decode.weights import Lora, Weights, lora_records, paths, weights

PLAIN = -2
"""The adapter of a token that the model answers without any."""
BLOCK = 512
"""Tokens that go through the layers together; more are read one block after the other."""
ANGLES = 1024
"""Positions whose rotary embedding is computed at a time."""
NOTHING, NOBODY = np.zeros(0, decode.GROUP), np.zeros(0, np.int32)


class CompiledReader:
    """Reads tokens with the weights of a module as they are at the last `refresh`; implements `step.Reader`.

    What it gives for a run depends, to the bit, on that run's tokens, pages and adapter alone: not on the runs beside
    it, nor on how a sequence was cut into runs, nor on the number of threads. A run may see pages that one before it
    in the same step fills.
    """

    shares, whole_prompts, first = True, False, 0

    def __init__(self, module: nn.Module, found: Weights, copies: Copies) -> None:
        """Use `of`."""
        self._copies = copies
        self._module, self._weights, self._watch = module, found, Watch(module)
        self._space = decode.Space()
        self._resting = False
        """Were the copies let go of? Then nothing lies where the records say until `refresh`."""
        self._angles: tuple[Tensor, Tensor] | None = None
        self._adapters: dict[int, _Adapter] = {}
        self._next = 0
        record = found.model[0]
        each = 2 * int(record["groups"]) * int(record["d"]) * PAGE * (2 if found.half else 4)
        self._pages = Pages(int(record["depth"]) * each)
        self.page_bytes = self._pages.bytes
        self.vocabulary = int(record["vocabulary"])

    @classmethod
    def of(cls, module: nn.Module, kind: Kind = "own") -> CompiledReader | str:
        """A reader of the module's weights, in the form `kind` of `copies.py`; or why it is not served."""
        copies = Copies(kind)
        found = weights(module, copies)
        return found if isinstance(found, str) else cls(module, found, copies)

    def describe(self) -> str:
        """What runs, in a few words for a run's path."""
        form = "bf16" if self._weights.half else "fp32"
        if self._copies.kind != "own":
            form += f", {self._copies.count} matrices read in {self._copies.kind}"
        return f"compiled decoding ({form})"

    # memory
    def grow(self, pages: int) -> None:
        """See to it that pages 0 .. `pages` - 1 have memory; those that had keep what lies in them."""
        self._pages.grow(pages)

    def copy(self, source: int, target: int) -> None:
        """Copy a page. Raises ValueError for one that has no memory."""
        self._pages.copy(source, target)

    def release(self, pages: Sequence[int]) -> None:
        """Nothing is kept beside the pages."""

    def rest(self) -> None:
        """As `Reader.rest`. Copies of matrices go, too, and are made again when tokens are read next."""
        self._pages = Pages(self._pages.bytes)
        if self._copies.count:
            self._copies.drop()
            self._weights.kept.clear()
            self._resting = True

    # weights
    def refresh(self) -> None:
        """Look at the weights again. Raises LuthierError where the module has become one that is not served."""
        same = self._watch.same_parts()
        if same and self._watch.same_tensors() and not self._resting:
            return
        found = weights(self._module, self._copies, same=same)
        if isinstance(found, str):
            raise LuthierError(f"the model can no longer be read by the compiled step: {found}", fix="open it anew")
        if found.shapes != self._weights.shapes or found.dtype is not self._weights.dtype:
            raise LuthierError("the model has other sizes than when it was opened", fix="open it anew")
        if found.rotary is not self._weights.rotary:
            self._angles = None
        self._weights, self._watch, self._resting = found, Watch(self._module), False

    def load(self, adapter: Mapping[str, Lora], where: str = "adapter") -> int:
        """One more adapter over the same base: LoRA by the path of its matrix in the model
        (`model.layers.0.self_attn.q_proj`; see `adapters.py`). Returns the number under which runs name it.

        Its tensors are copied, unless `adapter` gave them. Raises LuthierError for a path or a shape that the model
        does not have.
        """
        self.must_fit(adapter, where)
        own = {path: lora.laid_out(self._weights.half) for path, lora in adapter.items()}
        number, self._next = self._next, self._next + 1
        found = lora_records([own.get(path) for path in paths(len(self._weights.layers))], self._weights.half)
        self._adapters[number] = _Adapter(found, int(found["rank"].max()), tuple(own.values()))
        return number

    def must_fit(self, adapter: Mapping[str, Lora], where: str) -> None:
        """Raises LuthierError for a path or a shape that the model does not have."""
        for path, lora in adapter.items():
            if path not in self._weights.shapes:
                raise LuthierError(
                    f"the adapter has LoRA on {path}, which is no matrix of the model's layers or its head",
                    where=where,
                    fix="take an adapter of this base, on its linear maps alone",
                )
            out, inputs = self._weights.shapes[path]
            rank = lora.down.shape[0] if lora.down.dim() == 2 else 0
            if not 1 <= rank <= max(out, inputs) or lora.down.shape != (rank, inputs) or lora.up.shape != (out, rank):
                raise LuthierError(
                    f"the adapter's A and B of {path} are {list(lora.down.shape)} and {list(lora.up.shape)}, "
                    f"and the matrix is {out} x {inputs}",
                    where=where,
                    fix="take an adapter of this base",
                )

    # a folder's adapter, without and with its numbers
    def look(self, folder: Path) -> None:
        """Raises as `adapters.look` does, and LuthierError for an adapter of another base."""
        self.must_fit(adapters.look(folder, self._module), str(folder))

    def adapter(self, folder: Path) -> dict[str, Lora]:
        """What `load` takes, laid out already; may be called from another thread."""
        found = adapters.read(folder, self._module)
        self.must_fit(found, str(folder))
        return {path: lora.laid_out(self._weights.half) for path, lora in found.items()}

    def unload(self, number: int) -> None:
        """Forget an adapter. Raises ValueError for a number that `load` did not give."""
        if self._adapters.pop(number, None) is None:
            raise ValueError(f"there is no adapter {number}")

    # tokens
    def read(self, runs: Sequence[Run]) -> Tensor:
        """Read the runs' tokens. Returns the logits of those wanted, in the order of the runs: W, V in fp32.

        Raises ValueError for a run without tokens, for tokens that the model does not have, for pages that have no
        memory or are too few, and for an adapter that is not loaded.
        """
        self._check(runs)
        if self._resting:
            self.refresh()
        wanted = sum(run.wanted for run in runs)
        logits_WV = torch.empty(wanted, self.vocabulary)
        done = 0
        for block in _blocks(runs):
            here = sum(run.wanted for run in block)
            self._step(block, logits_WV[done : done + here])
            done += here
        return logits_WV

    def _check(self, runs: Sequence[Run]) -> None:
        for number, run in enumerate(runs):
            end = run.start + len(run.ids)
            if not len(run.ids) or run.start < 0:
                raise ValueError(f"run {number} has {len(run.ids)} tokens from {run.start} on")
            if len(run.pages) * PAGE < end:
                raise ValueError(f"run {number} has {len(run.pages)} pages for {end} tokens")
            if run.adapter not in self._adapters and run.adapter not in (OWN, PLAIN):
                raise ValueError(f"run {number} names adapter {run.adapter}, which is not loaded")

    def _step(self, runs: Sequence[Run], logits_WV: Tensor) -> None:
        ids_T, position_T, run_T = places(runs)
        if ids_T.min() < 0 or ids_T.max() >= self._weights.tokens:
            raise ValueError(f"a token is {ids_T.min()} or {ids_T.max()}; the model has {self._weights.tokens}")
        longest = int(position_T.max()) + 1
        self._turn(longest)
        page, first_R = self._pages.of([run.pages for run in runs])
        wanted = [row for row, run in enumerate(runs) if run.wanted]
        last_R = np.cumsum([len(run.ids) for run in runs], dtype=np.int32) - 1
        adapter_R = [run.adapter for run in runs]
        rank, lora = self._live(adapter_R)
        group, member = self._groups(lora, np.array(adapter_R)[run_T] if lora else None)
        head_group, head_member = self._groups(lora, np.array(adapter_R)[wanted] if lora else None)
        sizes = (len(ids_T), len(wanted), len(group), len(head_group), torch.get_num_threads(), rank, longest)
        arrays = (ids_T, position_T, first_R[run_T], page, last_R[wanted], member, head_member, group, head_group)
        self._space.run(self._weights.model, sizes, arrays, logits_WV)

    def _live(self, adapter_R: Sequence[int]) -> tuple[int, dict[int, NDArray[Any]]]:
        """The highest rank in use, and the LoRA of each adapter in use that has any."""
        found, rank = {}, 0
        for number in sorted(set(adapter_R)):
            if number == OWN and self._weights.own is not None:
                found[number], rank = self._weights.own, max(rank, self._weights.rank)
            elif number in self._adapters:
                adapter = self._adapters[number]
                found[number], rank = adapter.records, max(rank, adapter.rank)
        return rank, found

    @staticmethod
    def _groups(
        lora: dict[int, NDArray[Any]], adapter_T: NDArray[Any] | None
    ) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """The tokens of each adapter, one group after the other."""
        groups, members, first = [], [], 0
        if adapter_T is None:
            return NOTHING, NOBODY
        for number, records in lora.items():
            members.append(np.flatnonzero(adapter_T == number).astype(np.int32))
            groups.append((decode.address(records), first, len(members[-1])))
            first += len(members[-1])
        return decode.records(groups, decode.GROUP), np.concatenate(members)

    def _turn(self, positions: int) -> None:
        """See to it that the model's own rotary embedding is known for so many positions: P x head dimension, fp32."""
        if self._angles is None or len(self._angles[0]) < positions:
            count = -(-positions // ANGLES) * ANGLES
            like = torch.empty(0, dtype=self._weights.dtype)
            with torch.no_grad():
                cos, sin = self._weights.rotary(like, torch.arange(count)[None])
            if cos.shape[-1] != int(self._weights.model[0]["d"]):
                raise LuthierError("the rotary embedding turns another part of the heads than all", fix="open it anew")
            self._angles = cos[0].float().contiguous(), sin[0].float().contiguous()
        self._weights.model["cos"], self._weights.model["sin"] = (x.data_ptr() for x in self._angles)


@dataclass(frozen=True)
class _Adapter:
    """LoRA of every matrix, its highest rank, and the tensors that the records name."""

    records: NDArray[Any]
    rank: int
    kept: tuple[Lora, ...]


def _blocks(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs, cut so that none of the parts has more than `BLOCK` tokens."""
    blocks: list[list[Run]] = [[]]
    room = BLOCK
    for run in runs:
        done = 0
        while done < len(run.ids):
            if not room:
                blocks.append([])
                room = BLOCK
            take = min(room, len(run.ids) - done)
            whole = take == len(run.ids)
            part = run if whole else _part(run, done, take)
            blocks[-1].append(part)
            done, room = done + take, room - take
    return [block for block in blocks if block]


def _part(run: Run, first: int, count: int) -> Run:
    last = first + count == len(run.ids)
    return Run(run.ids[first : first + count], run.start + first, run.pages, run.wanted and last, run.adapter)
