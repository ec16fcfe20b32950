"""Decoder layers of the Llama family as two hand-written blocks: attention and feed-forward, each with its norm and
its residual.

The same maths as the model's own layer, with fewer passes over memory: activations that are cheap to make again
(norms, the gated product) are made again in the backward pass, everything else stays in the weights' precision, and
LoRA's products join the group that shares their input, OFT's blocks turn it first. A layer is replaced by a
`FusedLayer` that holds the same submodules under the same names and hands over to the original layer whenever it is
called any other way than by the packed forward (generation, another adapter, dropout).

Shape suffixes: T = tokens, D = hidden size, F = width of the feed-forward layer, H = query heads, G = key heads,
E = head dimension, O = outputs of a group of projections, R = LoRA ranks of a group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from luthier.models import caching
from luthier.models.blocks import attention, kernels, projections
from luthier.models.blocks.projections import Projection, projection

LAYERS = {"LlamaDecoderLayer", "MistralDecoderLayer", "Qwen2DecoderLayer", "Qwen3DecoderLayer"}
PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
"""What a layer is made of; anything beside it has been added."""
KNOWN = ("transformers.", "torch.", "peft.tuners.lora.", "peft.tuners.oft.", "luthier.models.blocks.rotations")
"""Where the classes of an untouched layer and its adapters come from."""
QKV, GATE_UP = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj")


@dataclass(frozen=True)
class Fusion:
    """How many decoder layers were replaced by their fused equals, and why others were not."""

    count: int
    why_not: str | None
    """Of the first layer that was not; None where all were."""


def fuse(model: nn.Module) -> Fusion:
    """Replace every decoder layer that has a fused equal."""
    count, reasons = 0, []
    for name, layer in list(model.named_modules()):
        if isinstance(layer, FusedLayer):  # by a pass that was opened before
            count += 1
        elif type(layer).__name__ in LAYERS:
            reason = _touched(layer) or _unlike(layer)
            if reason is None:
                model.set_submodule(name, FusedLayer(layer))
                count += 1
            else:
                reasons.append(reason)
    if not count and not reasons:
        reasons.append(f"{type(model).__name__} is not of the Llama family")
    return Fusion(count, reasons[0] if reasons else None)


def unfuse(model: nn.Module) -> None:
    """Put the model's own layers back, in the mode that the model is in by now."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, FusedLayer):
            model.set_submodule(name, layer.given_back())


class FusedLayer(GradientCheckpointingLayer):  # type: ignore[no-untyped-call]
    """A decoder layer whose packed forward runs the fused blocks."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "original", layer)  # not a submodule: parameter names stay as they are
        self.training = layer.training
        self.gradient_checkpointing = layer.gradient_checkpointing
        if layer.gradient_checkpointing:
            self._gradient_checkpointing_func = layer._gradient_checkpointing_func
            # one of the two checkpoints: twice is work for nothing, and the layer's own mode is not kept up
            layer.gradient_checkpointing = False

    def given_back(self) -> Any:
        """The model's own layer, in the mode and with the checkpointing of this one."""
        layer = self.__dict__["original"]
        layer.training, layer.gradient_checkpointing = self.training, self.gradient_checkpointing
        if self.gradient_checkpointing:
            layer._gradient_checkpointing_func = self._gradient_checkpointing_func
        return layer

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "original" not in self.__dict__:
                raise
            return getattr(self.__dict__["original"], name)  # e.g. attention_type, which the model's loop reads

    def forward(self, hidden_states: Tensor, **kwargs: Any) -> Tensor:
        """(1, T, D) -> (1, T, D)."""
        layout = kwargs.get(attention.LAYOUT)
        packed = layout if isinstance(layout, attention.PackedLayout) else None
        asked = packed is not None and packed.fused and caching.given(kwargs) is None
        blocks = _blocks(self) if asked else None
        if blocks is None or packed is None:
            return self.original(hidden_states, **kwargs)
        cos, sin = kwargs["position_embeddings"]
        attention_block, feed_forward = blocks
        x_TD = hidden_states[0]
        x_TD = _AttentionBlock.apply(  # type: ignore[no-untyped-call]
            x_TD, attention_block, packed, cos[0], sin[0], *attention_block.tensors
        )
        x_TD = _FeedForwardBlock.apply(x_TD, feed_forward, *feed_forward.tensors)  # type: ignore[no-untyped-call]
        return x_TD[None]


@dataclass(frozen=True)
class Attention:
    """The first block of a layer, as it stands."""

    norm: Tensor
    eps: float
    qkv: tuple[Projection, ...]
    out: Projection
    head_norms: tuple[Tensor, Tensor] | None
    """Weights of the norms on each query and key head (Qwen 3)."""
    head_dim: int
    scale: float
    window: int

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        group = [tensor for p in (*self.qkv, self.out) for tensor in p.tensors]
        return self.norm, *(self.head_norms or (None, None)), *group


@dataclass(frozen=True)
class FeedForward:
    """The second."""

    norm: Tensor
    eps: float
    gate_up: tuple[Projection, ...]
    down: Projection

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        return self.norm, *(tensor for p in (*self.gate_up, self.down) for tensor in p.tensors)


def _touched(layer: nn.Module) -> str | None:
    """What makes the layer more than transformers' own with plain LoRA or OFT; None where it is unhooked, nothing was
    put in and no forward replaced."""
    for name, part in layer.named_modules():
        place = name or "the layer"
        if not type(part).__module__.startswith(KNOWN):
            return f"{place} is {projections.kind(part)}"
        if "forward" in part.__dict__:
            return f"the forward pass of {place} was replaced"
        if _hooked(part):
            return f"what goes through {place} is changed on the way"
        if part._backward_hooks or part._backward_pre_hooks:
            return f"the gradients of {place} are looked at"
        if isinstance(part, nn.Linear) and part._modules:
            return f"{next(iter(part._modules))} was put into {place}"
    added = [name for name in layer._modules if name not in PARTS]
    return f"{added[0]} was added to the layer" if added else None


def read_blocks(layer: Any, *, same: bool = False) -> tuple[Attention, FeedForward] | str:
    """The two blocks that a decoder layer, fused or not, is outside of training; or why it is no such layer.
    `same`: its parts and hooks are those of a layer that was one."""
    layer = layer.__dict__.get("original", layer)
    if same and (found := _blocks(layer, reading=True)) is not None:
        return found
    if type(layer).__name__ not in LAYERS:
        return f"a layer is {projections.kind(layer)}"
    return _touched(layer) or _blocks(layer, reading=True) or _unlike(layer, reading=True) or "it is unlike the others"


def _unlike(layer: Any, *, reading: bool = False) -> str | None:
    """Why a layer that nothing was put into is still none that the blocks compute; None where it is."""
    if _blocks(layer, reading=reading) is not None:
        return None
    for name, module in _projections(layer).items():
        if (reason := projections.obstacle(module, reading=reading)) is not None:
            return f"{name} {reason}"
    return f"its activation is {type(layer.mlp.act_fn).__name__}"


def changed(part: nn.Module) -> bool:
    """May a module compute something else than its class says?"""
    return "forward" in part.__dict__ or _hooked(part)


def _hooked(part: nn.Module) -> bool:
    return any(map(_changes, (*part._forward_hooks.values(), *part._forward_pre_hooks.values())))


def _changes(hook: Any) -> bool:
    """May a hook change what a layer computes? transformers' own only look on."""
    return not str(getattr(hook, "__module__", "")).startswith("transformers.")


def _projections(layer: Any) -> dict[str, nn.Module]:
    """The linear maps of a layer, in the order of their use."""
    own = {name: getattr(layer.self_attn, name) for name in (*QKV, "o_proj")}
    return own | {name: getattr(layer.mlp, name) for name in (*GATE_UP, "down_proj")}


def _blocks(layer: Any, *, reading: bool = False) -> tuple[Attention, FeedForward] | None:
    """The layer's two blocks as they stand now, or None if a projection is more than the blocks can compute."""
    own, mlp, modules = layer.self_attn, layer.mlp, _projections(layer)
    found = [p for each in modules.values() if (p := projection(each, reading=reading)) is not None]
    silu = type(mlp.act_fn).__name__ in ("SiLU", "SiLUActivation")
    if len(found) < len(modules) or not silu:
        return None
    q, k, v, out, gate, up, down = found
    norms = (own.q_norm, own.k_norm) if "q_norm" in own._modules else None
    first, second = layer.input_layernorm, layer.post_attention_layernorm
    return (
        Attention(
            norm=first.weight,
            eps=first.variance_epsilon,
            qkv=(q, k, v),
            out=out,
            head_norms=(norms[0].weight, norms[1].weight) if norms else None,
            head_dim=own.head_dim,
            scale=own.scaling,
            window=_window(own),
        ),
        FeedForward(second.weight, second.variance_epsilon, (gate, up), down),
    )


def _window(own: Any) -> int:
    """Tokens a query sees, or 0 for all before it. Mistral reads it off its configuration, Qwen keeps one a layer."""
    if "sliding_window" in own.__dict__:
        return own.sliding_window or 0
    return (own.config.sliding_window or 0) if type(own).__name__ == "MistralAttention" else 0


def _once(ctx: Any) -> None:
    """The blocks write over what they saved: a second backward pass would be wrong without a sign."""
    if ctx.spent:
        raise RuntimeError("the fused blocks can be run backward once; do not use retain_graph")
    ctx.spent = True


def _through_norm(
    residual_TD: Tensor, grad_TD: Tensor | None, x_TD: Tensor, weight_D: Tensor, rstd_T: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """(gradient of the block's input: through the norm and past it, gradient of the norm's weight)."""
    if grad_TD is None:  # nothing below trains
        return None, None
    own = _norm_weight_grad(grad_TD, x_TD, rstd_T, weight_D)
    return kernels.rms_norm_backward(residual_TD, grad_TD, x_TD, weight_D, rstd_T), own


def _norm_weight_grad(grad: Tensor, x: Tensor, rstd: Tensor, weight: Tensor) -> Tensor | None:
    if not weight.requires_grad:
        return None
    return (grad.float() * x.float() * rstd[:, None]).sum(0).to(weight.dtype)


class _FeedForwardBlock(torch.autograd.Function):
    """x + down(silu(gate(norm x)) * up(norm x))"""

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, block: FeedForward, *tensors: Tensor | None) -> Tensor:
        normed_TD, rstd_T = kernels.rms_norm(x_TD, block.norm, block.eps)
        gate_up_TF, z_TR = projections.forward(normed_TD, block.gate_up)
        y_TD, z_down_TR = projections.forward(kernels.swiglu(gate_up_TF), [block.down])
        ctx.save_for_backward(x_TD, rstd_T, gate_up_TF, z_TR, z_down_TR)
        ctx.block, ctx.spent = block, False
        return y_TD.add_(x_TD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _once(ctx)
        grad_TD = grads[0].contiguous()
        x_TD, rstd_T, gate_up_TF, z_TR, z_down_TR = ctx.saved_tensors
        block: FeedForward = ctx.block
        inner = ctx.needs_input_grad[: -len(block.down.tensors)]
        found_down = projections.backward(grad_TD, z_down_TR, [block.down], any(inner))
        if found_down.x_TI is None:  # nothing before the last projection trains
            projections.backward_weights(found_down, grad_TD, kernels.swiglu(gate_up_TF), [block.down])
            return (*[None] * len(inner), *found_down.flat)
        grad_gate_up_TF, act_TF = kernels.swiglu_backward_(gate_up_TF, found_down.x_TI)
        projections.backward_weights(found_down, grad_TD, act_TF, [block.down])
        need_x = ctx.needs_input_grad[0] or block.norm.requires_grad
        found = projections.backward(grad_gate_up_TF, z_TR, block.gate_up, need_x)
        normed_TD, _ = kernels.rms_norm(x_TD, block.norm, block.eps)
        projections.backward_weights(found, grad_gate_up_TF, normed_TD, block.gate_up)
        grad_x_TD, grad_norm = _through_norm(grad_TD, found.x_TI, x_TD, block.norm, rstd_T)
        return (grad_x_TD, None, grad_norm, *found.flat, *found_down.flat)


class _AttentionBlock(torch.autograd.Function):
    """x + out(attention(rope(q, k), v)), q, k, v from norm x"""

    @staticmethod
    def forward(
        ctx: Any,
        x_TD: Tensor,
        block: Attention,
        layout: attention.PackedLayout,
        cos_TE: Tensor,
        sin_TE: Tensor,
        *tensors: Tensor | None,
    ) -> Tensor:
        normed_TD, rstd_T = kernels.rms_norm(x_TD, block.norm, block.eps)
        qkv_TO, z_TR = projections.forward(normed_TD, block.qkv)
        q_THE, k_TGE, v_TGE = _heads(qkv_TO, block)
        raw: list[Tensor] = []
        if block.head_norms is not None:
            for x, weight in ((q_THE, block.head_norms[0]), (k_TGE, block.head_norms[1])):
                # a copy whatever its strides: that of one head or token would be a view, and is written over here
                raw.append(x.clone(memory_format=torch.contiguous_format).view(-1, block.head_dim))
                x.copy_(kernels.rms_norm(raw[-1], weight, block.eps)[0].view_as(x))
        both = _heads_to_turn(qkv_TO, block)
        kernels.rope_(both, cos_TE, sin_TE)
        window = block.window if block.window < layout.longest else 0
        out_THE, kept = attention.attend(q_THE, k_TGE, v_TGE, layout, block.scale, window)
        y_TD, z_out_TR = projections.forward(out_THE.flatten(1), [block.out])
        ctx.save_for_backward(x_TD, rstd_T, qkv_TO, z_TR, out_THE, z_out_TR, cos_TE, sin_TE, *raw)
        ctx.block, ctx.layout, ctx.window, ctx.kept, ctx.spent = block, layout, window, kept, False
        return y_TD.add_(x_TD)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        _once(ctx)
        grad_TD = grads[0].contiguous()
        x_TD, rstd_T, qkv_TO, z_TR, out_THE, z_out_TR, cos_TE, sin_TE, *raw = ctx.saved_tensors
        block: Attention = ctx.block
        kept, ctx.kept = ctx.kept, None  # freed as soon as they are used
        inner = ctx.needs_input_grad[: -len(block.out.tensors)]
        found_out = projections.backward(grad_TD, z_out_TR, [block.out], any(inner))
        projections.backward_weights(found_out, grad_TD, out_THE.flatten(1), [block.out])
        if found_out.x_TI is None:  # nothing before the last projection trains
            return (*[None] * len(inner), *found_out.flat)
        q_THE, k_TGE, v_TGE = _heads(qkv_TO, block)
        grad_out_THE = found_out.x_TI.view_as(out_THE)
        grad_heads = attention.attend_backward(
            grad_out_THE, (q_THE, k_TGE, v_TGE), kept, ctx.layout, block.scale, ctx.window
        )
        grad_qkv_TO = torch.cat([g.flatten(1) for g in grad_heads], dim=1)
        kernels.rope_(_heads_to_turn(grad_qkv_TO, block), cos_TE, sin_TE, -1.0)
        grads_head = [None, None] if block.head_norms is None else _head_norms_backward(grad_qkv_TO, raw, block)
        need_x = ctx.needs_input_grad[0] or block.norm.requires_grad
        found = projections.backward(grad_qkv_TO, z_TR, block.qkv, need_x)
        normed_TD, _ = kernels.rms_norm(x_TD, block.norm, block.eps)
        projections.backward_weights(found, grad_qkv_TO, normed_TD, block.qkv)
        grad_x_TD, grad_norm = _through_norm(grad_TD, found.x_TI, x_TD, block.norm, rstd_T)
        return (grad_x_TD, None, None, None, None, grad_norm, *grads_head, *found.flat, *found_out.flat)


def _heads(qkv_TO: Tensor, block: Attention) -> tuple[Tensor, Tensor, Tensor]:
    """Views of the queries, keys and values by head."""
    parts = torch.split(qkv_TO, [p.outputs for p in block.qkv], dim=1)
    q, k, v = (torch.unflatten(part, 1, (-1, block.head_dim)) for part in parts)
    return q, k, v


def _heads_to_turn(qkv_TO: Tensor, block: Attention) -> Tensor:
    """Queries and keys together, by head: what the rotary embedding turns."""
    turned = qkv_TO[:, : block.qkv[0].outputs + block.qkv[1].outputs]
    return torch.unflatten(turned, 1, (-1, block.head_dim))


def _head_norms_backward(grad_qkv_TO: Tensor, raw: list[Tensor], block: Attention) -> list[Tensor | None]:
    """Gradients through the norms on query and key heads, written into grad_qkv; returns the norms' own."""
    assert block.head_norms is not None
    own = []
    for grad_heads, x, weight in zip(_heads(grad_qkv_TO, block), raw, block.head_norms, strict=False):
        grad = grad_heads.reshape(x.shape).contiguous()
        rstd = torch.rsqrt(x.float().square().mean(-1) + block.eps)
        own.append(_norm_weight_grad(grad, x, rstd, weight))
        grad_heads.copy_(kernels.rms_norm_backward(torch.zeros_like(x), grad, x, weight, rstd).view_as(grad_heads))
    return own
