"""Where the weights of a model lie, as the compiled step of decoding is told; and which models it serves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from luthier.models.adapters.kit.attached import bare
from luthier.models.blocks import fused, projections
from luthier.models.blocks.kernels import decode
from luthier.models.blocks.projections import Projection
from luthier.models.decode.copies import Copies, Copy
from luthier.models.positions import placed
from luthier.models.virtual import virtual

MODELS = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
TYPES = (torch.bfloat16, torch.float32)
MOVING = ("dynamic", "longrope")
"""Rotary embeddings whose angles change with the longest sequence that is read."""
HEAD = "lm_head"


@dataclass(frozen=True)
class Lora:
    """y += scale (x A^T) B^T on one matrix: A is r x I, B is O x r."""

    down: Tensor
    up: Tensor
    scale: float
    ready: bool = False
    """Is it laid out already?"""

    def laid_out(self, half: bool) -> Lora:
        """A copy as the kernel likes it best: in bf16 for a model of bf16, and the memory of B column by column; itself
        where it is one."""
        if self.ready:
            return self
        kind = torch.bfloat16 if half or self.down.dtype is self.up.dtype is torch.bfloat16 else torch.float32
        down = torch.empty(self.down.shape, dtype=kind).copy_(self.down.detach())
        up_RO = torch.empty(self.up.T.shape, dtype=kind).copy_(self.up.detach().T)
        return Lora(down, up_RO.T, float(self.scale), ready=True)


@dataclass
class Weights:
    """A model's weights where they lie. `kept` holds on to the tensors whose addresses the records name."""

    model: np.ndarray[Any, Any]
    layers: np.ndarray[Any, Any]
    own: np.ndarray[Any, Any] | None
    """The model's live LoRA; None where it has none."""
    shapes: dict[str, tuple[int, int]]
    """Outputs and inputs of each matrix that may have LoRA, by its path in the model."""
    tokens: int
    """Tokens that have an embedding."""
    dtype: torch.dtype
    rotary: nn.Module
    kept: list[Any] = field(default_factory=list)

    @property
    def half(self) -> bool:
        """Is it a model of bf16?"""
        return self.dtype is torch.bfloat16

    @property
    def rank(self) -> int:
        """The highest rank of the live LoRA."""
        return 0 if self.own is None else int(self.own["rank"].max())


def weights(module: nn.Module, copies: Copies, *, same: bool = False) -> Weights | str:
    """Where a module's weights lie now, or why the compiled step does not serve it. `copies`: in what form its matrices
    are read; `same`: it was served before, and its parts are the same."""
    model = bare(module)
    reason = None if same else _unserved(module, model)
    if reason is not None:
        return reason
    layers = []
    for number, layer in enumerate(model.model.layers):
        found = fused.read_blocks(layer, same=same)
        if isinstance(found, str):
            return f"in layer {number} {found}"
        layers.append(found)
    head = projections.projection(model.lm_head, reading=True)
    if head is None:
        return f"{HEAD} {projections.obstacle(model.lm_head, reading=True)}"
    embedding, last = model.model.embed_tokens.weight, model.model.norm
    reason = _unlike(embedding, last.weight, layers, head)
    return reason or _gathered(model, layers, head, copies)


def lora_records(found: Sequence[Lora | None], half: bool) -> np.ndarray[Any, Any]:
    """LoRA of every matrix in the order of the records. B lies row by row, or column by column."""
    rows: list[tuple[Any, ...]] = []
    for each in found:
        if each is None:
            rows.append((0, 0, 0, 0, 0, 0, 0.0))
            continue
        down, up = each.down, each.up
        lines = 0 if up.is_contiguous() else up.shape[0]
        kinds = decode.kind(down, half), decode.kind(up, half)
        rows.append((down.data_ptr(), up.data_ptr(), *kinds, lines, down.shape[0], each.scale))
    return decode.records(rows, decode.LORA)


def paths(depth: int) -> list[str]:
    """The matrices that may have LoRA, in the order of the records."""
    places = ["self_attn"] * 4 + ["mlp"] * 3
    layers = [
        f"model.layers.{number}.{place}.{part}"
        for number in range(depth)
        for place, part in zip(places, decode.PARTS, strict=True)
    ]
    return [*layers, HEAD]


def _unserved(module: nn.Module, model: Any) -> str | None:
    """What of a model as a whole the compiled step cannot do."""
    if decode.library() is None:
        return "there is no C compiler that builds the kernels"
    name = type(model).__name__
    if name not in MODELS or not type(model).__module__.startswith("transformers."):
        return f"{name} is not of the Llama family"
    if virtual(module) is not None:
        return "virtual tokens stand before each row"
    if placed(model):
        return "an adapter treats tokens by their place in the prompt"
    inner = model.model
    for place, part in (("embed_tokens", inner.embed_tokens), ("norm", inner.norm), ("rotary_emb", inner.rotary_emb)):
        if not type(part).__module__.startswith(("torch.", "transformers.")):
            return f"{place} is {projections.kind(part)}"
    watched = {"the model": model, "its layers": inner, "embed_tokens": inner.embed_tokens, "norm": inner.norm}
    for place, part in {**watched, "rotary_emb": inner.rotary_emb, HEAD: model.lm_head}.items():
        if fused.changed(part):
            return f"what goes through {place} is changed on the way"
    if getattr(inner.rotary_emb, "rope_type", "default") in MOVING:
        return f"its rotary embedding ({inner.rotary_emb.rope_type}) changes with the length of what is read"
    return None


def _unlike(embedding: Tensor, norm: Tensor, layers: Sequence[Any], head: Projection) -> str | None:
    """What of the shapes, types and places of the weights the compiled step cannot do."""
    if embedding.dtype not in TYPES:
        return f"its weights are {_name(embedding.dtype)}"
    first, second = layers[0]
    if first.head_dim % decode.WIDTH:
        return f"its heads have {first.head_dim} numbers, which is no multiple of {decode.WIDTH}"
    shape = [p.weight.shape for p in _parts(first, second)]
    for number, (own, mlp) in enumerate(layers):
        parts = _parts(own, mlp)
        if any(p.turn is not None for p in parts):
            return f"layer {number} has OFT"
        if [p.weight.shape for p in parts] != shape or own.head_dim != first.head_dim:
            return f"layer {number} has other sizes than the first"
        for name, p in zip(decode.PARTS, parts, strict=True):
            if (reason := _odd(p, embedding.dtype)) is not None:
                return f"{name} of layer {number} {reason}"
        norms = [own.norm, mlp.norm, *(own.head_norms or ())]
        if any(not _flat(x, embedding.dtype) for x in norms):
            return f"a norm of layer {number} is of another type or place than the embeddings"
    if (reason := _odd(head, embedding.dtype)) is not None:
        return f"{HEAD} {reason}"
    if not _flat(embedding, embedding.dtype) or not _flat(norm, embedding.dtype):
        return "its embeddings or last norm do not lie on the CPU in one type"
    return None


def _odd(p: Projection, dtype: torch.dtype) -> str | None:
    if p.turn is not None:
        return "has OFT"
    if not _flat(p.weight, dtype) or (p.bias is not None and not _flat(p.bias, dtype)):
        return f"is not {_name(dtype)} on the CPU, row after row"
    if p.weight.shape[1] % decode.WIDTH:
        return f"has {p.weight.shape[1]} inputs, which is no multiple of {decode.WIDTH}"
    for x in (p.down, p.up):
        if x is not None and (x.dtype not in TYPES or not _flat(x, x.dtype)):
            return "has LoRA that is not bf16 or fp32 on the CPU, row after row"
    return None


def _flat(x: Tensor, dtype: torch.dtype) -> bool:
    return x.dtype is dtype and x.device.type == "cpu" and x.is_contiguous()


def _name(dtype: torch.dtype) -> str:
    return {torch.bfloat16: "bf16", torch.float32: "fp32"}.get(dtype, str(dtype).removeprefix("torch."))


def _parts(own: Any, mlp: Any) -> list[Projection]:
    return [*own.qkv, own.out, *mlp.gate_up, mlp.down]


def _gathered(model: Any, layers: Sequence[Any], head: Projection, copies: Copies) -> Weights:
    inner, embedding = model.model, model.model.embed_tokens.weight
    half = embedding.dtype is torch.bfloat16
    all_parts = [part for own, mlp in layers for part in _parts(own, mlp)] + [head]
    read = [copies.of(p.weight) for p in all_parts]
    copies.sweep()
    kept: list[Any] = [embedding.untyped_storage(), inner.norm.weight.untyped_storage(), read]
    matrices = [_matrix(p, copy) for p, copy in zip(all_parts, read, strict=True)]
    width = len(decode.PARTS)
    rows = [
        (
            matrices[number * width : (number + 1) * width],
            (own.norm.data_ptr(), mlp.norm.data_ptr()),
            tuple(x.data_ptr() for x in own.head_norms or ()) or (0, 0),
            (own.eps, mlp.eps),
            own.scale,
            own.window,
        )
        for number, (own, mlp) in enumerate(layers)
    ]
    records = decode.records(rows, decode.LAYER)
    # the memory itself, not the parameters, which may come to name another
    kept += [x.untyped_storage() for p in all_parts for x in (p.weight, p.bias, p.down, p.up) if x is not None]
    kept += [x.untyped_storage() for own, mlp in layers for x in (own.norm, *(own.head_norms or ()), mlp.norm)]
    first, second = layers[0]
    hidden, d = embedding.shape[1], first.head_dim
    sizes = (int(half), hidden, second.gate_up[0].outputs, first.qkv[0].outputs // d, first.qkv[1].outputs // d, d)
    places = (embedding.data_ptr(), inner.norm.weight.data_ptr(), inner.norm.variance_epsilon, matrices[-1])
    whole = (*sizes, len(layers), head.outputs, *places, decode.address(records), 0, 0)
    live = [None if p.down is None or p.up is None else Lora(p.down, p.up, p.scale) for p in all_parts]
    own = lora_records(live, half) if any(live) else None
    names = paths(len(layers))
    shapes = {name: (p.outputs, p.weight.shape[1]) for name, p in zip(names, all_parts, strict=True)}
    model_record = decode.records([whole], decode.MODEL)
    return Weights(model_record, records, own, shapes, len(embedding), embedding.dtype, inner.rotary_emb, kept)


def _matrix(p: Projection, read: Copy) -> tuple[int, int, int, int, int, int]:
    bias, scale = (0 if x is None else x.data_ptr() for x in (p.bias, read.scale))
    return read.matrix.data_ptr(), bias, scale, read.kind, p.outputs, p.weight.shape[1]
