"""LoRA that does not begin with noise and zero, but with a part of the base (PiSSA, OLoRA, CorDA), of the layers'
inputs (EVA) or of what quantising took away (LoftQ)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.errors import LuthierError
from luthier.models.adapters.kit import sampled
from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.kit.sampled import Measuring, Rows
from luthier.models.adapters.kit.targets import sides, transposed
from luthier.models.adapters.peft.lora import LowRank, Rewriting
from luthier.models.adapters.peft.tuner import wrapped
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape
    from luthier.types import Encoded


@dataclass(frozen=True)
class Pissa(Rewriting):
    """LoRA that begins with the largest singular vectors of each weight matrix, which are taken out of the base."""

    niter: Annotated[Int, Field(ge=0), Why("close to the exact vectors, in a fraction of the time")] = 16
    """Power iterations of the fast SVD. 0: the exact one."""

    card: ClassVar[Card] = Card(
        title="PiSSA: principal singular values and singular vectors adaptation",
        paper="arXiv:2404.02948",
        authors="Meng, Wang, Zhang",
        venue="NeurIPS 2024",
        problem="LoRA begins with noise and zero, so it learns slowly at first.",
        idea="Train the directions in which the matrix is strongest; freeze the rest.",
        formula="W = U S Vᵀ;  A = √S_r V_rᵀ/√s, B = U_r √S_r/√s, base W − s B A  (s = α/r)",
        trains="as LoRA",
        choose="when few steps must do",
        avoid="with `quantize:`, and where the base with the adapter off is needed in memory (a second copy is loaded)",
        limits="begins as the base to rounding only; saved as plain LoRA of rank 2r on the untouched base, which in "
        "bf16 differs from the trained model by the rounding of the rest",
        related=("lora", "olora", "corda", "lora_ga"),
    )

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's name of the initialisation."""
        return {"init_lora_weights": f"pissa_niter_{self.niter}" if self.niter else "pissa"}


@dataclass(frozen=True)
class Olora(Rewriting):
    """LoRA that begins with the first columns of each weight matrix's QR decomposition."""

    card: ClassVar[Card] = Card(
        title="OLoRA: orthonormal low-rank adaptation",
        paper="arXiv:2406.01775",
        authors="Büyükakyüz",
        venue="arXiv 2024",
        problem="LoRA's random first weights make slow and unstable first steps.",
        idea="Take B with orthonormal columns from the QR decomposition of the weights, A from the same.",
        formula="W = Q R;  B = Q_r, A = R_r, base W − s B A",
        trains="as LoRA",
        choose="as PiSSA, at lower cost before training: QR instead of SVD",
        avoid="as PiSSA",
        limits="as PiSSA",
        related=("pissa", "lora"),
    )

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's name of the initialisation. Raises LuthierError for layers that PEFT (0.21.2, `olora_init`) would
        decompose the wrong way."""
        if transposed(self.layers(module)):
            raise LuthierError(
                f"PEFT cannot decompose the transposed weights of a {type(module).__name__} by QR",
                where="adapt.olora",
                fix="take pissa",
            )
        return {"init_lora_weights": "olora"}


@dataclass(frozen=True)
class Eva(Measuring, LowRank):
    """LoRA whose A begins with the main directions of each layer's inputs on your data; ranks go where they explain."""

    rows: Annotated[Rows, Why("the directions have settled by then")] = 64
    rho: Annotated[Float, Field(ge=1), Why("the paper's: ranks move between layers")] = 2.0
    """A layer's rank is at most so many times r. 1: every layer has r."""
    tau: Annotated[Float, Field(gt=0, le=1), Why("PEFT's default")] = 0.99
    """A direction has settled when its cosine with the one before is above this."""

    on_head: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        title="EVA: explained variance adaptation",
        paper="arXiv:2410.07170",
        authors="Paischer, Hauzenberger, Schmied, Alkin, Deisenroth, Hochreiter",
        venue="NeurIPS 2025",
        problem="Random first weights ignore the data, and one rank for all layers ignores their differences.",
        idea="SVD of each layer's inputs on some rows gives A; the rank budget goes where it explains most variance.",
        formula="A = V_rᵀ of the inputs' SVD, B = 0; ranks by explained variance, their sum fixed",
        trains="as LoRA, ranks from 0 to ρ r",
        choose="when the data are of one kind and differ from what the base has seen",
        avoid="on a handful of short rows: the directions are not those of the data",
        limits="one pass over the rows before training",
        related=("lora", "adalora", "gelora", "corda"),
    )

    def count(self, shape: Shape) -> int | None:
        """The data decide: layers differ in size, and ranks move between them."""
        return None

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's name of the initialisation and its keys."""
        from peft import EvaConfig

        return {
            "init_lora_weights": "eva",
            "eva_config": EvaConfig(rho=self.rho, tau=self.tau, adjust_scaling_factors=True),
        }

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Wrap the model, then measure the inputs of its layers."""
        from peft.tuners.lora.eva import initialize_lora_eva_weights

        rows = sampled.batches(sample, module.device, "eva")
        self._enough(max(int(batch["attention_mask"].sum()) for batch in rows))
        peft = super().attach(module, sample)
        try:
            initialize_lora_eva_weights(peft, rows, show_progress_bar=False)
            peft.base_model._cast_adapter_dtype(adapter_name="default")  # A came out in the inputs' type
        except ValueError as error:
            raise LuthierError(
                f"eva: {error}", where="adapt.eva", fix="give more rows (adapt.eva.rows) or a smaller r"
            ) from error
        return peft

    def _spanned(self, layers: Mapping[str, Any], ranks: Mapping[str, int]) -> None:
        """Raises LuthierError where a layer has fewer inputs than directions are looked for."""
        for name, layer in layers.items():
            most, (inputs, _) = round(self.rho * ranks[name]), sides(layer)
            if most > inputs:
                raise LuthierError(
                    f"eva looks for rho x r = {most} directions in the inputs of {name}, which has {inputs} inputs",
                    where="adapt.eva.r",
                    fix="take a smaller r or rho",
                )

    def _enough(self, tokens: int) -> None:
        """Raises LuthierError where no batch has as many tokens as directions are looked for: PEFT (0.21.2,
        `get_eva_state_dict`) passes over it, and goes round for ever."""
        most = round(self.rho * max([self.r, *self.ranks.values()]))
        if tokens < most:
            raise LuthierError(
                f"eva looks for rho x r = {most} directions in {sampled.ROWS} rows at a time, and there are at most "
                f"{tokens} tokens in them",
                where="adapt.eva",
                fix="give longer or more rows, or a smaller r or rho",
            )


@dataclass(frozen=True)
class Corda(Measuring, Rewriting):
    """LoRA that begins with the part of each weight matrix that matters most, or least, for the inputs of your data."""

    rows: Annotated[Rows, Why("256 rows of 2,048 tokens is what the authors take")] = 256
    mode: Annotated[Literal["knowledge", "instruction"], Why("your rows say what must be learnt")] = "instruction"
    """instruction: train what matters for these rows. knowledge: keep it, train what matters least."""

    card: ClassVar[Card] = Card(
        title="CorDA: context-oriented decomposition adaptation",
        paper="arXiv:2406.05223",
        authors="Yang, Li, Zhou, Song, Wu, Nie, Ghanem",
        venue="NeurIPS 2024",
        problem="Decompositions of the weights alone know nothing of the task.",
        idea="Decompose W C, with C the covariance of the layer's inputs on some rows, and train its ends.",
        formula="SVD(W C) = U S Vᵀ;  W = U S (Vᵀ C⁻¹): the first r (instruction) or last r (knowledge) become B A",
        trains="as LoRA",
        choose="instruction: few rows of one kind; knowledge: when what the rows show must not be forgotten",
        avoid="with fewer tokens than a layer has inputs: the covariance has no inverse worth the name",
        limits="holds a covariance for each layer before training; as PiSSA otherwise",
        related=("pissa", "eva", "lora_ga"),
    )

    def options(self, module: Any) -> dict[str, Any]:
        """PEFT's name of the initialisation and its keys."""
        from peft.tuners.lora.config import CordaConfig

        method: Literal["ipm", "kpm"] = "ipm" if self.mode == "instruction" else "kpm"
        return {"init_lora_weights": "corda", "corda_config": CordaConfig(corda_method=method)}

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Measure the covariances, then wrap the model."""
        import torch
        from peft.tuners.lora.corda import preprocess_corda

        rows = sampled.batches(sample, module.device, "corda", together=1)  # padding would count as inputs
        config = self.config(module)

        def run() -> None:
            with torch.no_grad():
                for batch in rows:
                    module(**batch)

        try:
            preprocess_corda(module, config, run)
        except (ValueError, RuntimeError) as error:  # it divides by the largest input, and inverts their covariance
            raise LuthierError(
                f"corda cannot measure these rows: {str(error).strip().splitlines()[0]}",
                where="adapt.corda",
                fix="give more and other rows (adapt.corda.rows), or take pissa, which looks at none",
            ) from error
        return wrapped(module, config, "corda")


@dataclass(frozen=True)
class Loftq(LowRank):
    """LoRA on a base in 4 bits that begins with what rounding took away: needs `quantize: nf4`."""

    exact_start: ClassVar[bool] = False
    scale: ClassVar[float] = 1.0
    directions: ClassVar[int] = 1
    card: ClassVar[Card] = Card(
        title="LoftQ: LoRA-fine-tuning-aware quantization",
        paper="arXiv:2310.08659",
        authors="Li, Yu, Liang, Karampatziakis, He, Chen, Zhao",
        venue="ICLR 2024",
        problem="A base in 4 bits begins away from the model it was, and zero-initialised LoRA leaves it there.",
        idea="Let A and B begin as the best rank-r part of the rounding error.",
        formula="B A = the first r singular triples of (W − Q(W)) / s",
        trains="as LoRA",
        choose="with `quantize: nf4`, above all where 4 bits hurt",
        avoid="without `quantize:`: there is nothing to make up for",
        limits="one round of the paper's alternation (the base stays as `quantize:` made it); switched off, the model "
        "is the rounded base",
        related=("lora", "ir_qlora"),
    )

    def attach(self, module: Any, sample: Sequence[Encoded] = ()) -> Any:
        """Wrap the model, then decompose what rounding took away. Raises LuthierError for a base that is whole."""
        from luthier.models.adapters.peft.rounding import begin_with_error
        from luthier.models.quantizers import is_quantised

        if not any(is_quantised(layer.weight) for layer in self.layers(module).values()):
            raise LuthierError("loftq makes up for rounding, and this base is whole", fix="set quantize: nf4")
        peft = super().attach(module, sample)
        begin_with_error(peft, module.name_or_path)
        return peft
