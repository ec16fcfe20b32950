"""An engine that draws from a geometric mixture of two models: the one in memory with its adapter, and without.

Each token comes of (1 - share) z + share z', where z are the logits with the adapter and z' those without: in
probabilities p^(1 - share) p'^share, made to sum to 1 again. Both models read every token, each into pages of its own,
which bear the same numbers.

Shape suffixes: W = tokens whose logits are wanted, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Unpack

from torch import Tensor

from luthier.engines.local.engine import LocalEngine
from luthier.engines.local.lane import reader, renewed
from luthier.engines.local.ticket import Settings
from luthier.errors import LuthierError
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.copies import Kind
from luthier.models.decode.step import Reader, Run

Off = Callable[[], AbstractContextManager[None]]
"""Inside the block that it gives, the module's adapter is off."""


class MixedEngine(LocalEngine):
    """A `LocalEngine` whose answers are the mixture's. It answers by no adapter of another name."""

    def __init__(
        self,
        module: Any,
        tokenizer: Any,
        stop_ids: Collection[int],
        off: Off,
        share: float,
        **settings: Unpack[Settings],
    ) -> None:
        """`share`: of the model without its adapter, between 0 and 1."""
        super().__init__(module, tokenizer, stop_ids, **settings)
        self._off, self._share = off, share

    def load_adapter(self, name: str, folder: str) -> None:
        """Raises LuthierError: a mixture is of the two models that it was made of."""
        raise LuthierError("a mixture of two models takes no third", where=folder, fix="take engine: local")

    def _read_by(self, module: Any) -> Reader:
        return MixedReader(module, self._kind, self._off, self._share)

    def _reads_on(self, reader: Reader, module: Any) -> bool:
        assert isinstance(reader, MixedReader)
        return reader.renewed(module)


class MixedReader:
    """Reads with a module as it stands and with its adapter off, and gives the logits' weighted mean."""

    def __init__(self, module: Any, kind: Kind, off: Off, share: float) -> None:
        """Raises LuthierError where the adapter makes sequences longer."""
        self._share, self._off = share, off
        self._own = reader(module, kind)
        with off():
            self._base = reader(module, kind)
        self._rested = False
        if self._own.first != self._base.first:
            raise LuthierError(
                "the adapter puts virtual tokens before each prompt, and a mixture with the model without them would "
                "be of sequences of unequal lengths",
                where="adapt",
                fix="take `adapt: lora`",
            )
        self.first, self.shares = self._own.first, self._own.shares and self._base.shares
        self.whole_prompts = self._own.whole_prompts or self._base.whole_prompts
        self.page_bytes = self._own.page_bytes + self._base.page_bytes

    def grow(self, pages: int) -> None:
        """As `Reader.grow`."""
        self._own.grow(pages)
        self._base.grow(pages)

    def copy(self, source: int, target: int) -> None:
        """As `Reader.copy`."""
        self._own.copy(source, target)
        self._base.copy(source, target)

    def release(self, pages: Sequence[int]) -> None:
        """As `Reader.release`."""
        self._own.release(pages)
        self._base.release(pages)

    def rest(self) -> None:
        """As `Reader.rest`."""
        self._own.rest()
        self._base.rest()
        self._rested = True

    def refresh(self) -> None:
        """As `Reader.refresh`."""
        self._own.refresh()
        with self._off():
            self._base.refresh()

    def renewed(self, module: Any) -> bool:
        """Can it go on with the module as it is by now?"""
        if not renewed(self._own, module):
            return False
        with self._off():
            return renewed(self._base, module)

    def read(self, runs: Sequence[Run]) -> Tensor:
        """As `Reader.read`. A model that has no share in the mixture is not read."""
        if self._share == 0:
            return self._own.read(runs)
        base_WV = self._base_logits(runs)
        return base_WV if self._share == 1 else self._own.read(runs).lerp_(base_WV, self._share)

    def _base_logits(self, runs: Sequence[Run]) -> Tensor:
        """A compiled step has found the weights without the adapter; any other calls the module, and switches it."""
        by_hand = isinstance(self._base, CompiledReader)
        if by_hand and self._rested:
            with self._off():
                self._base.refresh()
        self._rested = False
        with nullcontext() if by_hand else self._off():
            return self._base.read(runs)
