"""Steps of one token a row in shapes that stay: on CUDA each shape's step is recorded once, as a graph, and played.

Rows and pages are filled up to the next power of two; a row that only fills up reads token 0 at place 0 of a page that
is nobody's. What a step reads and writes lies at places that do not change, the weights too: training in place leaves
recordings good; weights put elsewhere, adapters switched, layers exchanged and a pool that grew do away with them.

Shape suffixes: R = rows, P = pages of a row (both filled up), V = vocabulary.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from luthier.engines.local.pool import Pool
from luthier.forward import packing
from luthier.models.blocks import attention
from luthier.models.blocks.paged import paged_attention
from luthier.models.decode.step import NO_ID, PAGE, Run
from luthier.models.decode.watch import Watch

ROWS = 256
"""Steps of more rows are not taken."""
LEAST_PAGES = 16
"""Of a row: shorter ones share their shape."""
SHAPES = 32
"""So many are kept: each keeps its buffers and its recording."""
FAR, FAR_HALF = 0.01, 0.1
"""How far logits may be from the ordinary way's, in shares of the largest, of models in fp32 and in 16 bit: more than
rounding makes of them, less than any fault."""


class StaticSteps:
    """Reads steps of single tokens over a pool, if its model can be read so; `why` says what was found against it.

    The first step of each shape is read in the ordinary way, too, and is the proof.
    """

    def __init__(self, module: Any, model: Any, pool: Pool, *, record: bool = True) -> None:
        """`record`: without, each step is computed anew, in the same shapes (on any device)."""
        self._module, self._model, self._pool, self._record = module, model, pool, record
        places = {weight.device for weight in module.parameters()}
        self._device = next(iter(places))
        self.why: str | None = None if len(places) == 1 else "the model lies on several devices"
        self._begin()

    def serves(self, runs: Sequence[Run]) -> bool:
        """Is this a step of single tokens, after each of which logits are wanted?"""
        plain = all(len(run.ids) == 1 and run.wanted and run.ids[0] != NO_ID for run in runs)
        return plain and 0 < len(runs) <= ROWS and self.why is None

    def known(self, runs: Sequence[Run]) -> bool:
        """Has a step of this shape been proved?"""
        if not self._watch.same_memory() or self._moves != self._pool.moves:
            self.refresh()
        return _shape(runs) in self._steps

    def proved(self, runs: Sequence[Run], ordinary: Callable[[Sequence[Run]], Tensor]) -> Tensor:
        """Make a step of this shape, and keep it if it gives what the ordinary way gives, but for rounding.

        Returns the latter, which is read last: its keys and values are those that stay in the pages.
        """
        shape = _shape(runs)
        step = _Step(shape, self._device)
        step.fill(runs, self._pool.spare)
        if self._record:
            self._to_be_recorded(step)
        found_RV = self._run(step) if self.why is None else None
        own_RV = ordinary(runs)
        if found_RV is not None:
            far = _apart(found_RV[: len(runs)], own_RV)
            if far > (FAR if self._model.dtype is torch.float32 else FAR_HALF):
                self.why = f"a step over static shapes gives logits that are {far:.0%} off"
        if self.why is not None:
            logging.getLogger(__name__).warning("decoding goes on without CUDA graphs: %s", self.why)
            self._steps.clear()
            return own_RV
        if len(self._steps) >= SHAPES:
            del self._steps[next(iter(self._steps))]  # the one that was not asked for longest
        self._steps[shape] = step
        return own_RV

    def read(self, runs: Sequence[Run]) -> Tensor:
        """As `Reader.read`, for runs whose shape is known."""
        shape = _shape(runs)
        step = self._steps[shape] = self._steps.pop(shape)
        step.fill(runs, self._pool.spare)
        return self._run(step)[: len(runs)].clone()

    def refresh(self) -> None:
        """Do away with what no longer holds."""
        if not self._watch.same_recording() or self._moves != self._pool.moves:
            self._begin()

    def _begin(self) -> None:
        self._watch, self._moves = Watch(self._module), self._pool.moves
        self._steps: dict[tuple[int, int], _Step] = {}
        self._logits: dict[int, Tensor] = {}
        # all recordings share CUDA's memory, for one is played at a time
        self._memory: Any = torch.cuda.graph_pool_handle() if self._record else None

    def _run(self, step: _Step) -> Tensor:
        if step.graph is None:
            self._forward(step)
        else:
            step.graph.replay()
        return self._logits[len(step.id_R)]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Rows and pages of the steps that are kept, the last one played last."""
        return list(self._steps)

    @property
    def bytes(self) -> int:
        """What inputs and logits take; CUDA's recordings take more, which torch counts."""
        held = [step.inputs for step in self._steps.values()] + list(self._logits.values())
        return sum(tensor.nbytes for tensor in held)

    def _forward(self, step: _Step) -> None:
        with packing.paged(self._model):
            logits_RV = self._model(
                input_ids=step.id_R[None],
                position_ids=step.position_R[None],
                use_cache=False,
                # a mask that transformers takes as it is; without one it looks at the positions and waits for them
                attention_mask=step.unused,
                **{attention.LAYOUT: StaticCall(step, self._pool)},
            ).logits[0]
        rows, vocabulary = logits_RV.shape
        if rows not in self._logits:
            self._logits[rows] = torch.empty(rows, vocabulary, device=logits_RV.device)
        self._logits[rows].copy_(logits_RV)

    def _to_be_recorded(self, step: _Step) -> None:
        """Compute a step by hand, so that all that is made at first use is there; again, to see that nothing waits for
        the device; and record it. Each time the same is written to the pages."""
        warnings.filterwarnings("ignore", message=".*[Ss]ynchronization debug mode is a prototype")
        try:
            before = torch.cuda.get_sync_debug_mode()
            with torch.cuda.device(self._device):
                side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
                side.wait_stream(torch.cuda.current_stream())
                try:
                    with torch.cuda.stream(side):
                        self._forward(step)
                        torch.cuda.set_sync_debug_mode("error")
                        self._forward(step)
                finally:
                    torch.cuda.set_sync_debug_mode(before)
                    torch.cuda.current_stream().wait_stream(side)
                graph = torch.cuda.CUDAGraph()
                # other threads may use the device meanwhile
                with torch.cuda.graph(graph, pool=self._memory, capture_error_mode="thread_local"):
                    self._forward(step)
                step.graph = graph
        except Exception as error:  # torch's, CUDA's and Triton's have nothing in common; the ordinary way may yet go
            self.why = f"{type(error).__name__}: {error}".partition("\n")[0]


class _Step:
    """The inputs of a shape, in one buffer, and its recording."""

    def __init__(self, shape: tuple[int, int], device: torch.device) -> None:
        rows, pages = shape
        self.inputs = torch.zeros(rows * (2 + pages), dtype=torch.long, device=device)
        self.id_R, self.position_R = self.inputs[:rows], self.inputs[rows : 2 * rows]
        self.table_RP = self.inputs[2 * rows :].view(shape)
        self.unused = torch.zeros(1, 1, 1, 1, device=device)
        self.graph: Any = None

    def fill(self, runs: Sequence[Run], spare: int) -> None:
        """Set the inputs to these rows."""
        rows, pages = self.table_RP.shape
        id_position_2R = np.zeros((2, rows), np.int64)
        table_RP = np.full((rows, pages), spare, np.int64)
        for row, run in enumerate(runs):
            id_position_2R[:, row] = run.ids[0], run.start
            count = run.start // PAGE + 1
            table_RP[row, :count] = run.pages[:count]
        self.inputs.copy_(torch.from_numpy(np.concatenate([id_position_2R.ravel(), table_RP.ravel()])))


class StaticCall:
    """What travels to the layers in the packed layout's place."""

    def __init__(self, step: _Step, pool: Pool) -> None:
        self._step, self._pool = step, pool
        page_R = step.table_RP.gather(1, (step.position_R // PAGE)[:, None])[:, 0]
        self._slot_R = page_R * PAGE + step.position_R % PAGE

    def attend(
        self, module: Any, qkv: tuple[Tensor, Tensor, Tensor], scale: float | None, window: int | None
    ) -> Tensor:
        """Write the step's keys and values to their pages, and attend: (1, H, R, D) each in, (1, R, H, D) out."""
        query_RHD, key_RGD, value_RGD = (x[0].transpose(0, 1) for x in qkv)
        keys, values = pool = self._pool.of(module.layer_idx, key_RGD, value_RGD)
        keys[self._slot_R], values[self._slot_R] = key_RGD, value_RGD
        scale = scale if scale is not None else query_RHD.shape[-1] ** -0.5
        return paged_attention(query_RHD, pool, self._step.table_RP, self._step.position_R, scale, window or 0)[None]


def _shape(runs: Sequence[Run]) -> tuple[int, int]:
    """The rows and pages of the step that reads them."""
    pages = max(run.start // PAGE + 1 for run in runs)
    return _filled_up(len(runs)), max(LEAST_PAGES, _filled_up(pages))


def _apart(a_WV: Tensor, b_WV: Tensor) -> float:
    """The largest difference, in shares of the largest number; what is no number is nothing."""
    a_WV, b_WV = (x.nan_to_num(posinf=0.0, neginf=0.0) for x in (a_WV, b_WV))
    return float((a_WV - b_WV).abs().max() / b_WV.abs().max().clamp(min=1e-30))


def _filled_up(count: int) -> int:
    """The next power of two."""
    return 1 << (count - 1).bit_length()
