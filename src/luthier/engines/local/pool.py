"""Where keys and values of all layers lie, page after page, for models that are read through their own layers.

Shape suffixes: S = places of tokens in the pool, T = tokens, G = key heads, D = head dimension.
"""

from __future__ import annotations

from torch import Tensor

from luthier.models.decode.step import PAGE

LEAST = 64
"""Pages that there is room for from the first step on: a pool that grows moves, and what was recorded is lost."""


class Pool:
    """A tensor of keys and one of values for each layer that was read. All are of one length, with a page at the end
    that nobody is given: rows that only fill a step up write there."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._room = 0
        self.moves = 0
        """How often it was put elsewhere."""

    @property
    def spare(self) -> int:
        """The page that is nobody's."""
        return self._room

    def grow(self, pages: int) -> None:
        """Make room for so many pages, and for as many again as there are, so that it is not copied often."""
        if pages <= self._room:
            return
        self._room = max(LEAST, pages, 2 * self._room)
        self._layers = {layer: (self._wider(k), self._wider(v)) for layer, (k, v) in self._layers.items()}
        self.moves += 1

    def rest(self) -> None:
        """Give the memory back."""
        self._layers, self._room = {}, 0
        self.moves += 1

    def copy(self, source: int, target: int) -> None:
        """Copy a page."""
        for pools in self._layers.values():
            for pool in pools:
                pool[target * PAGE : (target + 1) * PAGE] = pool[source * PAGE : (source + 1) * PAGE]

    def of(self, layer: int, key_TGD: Tensor, value_TGD: Tensor) -> tuple[Tensor, Tensor]:
        """The places of a layer's keys and values, made like these where it was not read before: S, G, D."""
        if layer not in self._layers:
            self._layers[layer] = self._wider(key_TGD[:0]), self._wider(value_TGD[:0])
        return self._layers[layer]

    def _wider(self, pool: Tensor) -> Tensor:
        wider = pool.new_zeros((self._room + 1) * PAGE, *pool.shape[1:])
        wider[: len(pool)] = pool
        return wider
