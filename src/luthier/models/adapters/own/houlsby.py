"""Bottleneck adapters: a small network after each attention and feed-forward module (Houlsby), or beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.own.beside import Beside, free_blocks
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.models.adapters.kit.shape import Shape

MODULES = {
    "attention": ("self_attn", "attn", "self_attention", "attention"),
    "feed_forward": ("mlp", "feed_forward", "ffn", "block_sparse_moe"),
}
"""What models call the two modules of a block."""


@dataclass(frozen=True)
class Houlsby(Beside):
    """Add a bottleneck network to each block's attention and feed-forward module, before the residual is added."""

    size: Annotated[Int, Field(gt=0), Why("the paper's middle choice of 8, 64 and 256")] = 64
    """Width of the bottleneck."""
    parallel: Annotated[bool, Why("the paper's form; parallel did better where the two were compared")] = False
    """Read what the module reads, not what it puts out (arXiv:2110.04366)."""
    scale: Annotated[Float, Field(gt=0), Why("1, and for parallel ones 4, as in the MAM adapter")] | None = None
    """Factor on what the network adds."""
    at: Annotated[Literal["both", "attention", "feed_forward"], Why("as in the paper")] = "both"
    """The modules it goes on; parallel ones do best at feed_forward."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """The network's nonlinearity."""
    start: Annotated[Literal["identity", "near"], Why("the run begins at the base's own loss")] = "identity"
    """identity: W_up = 0. near: both matrices from a normal distribution of deviation 0.01, cut off at 0.02."""

    default_lr: ClassVar[float] = 3e-4
    card: ClassVar[Card] = Card(
        title="Bottleneck adapters (Houlsby; parallel variant)",
        paper="arXiv:1902.00751",
        authors="Houlsby, Giurgiu, Jastrzebski, Morrone, de Laroussilhe, Gesmundo, Attariyan, Gelly",
        venue="ICML 2019",
        problem="One full copy of a large model for each task.",
        idea="Put a small network with a narrow middle and a skip connection behind each module of a block and train "
        "only these; beside it instead of behind it (He et al., arXiv:2110.04366) they see what the module sees.",
        formula="h ← h + s (W_up φ(W_down u + b) + b'),  u = h (behind), u = x, the module's input (parallel)",
        trains="2 (2 d m + d + m) numbers per block of width d, bottleneck m",
        choose="Tasks that need more than a low-rank change of the weights: the network is not linear.",
        avoid="When the model must be merged or served elsewhere, or latency counts: the network stays in the path.",
        limits="Cannot be merged. The paper trains the norms, too: add {train: norms}.",
        related=("lora", "loreft", "ia3"),
    )

    @property
    def exact_start(self) -> bool:  # type: ignore[override]
        """As `start` says."""
        return self.start == "identity"

    def count(self, shape: Shape) -> int | None:
        """2 d m + d + m for each network."""
        networks = shape.blocks * (2 if self.at == "both" else 1)
        return networks * (2 * shape.width * self.size + shape.width + self.size)

    def add(self, module: Any) -> None:
        """A network for each module. Raises LuthierError where a block has no such module."""
        from luthier.models.adapters.own.bottleneck import Bottleneck

        width = module.config.get_text_config().hidden_size
        for name, block in free_blocks(module, "houlsby").items():
            for kind in MODULES if self.at == "both" else (self.at,):
                inner = next((each for each in MODULES[kind] if each in block._modules), None)
                if inner is None:
                    raise LuthierError(
                        f"houlsby: the blocks of a {type(module).__name__} have no {kind} module by a known name",
                        where="adapt.houlsby",
                        fix="take `adapt: lora`",
                    )
                part = Bottleneck(width, self.size, self.activation, self.start)
                self.beside(block._modules[inner], f"{name}.{inner}", part, "houlsby")

    def change(self, part: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        """h + s f(h), or h + s f(x)."""
        scale = self.scale or (4.0 if self.parallel else 1.0)
        read = (args[0] if args else kwargs["hidden_states"]) if self.parallel else output
        return output + scale * part(read)
