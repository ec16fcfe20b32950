"""C believes what it is told: each entry refuses tensors that differ, and says which."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from luthier.models.blocks.attention import LAYOUT, PackedLayout, Segment, attend, attend_backward, packed_attention
from luthier.models.blocks.kernels import attention as one_pass
from luthier.models.blocks.kernels import cpu

T, H, G, D = 6, 4, 2, 32
NODES = (Segment(0, 2, None), Segment(2, 4, 0), Segment(4, 6, 0))
needs_compiler = pytest.mark.skipif(cpu.library() is None, reason="no C compiler")


def layout(segments: tuple[Segment, ...] = NODES) -> PackedLayout:
    return PackedLayout(segments, torch.tensor([0, 1, 2, 3, 2, 3]))


def z(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def whole(size: int = T) -> tuple[Tensor, Tensor, Tensor]:
    return z(size, H, D), z(size, G, D), z(size, G, D)


# the layout
def test_the_longest_row_is_told_from_the_nodes() -> None:
    """A prompt of two tokens with two answers of two: rows of four, whatever `position_T` is and wherever it lies."""
    assert layout().longest == 4
    assert PackedLayout(NODES, torch.empty(6, device="meta")).longest == 4, "nobody looks at the positions"
    deep = (Segment(0, 3, None), Segment(3, 4, 0), Segment(4, 9, 1), Segment(9, 20, None))
    assert PackedLayout(deep, torch.empty(0)).longest == 11 and PackedLayout(deep[:3], torch.empty(0)).longest == 9


@pytest.mark.parametrize("tokens", [1, 5, 7, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_tokens_than_the_layout_has_are_refused(tokens: int, dtype: torch.dtype) -> None:
    query, key, value = (x.to(dtype) for x in whole(tokens))
    says = rf"queries of {tokens} tokens, the layout has 6"
    with pytest.raises(ValueError, match=says):
        attend(query, key, value, layout(), 1.0, 0)
    q, k, v = (x.transpose(0, 1)[None] for x in (query, key, value))
    with pytest.raises(ValueError, match=says):
        packed_attention(torch.nn.Module(), q, k, v, None, **{LAYOUT: layout()})
    good = tuple(x.to(dtype) for x in whole())
    with pytest.raises(ValueError, match=rf"keys of {tokens} tokens"):
        attend(good[0], key, good[2], layout(), 1.0, 0)
    out, kept = attend(*good, layout(), 1.0, 0)
    with pytest.raises(ValueError, match=rf"gradient of {tokens} tokens"):
        attend_backward(query, good, kept, layout(), 1.0, 0)
    assert out.shape == (T, H, D)


def test_rows_side_by_side_are_no_packed_ones() -> None:
    q, k, v = (x.transpose(0, 1)[None].expand(2, -1, -1, -1) for x in whole())
    with pytest.raises(ValueError, match="2 rows of tokens side by side"):
        packed_attention(torch.nn.Module(), q, k, v, None, **{LAYOUT: layout()})


# attention.c
BF = torch.bfloat16


def query_key_value(**changed: Any) -> dict[str, Any]:
    good = {"query": z(T, H, D, dtype=BF), "key": z(T, G, D, dtype=BF), "value": z(T, G, D, dtype=BF)}
    return good | changed


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"query": z(T + 1, H, D, dtype=BF)}, "queries is .7, 4, 32."),
        ({"key": z(T - 1, G, D, dtype=BF)}, "keys is .5, 2, 32."),
        ({"value": z(T, G, 64, dtype=BF)}, "values is .6, 2, 64."),
        ({"value": z(T, G, D)}, r"values is .* of torch\.float32"),
        ({"key": z(T, 3, D, dtype=BF), "value": z(T, 3, D, dtype=BF)}, "are not T H D and T G D"),
        ({"query": z(T, H, 24, dtype=BF)}, "heads of 24 numbers"),
        ({"query": z(T, H * D, dtype=BF)}, "are not T H D"),
    ],
)
def test_attention_in_one_pass_checks_before_it_calls(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        one_pass.forward(**query_key_value(**changed), pieces=layout().pieces, scale=1.0, window=0)
    inputs = tuple(query_key_value(**changed).values())
    kept = z(T, H, D, dtype=BF), z(T, H)
    with pytest.raises(ValueError, match=says):
        one_pass.backward(z(T, H, D, dtype=BF), inputs, kept, layout().pieces, 1.0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("grad", "kept", "says"),
    [
        (z(T + 1, H, D, dtype=BF), (z(T, H, D, dtype=BF), z(T, H)), "the output's gradient is .7"),
        (z(T, H, D, dtype=BF), (z(T - 1, H, D, dtype=BF), z(T, H)), "the output is .5"),
        (z(T, H, D, dtype=BF), (z(T, H, D, dtype=BF), z(T, G)), "log-sum-exp is .6, 2."),
        (z(T, H, D), (z(T, H, D, dtype=BF), z(T, H)), "of torch.float32"),
    ],
)
def test_so_does_its_gradient(grad: Tensor, kept: Any, says: str) -> None:
    inputs = tuple(query_key_value().values())
    with pytest.raises(ValueError, match=says):
        one_pass.backward(grad, inputs, kept, layout().pieces, 1.0, 0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        ([(0, 2, 0, 0)], [0]),
        ([(0, 2, 0, 1)], [0, 1]),
        ([(0, 2, 1, 0)], [0, 1]),
        ([(0, 2, 0, 0)], [0, 2]),
        ([(0, 2, 0, 0)], [-1, 1]),
        ([(0, 0, 1, 0)], [0]),
        ([(-1, 2, 0, 0)], [0, 0]),
    ],
)
def test_pieces_reach_no_further_than_there_are_keys_and_tokens(rows: Any, places: list[int]) -> None:
    with pytest.raises(ValueError, match="attention: "):
        one_pass.Pieces.of(rows, torch.tensor(places))


# cpu.c
PLACE = torch.tensor([[0, 1], [2, -1]])
INT = {"prefix_B": torch.tensor([0, 1], dtype=torch.int32), "length_B": torch.tensor([2, 1], dtype=torch.int32)}
GOOD: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "rms_norm": (cpu.rms_norm, {"x_TD": z(3, 8), "weight_D": z(8), "eps": 1e-5}),
    "rms_norm_backward": (
        cpu.rms_norm_backward,
        {"add_TD": z(3, 8), "grad_TD": z(3, 8), "x_TD": z(3, 8), "weight_D": z(8), "rstd_T": z(3)},
    ),
    "rope_": (cpu.rope_, {"x_THD": z(3, 2, 4), "cos_TD": z(3, 4), "sin_TD": z(3, 4), "sign": 1.0}),
    "swiglu": (cpu.swiglu, {"gate_up_TF": z(3, 8)}),
    "swiglu_backward_": (cpu.swiglu_backward_, {"gate_up_TF": z(3, 8), "grad_TF": z(3, 4)}),
    "causal_softmax_": (cpu.causal_softmax_, {"scores": z(4, 4, 2), **INT, "longest": 2, "scale": 1.0, "window": 0}),
    "causal_softmax_backward_": (cpu.causal_softmax_backward_, {"grad": z(4, 4, 2), "p": z(4, 4, 2), "scale": 1.0}),
    "fold": (cpu.fold, {"x_THD": z(3, 4, 8), "place_BL": PLACE, "heads": 2}),
    "unfold_": (cpu.unfold_, {"out_THD": z(3, 4, 8), "x": z(4, 4, 8), "place_BL": PLACE, "heads": 2}),
    "unfold_add_": (cpu.unfold_add_, {"sum_TGD": z(3, 2, 8), "x": z(4, 2, 8), "place_BL": PLACE}),
    "online_softmax_": (cpu.online_softmax_, {"logits_CV": z(3, 8), "top_C": z(3), "sum_C": z(3), "total_C": z(3)}),
}


@needs_compiler
@pytest.mark.parametrize("name", GOOD)
def test_a_kernel_takes_what_it_should(name: str) -> None:
    function, given = GOOD[name]
    function(**{key: value.clone() if isinstance(value, Tensor) else value for key, value in given.items()})


def spoilt() -> list[tuple[str, str, Any]]:
    """Each tensor of each kernel: one row more and one less, another type, and with gaps."""
    found: list[tuple[str, str, Any]] = []
    for name, (_, given) in GOOD.items():
        tensors = {key: value for key, value in given.items() if isinstance(value, Tensor)}
        for number, (key, value) in enumerate(tensors.items()):
            other = torch.float64 if value.is_floating_point() else torch.int16
            found.append((name, key, value.to(other)))
            if value.dim() > 1 and (name, key) != ("fold", "x_THD"):  # whose gaps are closed
                found.append(
                    (name, key, torch.empty(*value.shape[:-1], value.shape[-1] * 2, dtype=value.dtype)[..., ::2])
                )
            if number and key != "place_BL":  # the first says what the others must be, and places are checked below
                found.append((name, key, torch.cat([value, value])))
                found.append((name, key, value[:-1]))
    return found


@pytest.mark.parametrize(
    ("name", "key", "value"), [pytest.param(*each, id=f"{each[0]}-{each[1]}-{n}") for n, each in enumerate(spoilt())]
)
def test_a_tensor_that_differs_is_refused(name: str, key: str, value: Tensor) -> None:
    function, given = GOOD[name]
    with pytest.raises(ValueError, match=rf"{name.rstrip('_')}_?: "):
        function(**given | {key: value})


@pytest.mark.parametrize("name", ["fold", "unfold_", "unfold_add_"])
def test_places_beyond_the_tokens_are_refused(name: str) -> None:
    function, given = GOOD[name]
    with pytest.raises(ValueError, match="of 3 tokens"):
        function(**given | {"place_BL": torch.tensor([[0, 1], [3, -1]])})
    if "heads" in given:
        with pytest.raises(ValueError, match="no groups of 3"):
            function(**given | {"heads": 3})


@pytest.mark.parametrize(("prefix", "length"), [([0, 2], [2, 1]), ([-1, 1], [2, 1]), ([0, 1], [2, 0])])
def test_more_keys_than_there_are_are_refused(prefix: list[int], length: list[int]) -> None:
    function, given = GOOD["causal_softmax_"]
    asked = {"prefix_B": torch.tensor(prefix, dtype=torch.int32), "length_B": torch.tensor(length, dtype=torch.int32)}
    with pytest.raises(ValueError, match="more than the 2 keys"):
        function(**given | asked)
