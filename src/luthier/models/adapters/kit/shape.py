"""The sizes of a model, from which follows how many numbers a method trains there: no model is needed for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, chosen


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind: no biases, two norms to a block and one at the end."""

    name: str
    blocks: int
    width: int
    inner: int
    """Width of the feed-forward layers."""
    keys: int
    """Width of keys and of values: heads of theirs times a head's width."""
    vocabulary: int
    tied: bool = True
    """Embeddings and output head are one matrix."""

    def linear(self, targets: Targets = ALL_LINEAR) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers that `targets` means, by name. Raises LuthierError for none."""
        attention = {"q": self.width, "k": self.keys, "v": self.keys, "o": self.width}
        block = {f"self_attn.{name}_proj": (self.width, outputs) for name, outputs in attention.items()}
        block |= {f"mlp.{name}_proj": (self.width, self.inner) for name in ("gate", "up")}
        block["mlp.down_proj"] = (self.inner, self.width)
        layers = {f"model.layers.{n}.{name}": sizes for n in range(self.blocks) for name, sizes in block.items()}
        if targets != ALL_LINEAR:
            layers["lm_head"] = (self.width, self.vocabulary)
        return {name: layers[name] for name in chosen(layers, targets, "shape")}

    def over(self, targets: Targets, each: Callable[[int, int], int]) -> int:
        """The sum over these layers of what `each` makes of inputs and outputs."""
        return sum(each(inputs, outputs) for inputs, outputs in self.linear(targets).values())

    @property
    def table(self) -> int:
        """Numbers of the embeddings."""
        return self.vocabulary * self.width

    @property
    def norms(self) -> int:
        """Numbers of all norms."""
        return (2 * self.blocks + 1) * self.width

    @property
    def block(self) -> int:
        """Numbers of one block."""
        return self.over(ALL_LINEAR, lambda i, o: i * o) // self.blocks + 2 * self.width

    @property
    def total(self) -> int:
        """Numbers of the model."""
        tables = 1 if self.tied else 2
        return self.blocks * self.block + self.width + tables * self.table


DEFAULT = Shape("smollm2-135m-instruct", blocks=30, width=576, inner=1536, keys=192, vocabulary=49152)
"""The default model's, as its config.json has it."""
