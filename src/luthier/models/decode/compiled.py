"""The compiled reader: one C call a step, over the very weights of a module on the CPU.

Shape suffixes: T = tokens of the step, R = runs, W = tokens whose logits are wanted, V = vocabulary, P = positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.errors import LuthierError
from luthier.models.blocks.kernels import decode
from luthier.models.decode.pages import Pages
from luthier.models.decode.step import OWN, PAGE, Run, places
from luthier.models.decode.weights import Lora, Weights, lora_records, paths, weights

PLAIN = -2
"""The adapter of a token that the model answers without any."""
BLOCK = 512
"""Tokens that go through the layers together; more are read one block after the other."""
ANGLES = 1024
"""Positions whose rotary embedding is computed at a time."""


class CompiledReader:
    """Reads tokens with the weights of a module as they are at the last `refresh`; implements `step.Reader`.

    What it gives for a run depends, to the bit, on that run's tokens, pages and adapter alone: not on the runs beside
    it, nor on how a sequence was cut into runs, nor on the number of threads. A run may see pages that one before it
    in the same step fills.
    """

    shares, whole_prompts, first = True, False, 0

    def __init__(self, module: nn.Module, found: Weights) -> None:
        """Use `of`."""
        self._module, self._weights = module, found
        self._space = decode.Space()
        self._angles: tuple[Tensor, Tensor] | None = None
        self._adapters: dict[int, tuple[NDArray[Any], list[Tensor]]] = {}
        self._next = 0
        record = found.model[0]
        each = 2 * int(record["groups"]) * int(record["d"]) * PAGE * (2 if found.half else 4)
        self._pages = Pages(int(record["depth"]) * each)
        self.page_bytes = self._pages.bytes
        self.vocabulary = int(record["vocabulary"])

    @classmethod
    def of(cls, module: nn.Module) -> CompiledReader | str:
        """A reader of the module's weights; or why it is not served."""
        found = weights(module)
        return found if isinstance(found, str) else cls(module, found)

    def describe(self) -> str:
        """What runs, in a few words for a run's path."""
        kind = "bf16" if self._weights.half else "fp32"
        return f"compiled decoding ({kind})"

    @property
    def shapes(self) -> Mapping[str, tuple[int, int]]:
        """Outputs and inputs of each matrix that may have LoRA, by its path in the model."""
        return self._weights.shapes

    # memory
    def grow(self, pages: int) -> None:
        """See to it that pages 0 .. `pages` - 1 have memory; those that had keep what lies in them."""
        self._pages.grow(pages)

    def copy(self, source: int, target: int) -> None:
        """Copy a page. Raises ValueError for one that has no memory."""
        self._pages.copy(source, target)

    def release(self, pages: Sequence[int]) -> None:
        """Nothing is kept beside the pages."""

    # weights
    def refresh(self) -> None:
        """Look at the weights again. Raises LuthierError where the module has become one that is not served."""
        found = weights(self._module)
        if isinstance(found, str):
            raise LuthierError(f"the model can no longer be read by the compiled step: {found}", fix="open it anew")
        if found.shapes != self._weights.shapes or found.dtype is not self._weights.dtype:
            raise LuthierError("the model has other sizes than when it was opened", fix="open it anew")
        if found.rotary is not self._weights.rotary:
            self._angles = None
        self._weights = found

    def load(self, adapter: Mapping[str, Lora]) -> int:
        """One more adapter over the same base: LoRA by the path of its matrix in the model
        (`model.layers.0.self_attn.q_proj`). Returns the number under which runs name it.

        Raises LuthierError for a path or a shape that the model does not have.
        """
        own: dict[str, Lora] = {}
        for path, lora in adapter.items():
            if path not in self._weights.shapes:
                raise LuthierError(f"the adapter has LoRA on {path}, which the model does not have", where="adapter")
            own[path] = Lora(*(_kept(x) for x in (lora.down, lora.up)), float(lora.scale))
            out, inputs = self._weights.shapes[path]
            rank = lora.down.shape[0] if lora.down.dim() == 2 else 0
            if rank < 1 or lora.down.shape != (rank, inputs) or lora.up.shape != (out, rank):
                raise LuthierError(
                    f"the adapter's A and B of {path} are {list(lora.down.shape)} and {list(lora.up.shape)}, "
                    f"and the matrix is {out} x {inputs}",
                    where="adapter",
                    fix="take an adapter of this base",
                )
        number, self._next = self._next, self._next + 1
        found = lora_records([own.get(path) for path in paths(len(self._weights.layers))], self._weights.half)
        self._adapters[number] = found, [x for lora in own.values() for x in (lora.down, lora.up)]
        return number

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
        if len(ids_T) and (ids_T.min() < 0 or ids_T.max() >= self._weights.tokens):
            raise ValueError(f"a token is {ids_T.min()} or {ids_T.max()}; the model has {self._weights.tokens}")
        longest = int(position_T.max()) + 1
        cos_PD, sin_PD = self._turns(longest)
        model = self._weights.model
        model["cos"], model["sin"] = cos_PD.data_ptr(), sin_PD.data_ptr()
        page, first_R = self._pages.of([run.pages for run in runs])
        page_of_T = first_R[run_T]
        last_R = np.cumsum([len(run.ids) for run in runs]) - 1
        want = last_R[[run.wanted for run in runs]].astype(np.int32)
        adapter_R = np.array([run.adapter for run in runs])
        group, member = self._groups(adapter_R[run_T])
        head_group, head_member = self._groups(adapter_R[[run.wanted for run in runs]])
        sizes = (len(ids_T), len(want), len(group), len(head_group), torch.get_num_threads(), self._rank(adapter_R))
        arrays = (ids_T, position_T, page_of_T, page, want, member, head_member, group, head_group)
        addresses = (array.ctypes.data for array in arrays)
        step = decode.records([(*sizes, longest, *addresses, logits_WV.data_ptr(), 0)], decode.STEP)
        self._space.run(model, step)

    def _rank(self, adapter_R: NDArray[Any]) -> int:
        """The highest rank in use."""
        found = (self._lora(number) for number in np.unique(adapter_R).tolist())
        return max((int(lora["rank"].max()) for lora in found if lora is not None), default=0)

    def _lora(self, number: int) -> NDArray[Any] | None:
        if number == OWN:
            return self._weights.own
        return self._adapters[number][0] if number != PLAIN else None

    def _groups(self, adapter_T: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int32]]:
        """The tokens of each adapter, one group after the other."""
        groups, members, first = [], [np.zeros(0, np.int32)], 0
        for number in np.unique(adapter_T).tolist():
            lora = self._lora(number)
            if lora is not None:
                members.append(np.flatnonzero(adapter_T == number).astype(np.int32))
                groups.append((lora.ctypes.data, first, len(members[-1])))
                first += len(members[-1])
        return decode.records(groups, decode.GROUP), np.concatenate(members)

    def _turns(self, positions: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the model's own rotary embedding, P x head dimension in fp32."""
        if self._angles is None or len(self._angles[0]) < positions:
            count = -(-positions // ANGLES) * ANGLES
            like = torch.empty(0, dtype=self._weights.dtype)
            with torch.no_grad():
                cos, sin = self._weights.rotary(like, torch.arange(count)[None])
            if cos.shape[-1] != int(self._weights.model[0]["d"]):
                raise LuthierError("the rotary embedding turns another part of the heads than all", fix="open it anew")
            self._angles = cos[0].float().contiguous(), sin[0].float().contiguous()
        return self._angles


def _kept(x: Tensor) -> Tensor:
    """A copy of an adapter's matrix in a type that the kernels read."""
    kind = torch.bfloat16 if x.dtype is torch.bfloat16 else torch.float32
    return x.detach().to("cpu", kind, copy=True).contiguous()


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
