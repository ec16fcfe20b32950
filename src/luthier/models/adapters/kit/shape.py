"""The sizes of a model, from which follows how many numbers a method trains there: no model is needed for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import LuthierError
from luthier.models.adapters.kit.targets import ALL_LINEAR, Targets, chosen

KEYS: dict[str, tuple[str, ...]] = {
    "blocks": ("num_hidden_layers", "n_layer", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "inner": ("moe_intermediate_size", "intermediate_size", "n_inner", "ffn_dim"),
    "heads": ("num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
"""What model configurations call these sizes."""
UNGATED = ("gpt2", "gpt_neox", "opt", "phi", "gptj", "bloom", "falcon", "starcoder2")
"""Kinds whose feed-forward layers are two matrices, not three."""
HEAD_NORMS = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2")
"""Kinds with a norm on each query and key head."""


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
    queries: int = 0
    """Width of queries: heads times a head's width. 0: the model's width."""
    heads: int = 0
    """Heads of queries; 0 where nobody has asked."""
    kind: str = "llama"
    """What the configuration calls the architecture."""
    gated: bool = True
    """Feed-forward layers are three matrices: gate, up and down."""
    experts: int = 1
    """Feed-forward layers of each block."""
    active: int = 1
    """How many of them a token goes through."""
    context: int | None = None
    """The longest sequence that the model was made for."""

    @classmethod
    def of(cls, config: Mapping[str, Any], name: str = "") -> Shape:
        """The sizes that a model's configuration names, defaults filled in. Raises LuthierError where it lacks one."""
        text = config.get("text_config")
        config = text if isinstance(text, Mapping) else config
        found: dict[str, int] = {}
        for size, keys in KEYS.items():
            value = next((config[key] for key in keys if isinstance(config.get(key), int)), None)
            if value is None and size == "inner":
                value = 4 * found["width"]  # GPT-2 leaves it out
            if value is None:
                raise LuthierError(
                    f"the configuration of {name or 'the model'} does not say {keys[0]}", fix="look at its config.json"
                )
            found[size] = value
        heads, kind = found["heads"], str(config.get("model_type", ""))
        wide = int(config.get("head_dim") or found["width"] // heads)
        key_heads = config.get("num_key_value_heads") or heads
        experts = next((config[key] for key in ("num_local_experts", "num_experts") if config.get(key)), 1)
        lengths = (config.get(key) for key in ("max_position_embeddings", "n_positions", "seq_length"))
        return cls(
            name, found["blocks"], found["width"], found["inner"], key_heads * wide, found["vocabulary"],
            bool(config.get("tie_word_embeddings", True)), heads * wide, heads, kind, kind not in UNGATED, experts,
            min(experts, config.get("num_experts_per_tok") or 1), next((n for n in lengths if n), None),
        )  # fmt: skip

    @property
    def asked(self) -> int:
        """Width of queries."""
        return self.queries or self.width

    @property
    def head_norms(self) -> bool:
        """Is there a norm on each query and key head?"""
        return self.kind in HEAD_NORMS

    def linear(self, targets: Targets = ALL_LINEAR) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of the linear layers that `targets` means, by name. Raises LuthierError for none."""
        attention = {"q": self.asked, "k": self.keys, "v": self.keys}
        block = {f"self_attn.{name}_proj": (self.width, outputs) for name, outputs in attention.items()}
        block["self_attn.o_proj"] = (self.asked, self.width)
        for expert in range(self.experts):
            there = "mlp" if self.experts == 1 else f"mlp.experts.{expert}"
            block |= {f"{there}.{name}_proj": (self.width, self.inner) for name in ("gate", "up")[: 1 + self.gated]}
            block[f"{there}.down_proj"] = (self.inner, self.width)
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
    def matrices(self) -> int:
        """Numbers of one block's matrices."""
        return self.over(ALL_LINEAR, lambda i, o: i * o) // self.blocks

    @property
    def worked(self) -> int:
        """Numbers of one block's matrices that a token is multiplied with."""
        feed_forward = (2 + self.gated) * self.width * self.inner
        return self.matrices - (self.experts - self.active) * feed_forward

    @property
    def norms(self) -> int:
        """Numbers of all norms."""
        return (2 * self.blocks + 1) * self.width

    @property
    def block(self) -> int:
        """Numbers of one block."""
        return self.matrices + 2 * self.width

    @property
    def total(self) -> int:
        """Numbers of the model."""
        tables = 1 if self.tied else 2
        return self.blocks * self.block + self.width + tables * self.table


DEFAULT = Shape("smollm2-135m-instruct", blocks=30, width=576, inner=1536, keys=192, vocabulary=49152)
"""The default model's, as its config.json has it."""
