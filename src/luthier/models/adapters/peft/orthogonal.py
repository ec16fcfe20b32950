"""Adapters that rotate: W' = W R with R orthogonal, so that the angles between neurons and their lengths stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.tuner import Layered
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape


@dataclass(frozen=True)
class Oft(Layered):
    """Rotate the input of each linear layer, block by block; the rotation is exactly orthogonal."""

    block: Annotated[Int, Field(gt=1), Why("PEFT's; a larger block learns more and costs its square")] = 32
    """Size of the blocks; where it does not divide a layer's width PEFT takes the nearest size that does."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the blocks that are left out at each step."""
    neumann: Annotated[
        Int, Field(ge=0, le=100), Why("0 is exact; a truncated series is faster and no rotation any more")
    ] = 0
    """Terms of the Neumann series in place of the exact inverse. 0: the exact one; 1 would turn nothing."""
    bound: Annotated[Float, Field(gt=0)] | None = None
    """Constrained OFT: how far the rotation may go from the identity."""

    default_lr: ClassVar[float] = 1e-3
    card: ClassVar[Card] = Card(
        title="OFT: orthogonal fine-tuning",
        paper="arXiv:2306.07280",
        authors="Qiu, Liu, Feng, Xue, Feng, Liu, Zhang, Weller, Schölkopf",
        venue="NeurIPS 2023",
        problem="Adding to weights changes the angles between neurons, in which much of what the base knows lies.",
        idea="Multiply all neurons of a layer by one rotation: their lengths and the angles between them stay.",
        formula="W' = W R,  R = diag(R₁ … R_k),  R_i = (I − Q_i)(I + Q_i)⁻¹,  Q_i = −Q_iᵀ",
        trains="b(b−1)/2 for each block of b inputs of every linear layer",
        choose="when the base's abilities must be kept",
        avoid="when time is short: somewhat slower than LoRA",
        limits="in bf16 the merged matrix keeps the angles to rounding only",
        related=("boft", "lora", "dora"),
    )

    def __post_init__(self) -> None:
        """Raises LuthierError for one term, which is the identity: no gradient would reach the weights."""
        if self.neumann == 1:
            raise LuthierError(
                "oft: one Neumann term is the identity, and nothing would train",
                where="adapt.oft.neumann",
                fix="take 0 for the exact rotation, or 5 terms",
            )

    def count(self, shape: Shape) -> int | None:
        """b (b − 1) / 2 for each block of inputs; where b does not divide them PEFT takes another size."""
        if any(inputs % self.block for inputs, _ in shape.linear(self.targets).values()):
            return None
        return shape.over(self.targets, lambda i, _o: i // self.block * (self.block * (self.block - 1) // 2))

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import OFTConfig

        bounded: dict[str, Any] = {} if self.bound is None else {"coft": True, "eps": self.bound}
        return OFTConfig(
            r=0,
            oft_block_size=self.block,
            module_dropout=self.dropout,
            use_cayley_neumann=self.neumann > 0,
            num_cayley_neumann_terms=self.neumann or 5,
            **bounded,
            **self.oriented(module),
        )

    def prepare_layers(self, module: Any) -> None:
        """One inverse for each change of the weights, and the fused blocks."""
        from luthier.models.blocks.rotations import take_over

        take_over(module, self.dropout)


@dataclass(frozen=True)
class Boft(Layered):
    """Rotate as OFT does, by a product of sparse rotations that together mix all inputs, and scale each output."""

    block: Annotated[Int, Field(gt=1), Why("a small block: the factors mix what it leaves apart")] = 4
    """Size of the blocks; it must divide every layer's width."""
    factors: Annotated[Int, Field(gt=0), Why("more need PEFT's CUDA extension")] = 1
    """Butterfly factors."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Share of the blocks that are left out at each step."""

    default_lr: ClassVar[float] = 1e-3
    card: ClassVar[Card] = Card(
        title="BOFT: orthogonal fine-tuning via butterfly factorization",
        paper="arXiv:2311.06243",
        authors="Liu, Qiu, Feng, Xiu, Xue, Yu, Feng, Liu, Heo, Peng, Wen, Black, Weller, Schölkopf",
        venue="ICLR 2024",
        problem="OFT's blocks leave inputs of different blocks apart; larger blocks cost their square.",
        idea="A product of sparse rotations, laid out as the fast Fourier transform's steps, mixes all inputs.",
        formula="W' = diag(s) W R_m ⋯ R_1,  each R_j a permuted block-diagonal rotation, s = 1 at the start",
        trains="b² for each block and factor, and one scale for each output",
        choose="as OFT, with smaller blocks",
        avoid="as OFT; slower than it, for its scales take no fused blocks",
        limits="without PEFT's CUDA extension only one factor, which Luthier refuses to drop in silence; the scales s "
        "change lengths, the angles stay",
        related=("oft", "lora"),
    )

    def count(self, shape: Shape) -> int | None:
        """b² for each block and factor, and one for each output."""
        return shape.over(self.targets, lambda i, o: self.factors * i * self.block + o)

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model. Raises LuthierError where PEFT (0.21.2,
        `tuners/boft/layer.py`) would drop factors."""
        from peft import BOFTConfig

        widths = {name: layer.weight.shape[-1] for name, layer in self.layers(module).items()}
        odd = next((name for name, width in widths.items() if width % self.block), None)
        if odd:
            raise LuthierError(
                f"boft: blocks of {self.block} do not divide the {widths[odd]} inputs of {odd}",
                where="adapt.boft.block",
                fix="give a size that divides every layer's width",
            )
        if self.factors > 1 and not _extension():
            raise LuthierError(
                f"boft: {self.factors} butterfly factors need PEFT's CUDA extension, which cannot be built here; "
                "PEFT alone would train a single one without a word",
                where="adapt.boft.factors",
                fix="leave factors at 1 with a larger block, or take oft",
            )
        return BOFTConfig(
            boft_block_size=self.block,
            boft_n_butterfly_factor=self.factors,
            boft_dropout=self.dropout,
            **self.oriented(module),
        )

    def prepare_layers(self, module: Any) -> None:
        """Blocks in place of PEFT's matrices of inputs x inputs."""
        from luthier.models.blocks.rotations import take_over

        take_over(module)


def _extension() -> bool:
    import warnings

    from peft.tuners.boft.layer import get_fbd_cuda

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        built: Any = get_fbd_cuda
        return built() is not None
