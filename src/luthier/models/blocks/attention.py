"""Attention over packed rows: no padding reaches the model, and a shared prefix is attended to by all its rows.

A micro-batch is a set of packed segments (`Segment`); a token sees its own run causally and its ancestors' tokens.
Registered with transformers' attention and mask interfaces; the layout travels as a keyword argument of the model's
forward, so nothing is patched. It serves the passes that bring a layout: any other call (generation over a cache,
padded rows) goes to the attention that the model had, with that one's mask.

On CPU the segments are cut into pieces. Where the processor multiplies bf16 (AVX512-BF16), `kernels/attention.c`
attends piece by piece in one pass. Elsewhere pieces are put into buckets of similar length, and each bucket is three
batched matrix products (torch's own CPU attention is about three times slower in bf16 at these lengths). On CUDA it is
FlexAttention with a block mask.

Shape suffixes: T = tokens, B = pieces of a bucket, L = queries of a piece (padded), K = keys of a piece (padded),
H = heads, G = queries per key head, D = head dimension.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.blocks import kernels
from luthier.models.blocks.kernels import attention as one_pass

PACKED = "luthier_packed"
"""How the names begin under which packed attention is registered: one for each attention that it stands before."""
PIECE = 128
"""Queries of a long run that are taken together: later keys than theirs are not computed, which halves the work."""
LAYOUT = "packed_layout"
"""The keyword under which `PackedLayout` is handed to the model."""


@dataclass(frozen=True)
class Segment:
    """A run of tokens [start, end) of the micro-batch that continues the run `parent` (None = a row begins here)."""

    start: int
    end: int
    parent: int | None


@dataclass(frozen=True)
class Bucket:
    """Pieces of similar length: the places of their queries and of the keys they see, -1 where one is shorter."""

    query_BL: Tensor
    key_BK: Tensor
    prefix_B: Tensor
    """Keys before each piece, int32: query i of piece b sees the first prefix_B[b] + i + 1 keys."""
    length_B: Tensor


@dataclass(frozen=True, eq=False)
class PackedLayout:
    """Who attends to whom in one micro-batch. `position_T` are positions within each row."""

    segments: tuple[Segment, ...]
    position_T: Tensor
    fused: bool = True
    """May fused blocks serve the pass, where layers have them?"""
    flex: dict[int, Any] = field(default_factory=dict)
    """FlexAttention block masks by window (CUDA)."""

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest row; told from the segments, for a look at `position_T` would wait for the device."""
        ends: list[int] = []
        for segment in self.segments:  # parents come first
            ends.append(segment.end - segment.start + (0 if segment.parent is None else ends[segment.parent]))
        return max(ends)

    @cached_property
    def tokens(self) -> int:
        """Tokens of the micro-batch."""
        return max(segment.end for segment in self.segments)

    def ancestors(self, segment: Segment) -> list[Segment]:
        """The segments above, outermost first."""
        chain: list[Segment] = []
        while segment.parent is not None:
            segment = self.segments[segment.parent]
            chain.append(segment)
        return chain[::-1]

    @cached_property
    def pieces(self) -> one_pass.Pieces:
        """All pieces and the places of their keys."""
        rows: list[tuple[int, int, int, int]] = []
        places: list[Tensor] = []
        first = 0
        for piece in self._pieces():
            length = piece.end - piece.start
            rows.append((piece.start, length, piece.keys - length, first))
            places.append(piece.places)
            first += piece.keys
        return one_pass.Pieces.of(rows, torch.cat(places))

    @cached_property
    def buckets(self) -> list[Bucket]:
        """The segments' pieces in groups of similar length."""
        groups: list[list[_Piece]] = []
        for piece in sorted(self._pieces(), key=lambda p: (p.keys, p.end - p.start)):
            group = [*groups[-1], piece] if groups else [piece]
            padded = max(p.end - p.start for p in group) * piece.keys * len(group)
            # 48 x 48 scores: about what one more group costs in launches
            spent = sum((p.end - p.start) * p.keys for p in group)
            if groups and padded <= 1.3 * spent + 48 * 48:
                groups[-1].append(piece)
            else:
                groups.append([piece])
        return [self._bucket(group) for group in groups]

    def _pieces(self) -> Iterator[_Piece]:
        for segment in self.segments:
            above = self.ancestors(segment)
            prefix = sum(a.end - a.start for a in above)
            for start in range(segment.start, segment.end, PIECE):
                end = min(start + PIECE, segment.end)
                yield _Piece(start, end, prefix + end - segment.start, (*above, Segment(segment.start, end, None)))

    def _bucket(self, group: Sequence[_Piece]) -> Bucket:
        paths = [piece.places for piece in group]
        lengths = [piece.end - piece.start for piece in group]
        longest, widest = (_rounded(max(sizes)) for sizes in (lengths, [len(path) for path in paths]))
        query_BL = torch.full((len(group), longest), -1)
        key_BK = torch.full((len(group), widest), -1)
        for b, (segment, path) in enumerate(zip(group, paths, strict=True)):
            query_BL[b, : lengths[b]] = torch.arange(segment.start, segment.end)
            key_BK[b, : len(path)] = path
        length_B = torch.tensor(lengths)
        device = self.position_T.device
        return Bucket(
            query_BL=query_BL.to(device),
            key_BK=key_BK.to(device),
            prefix_B=(torch.tensor([len(path) for path in paths]) - length_B).to(torch.int32),
            length_B=length_B.to(torch.int32),
        )


@dataclass(frozen=True)
class _Piece:
    """Queries [start, end) of a segment, and the runs of keys that the last of them sees."""

    start: int
    end: int
    keys: int
    path: tuple[Segment, ...]

    @property
    def places(self) -> Tensor:
        """Its keys' places in the micro-batch."""
        return torch.cat([torch.arange(run.start, run.end) for run in self.path])


def _rounded(size: int) -> int:
    """Up to a multiple of 16: few sizes of matrix products, each compiled once."""
    return size if size < 16 else -(-size // 16) * 16


class PackedAttention(torch.autograd.Function):
    """softmax(scale q kT + mask) v over a packed layout, on CPU.

    query_THD, key_TGD, value_TGD -> T, H, D. Key heads are shared by consecutive groups of query heads.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float, window: int
    ) -> Tensor:
        out, kept = attend(query, key, value, layout, scale, window)
        ctx.save_for_backward(query, key, value, *kept)
        ctx.layout, ctx.scale, ctx.window = layout, scale, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *kept = ctx.saved_tensors
        found = attend_backward(grads[0], (query, key, value), kept, ctx.layout, ctx.scale, ctx.window)
        return *found, None, None, None


def attend(
    query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, scale: float, window: int
) -> tuple[Tensor, list[Tensor]]:
    """Attention output, T H D, and what `attend_backward` wants kept.

    On CPU that is nothing, or the output and each query's log-sum-exp: probabilities are made again, which costs little
    beside the projections and saves a quarter of the activations' memory. On CUDA it is the differentiable output and
    its inputs. Raises ValueError for tensors of another number of tokens than the layout has.
    """
    _must_fit(layout, queries=query, keys=key, values=value)
    if query.is_cuda:
        from luthier.models.blocks.attention_cuda import flex_attention

        with torch.enable_grad():
            inputs = [x.detach().transpose(0, 1).requires_grad_() for x in (query, key, value)]
            out = flex_attention(inputs[0], inputs[1], inputs[2], layout, scale, window)
        return out.detach(), [out, *inputs]
    if one_pass.serves(query, key, value):
        kept = one_pass.forward(query, key, value, layout.pieces, scale, window)
        return kept[0], [*kept]
    out = query.new_empty(query.shape)
    for bucket in layout.buckets:
        q, k, v = _gather(query, key, value, bucket)
        p = _probabilities(q, k, bucket, scale, window)
        kernels.unfold_(out, torch.bmm(p, v), bucket.query_BL, key.shape[1])
    return out, []


def attend_backward(
    grad: Tensor,
    inputs: tuple[Tensor, Tensor, Tensor],
    kept: Sequence[Tensor],
    layout: PackedLayout,
    scale: float,
    window: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value. Keys' and values' gradients add up over the segments that share them."""
    query, key, value = inputs
    _must_fit(layout, gradient=grad)
    if query.is_cuda:
        q, k, v = torch.autograd.grad(kept[0], kept[1:], grad)
        return q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
    if kept:
        return one_pass.backward(grad, inputs, kept, layout.pieces, scale, window)
    grad_query = query.new_empty(query.shape)
    grad_key = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
    grad_value = torch.zeros_like(grad_key)
    heads = key.shape[1]
    for bucket in layout.buckets:
        q, k, v = _gather(query, key, value, bucket)
        p = _probabilities(q, k, bucket, scale, window)
        g = kernels.fold(grad, bucket.query_BL, heads)
        kernels.unfold_add_(grad_value, torch.bmm(p.transpose(1, 2), g), bucket.key_BK)
        ds = kernels.causal_softmax_backward_(torch.bmm(g, v.transpose(1, 2)), p, scale)
        kernels.unfold_(grad_query, torch.bmm(ds, k), bucket.query_BL, heads)
        kernels.unfold_add_(grad_key, torch.bmm(ds.transpose(1, 2), q), bucket.key_BK)
    return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype)


def _must_fit(layout: PackedLayout, **tensors: Tensor) -> None:
    """Raises ValueError where a tensor, T first, has more or fewer tokens than the layout: rows would be read that are
    not there, or left as they lay in memory."""
    for name, tensor in tensors.items():
        if tensor.shape[0] != layout.tokens:
            raise ValueError(f"packed attention: {name} of {tensor.shape[0]} tokens, the layout has {layout.tokens}")


def _probabilities(q: Tensor, k: Tensor, bucket: Bucket, scale: float, window: int) -> Tensor:
    longest = bucket.query_BL.shape[1]
    scores = torch.bmm(q, k.transpose(1, 2))
    return kernels.causal_softmax_(scores, bucket.prefix_B, bucket.length_B, longest, scale, window)


def _gather(query: Tensor, key: Tensor, value: Tensor, bucket: Bucket) -> tuple[Tensor, Tensor, Tensor]:
    heads = key.shape[1]
    q = kernels.fold(query, bucket.query_BL, heads)
    return q, kernels.fold(key, bucket.key_BK, heads), kernels.fold(value, bucket.key_BK, heads)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: (1, H, T, D) in, (1, T, H, D) out."""
    layout: PackedLayout = kwargs[LAYOUT]
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    window = sliding_window if sliding_window and sliding_window < layout.longest else 0
    if query.shape[0] != 1:
        raise ValueError(f"packed attention: {query.shape[0]} rows of tokens side by side, all lie in one")
    if query.is_cuda:
        from luthier.models.blocks.attention_cuda import flex_attention

        _must_fit(layout, queries=query[0].transpose(0, 1), keys=key[0].transpose(0, 1))
        return flex_attention(query[0], key[0], value[0], layout, scale, window)[None], None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return PackedAttention.apply(q, k, v, layout, scale, window)[None], None  # type: ignore[no-untyped-call]


_unmasked: ContextVar[bool] = ContextVar("unmasked", default=False)
_names: dict[str, str] = {}
"""The name of packed attention by the name of the attention that it stands before."""


@contextmanager
def unmasked() -> Iterator[None]:
    """Around a pass that brings a layout: the layout says who sees whom, so no mask is built.

    Layers that are computed again on the way back, outside the block, have the layout as a keyword and need no mask.
    """
    token = _unmasked.set(True)
    try:
        yield
    finally:
        _unmasked.reset(token)


def before(own: str) -> str:
    """The name, known to transformers from now on, of packed attention that hands calls without a layout to `own`."""
    if own not in _names:
        from transformers import AttentionInterface
        from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface

        # a number, because transformers reads meaning into names (flash attention, kernels of its hub)
        name = f"{PACKED}_{len(_names)}"
        AttentionInterface.register(name, _choosing(own))
        if own in ALL_MASK_ATTENTION_FUNCTIONS:  # else no mask is built for it, and none for ours
            own_mask = ALL_MASK_ATTENTION_FUNCTIONS[own]
            AttentionMaskInterface.register(name, lambda *a, **k: None if _unmasked.get() else own_mask(*a, **k))
        _names[own] = name
    return _names[own]


def _choosing(own: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """transformers' attention interface: packed attention where there is a layout, else `own`."""

    def attention(module: Any, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        layout = kwargs.get(LAYOUT)
        if isinstance(layout, PackedLayout):
            return packed_attention(module, *args, **kwargs)
        if layout is not None:  # pages of keys and values
            return layout.attend(module, args[:3], kwargs.get("scaling"), kwargs.get("sliding_window")), None
        function = _function(own, module)
        if "flash" not in own:
            return function(module, *args, **kwargs)
        name = module.config._attn_implementation
        module.config._attn_implementation_internal = own  # it looks there which of its versions it is
        try:
            return function(module, *args, **kwargs)
        finally:
            module.config._attn_implementation_internal = name

    return attention


def _function(own: str, module: nn.Module) -> Callable[..., tuple[Tensor, Tensor | None]]:
    """The attention called `own`; the eager one is each model file's own."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    if own in ALL_ATTENTION_FUNCTIONS:
        return ALL_ATTENTION_FUNCTIONS[own]
    files = (vars(sys.modules[cls.__module__]) for cls in type(module).__mro__)
    return next(file["eager_attention_forward"] for file in files if "eager_attention_forward" in file)
