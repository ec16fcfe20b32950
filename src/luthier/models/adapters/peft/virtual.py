"""Virtual tokens before each row: their embeddings train (prompt tuning, P-tuning), or their keys and values in every
layer (prefix tuning, P-tuning v2). The base's weights stay as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from luthier.models.adapters.kit.card import Card
from luthier.models.adapters.peft.tuner import Tuner
from luthier.recipe.schema import Float, Int, Why

if TYPE_CHECKING:
    from luthier.models.adapters.kit.shape import Shape

Count = Annotated[Int, Field(gt=0)]


@dataclass(frozen=True)
class Virtual(Tuner):
    """What all of them have in common."""

    tokens: Annotated[Count, Why("a few dozen at most repay their place in the context")] = 20
    """Virtual tokens."""

    exact_start: ClassVar[bool] = False
    starts_elsewhere: ClassVar[bool] = True
    mergeable: ClassVar[bool] = False
    quantisable: ClassVar[bool | tuple[str, ...]] = True
    packs: ClassVar[bool] = False
    shares_prefix: ClassVar[bool] = False

    @property
    def virtual_tokens(self) -> int:
        """As `tokens`."""
        return self.tokens


@dataclass(frozen=True)
class Prompt(Virtual):
    """Train the embeddings of a few virtual tokens before each row."""

    text: str | None = None
    """Begin as the embeddings of this text (repeated or cut to `tokens`). Default: as those of random tokens."""

    default_lr: ClassVar[float] = 3e-2
    card: ClassVar[Card] = Card(
        title="Prompt tuning",
        paper="arXiv:2104.08691",
        authors="Lester, Al-Rfou, Constant",
        venue="EMNLP 2021",
        problem="Prompts written by hand are found by trial and error.",
        idea="Learn the prompt, not as words but as embeddings.",
        formula="the model reads [e₁ … e_p; E(x)], only e trains",
        trains="p embeddings",
        choose="a large base, one task, the smallest file there is",
        avoid="bases of less than some billions of weights: it falls behind every other method there",
        limits="not the base at the start; takes p tokens of the context; wants high learning rates and many steps; "
        "cannot be merged",
        related=("p_tuning", "prefix", "p_tuning_v2"),
    )

    def count(self, shape: Shape) -> int | None:
        """One embedding for each virtual token."""
        return self.tokens * shape.width

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import PromptTuningConfig, PromptTuningInit

        words = {
            "prompt_tuning_init": PromptTuningInit.TEXT,
            "prompt_tuning_init_text": self.text,
            "tokenizer_name_or_path": module.name_or_path,
        }
        drawn = {"prompt_tuning_init": PromptTuningInit.SAMPLE_VOCAB}
        keys: dict[str, Any] = words if self.text is not None else drawn
        return PromptTuningConfig(num_virtual_tokens=self.tokens, task_type="CAUSAL_LM", **keys)


@dataclass(frozen=True)
class PTuning(Virtual):
    """Train a small network that makes the embeddings of a few virtual tokens."""

    encoder: Annotated[Literal["mlp", "lstm"], Why("trains as well and is simpler than the paper's LSTM")] = "mlp"
    """The network; it is dropped after training, the embeddings stay."""
    hidden: Annotated[Count, Why("narrow beside the model: all that counts comes out of it")] = 128
    """Its width."""
    dropout: Annotated[Float, Field(ge=0, lt=1)] = 0.0
    """Dropout in the LSTM."""

    default_lr: ClassVar[float] = 3e-3
    card: ClassVar[Card] = Card(
        title="P-tuning",
        paper="arXiv:2103.10385",
        authors="Liu, Zheng, Du, Ding, Qian, Yang, Tang",
        venue="arXiv 2021; later in the journal AI Open",
        problem="Free prompt embeddings train unstably: neighbours know nothing of each other.",
        idea="Let a small network make the embeddings; what trains is shared between them.",
        formula="[e₁ … e_p] = MLP(h₁ … h_p), read before E(x)",
        trains="the network and its inputs",
        choose="where prompt tuning is wanted and does not settle",
        avoid="as prompt tuning",
        limits="as prompt tuning",
        related=("prompt", "p_tuning_v2", "prefix"),
    )

    def count(self, shape: Shape) -> int | None:
        """Three layers, and what they read; not known for an LSTM."""
        if self.encoder == "lstm":
            return None
        inside = self.hidden * (self.hidden + 1)
        return self.tokens * shape.width + 2 * shape.width * self.hidden + self.hidden + inside + shape.width

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            num_virtual_tokens=self.tokens,
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.hidden,
            encoder_dropout=self.dropout,
            task_type="CAUSAL_LM",
        )


@dataclass(frozen=True)
class Prefix(Virtual):
    """Train a network that makes the keys and values of a few virtual tokens in every layer."""

    hidden: Annotated[Count, Why("the paper's 512 and 800 for larger models")] = 512
    """Width of the network; it is dropped after training, the keys and values stay."""

    default_lr: ClassVar[float] = 1e-3
    checkpoints: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        title="Prefix-tuning",
        paper="arXiv:2101.00190",
        authors="Li, Liang",
        venue="ACL 2021",
        problem="A prompt of embeddings steers only the first layer directly.",
        idea="Give every layer keys and values of its own to look back at; make them by a network while training.",
        formula="[K; V]_l = MLP(P)_l for p virtual tokens, seen by every later token in layer l",
        trains="the network; 2 p · layers · key width numbers are left of it",
        choose="generation tasks on a base that is shared by many prefixes",
        avoid="when LoRA can be used: it trains faster and merges",
        limits="not the base at the start: the virtual tokens take attention; no gradient checkpointing (transformers "
        "drops the cache that holds them); cannot be merged",
        related=("p_tuning_v2", "prompt", "lora"),
    )

    def count(self, shape: Shape) -> int | None:
        """Two layers, and what they read."""
        made = 2 * shape.blocks * shape.keys
        return self.tokens * shape.keys + (shape.keys + 1) * self.hidden + (self.hidden + 1) * made

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            num_virtual_tokens=self.tokens, prefix_projection=True, encoder_hidden_size=self.hidden,
            task_type="CAUSAL_LM",
        )  # fmt: skip


@dataclass(frozen=True)
class PTuningV2(Virtual):
    """Train the keys and values of a few virtual tokens in every layer themselves."""

    default_lr: ClassVar[float] = 5e-3
    checkpoints: ClassVar[bool] = False
    card: ClassVar[Card] = Card(
        title="P-tuning v2",
        paper="arXiv:2110.07602",
        authors="Liu, Ji, Fu, Tam, Du, Yang, Tang",
        venue="ACL 2022",
        problem="Prompt tuning works on very large models only, and not on hard tasks.",
        idea="Prompts in every layer, without the network that prefix-tuning trains them by.",
        formula="K_l ← [K_p; K_l],  V_l ← [V_p; V_l] for p virtual tokens",
        trains="2 p · layers · key width numbers",
        choose="as prefix-tuning, with fewer weights to train",
        avoid="as prefix-tuning",
        limits="as prefix-tuning",
        related=("prefix", "prompt", "p_tuning"),
    )

    def count(self, shape: Shape) -> int | None:
        """A key and a value for each virtual token in every block."""
        return self.tokens * 2 * shape.blocks * shape.keys

    def config(self, module: Any) -> Any:
        """PEFT's configuration of it for this model."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(num_virtual_tokens=self.tokens, prefix_projection=False, task_type="CAUSAL_LM")
