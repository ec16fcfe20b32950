"""Tokens are drawn from the distribution that was asked for, each row's from its own logits and state alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from luthier.engines import drawing
from luthier.engines.choice import WORD, Choice, Drawn, NoToken, check, choose
from luthier.errors import LuthierError
from luthier.models.blocks.kernels import sample
from luthier.types import Sampling

WARM = Sampling(temperature=1.0)
needs_compiler = pytest.mark.skipif(not sample.serves(), reason="no C compiler")


class Mask:
    """A grammar whose mask is given, or drawn anew for each token."""

    def __init__(self, allowed: Sequence[int] | None = None, *, vocabulary: int = 64, seed: int = 0) -> None:
        self.random, self.words = np.random.default_rng(seed), (vocabulary + 31) // 32
        self.allowed, self.accepted = allowed, list[int]()

    def mask(self) -> Any:
        bits = np.zeros(self.words * 32, np.uint8)
        if self.allowed is None:
            bits = (np.random.default_rng(len(self.accepted)).random(len(bits)) < 0.5).astype(np.uint8)
            bits[0] = 1
        else:
            bits[list(self.allowed)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)

    def accept(self, token: int) -> None:
        self.accepted.append(token)


def one(logits: Sequence[float], choice: Choice) -> Drawn:
    return choose(torch.tensor([logits]), [choice])[0]


@pytest.fixture(params=["compiled", "numpy"])
def both(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the kernel, once without."""
    if request.param == "numpy":
        monkeypatch.setattr(sample, "serves", lambda: False)
    elif not sample.serves():
        pytest.skip("no C compiler")


# what is drawn from
PROBABILITY = [0.5, 0.25, 0.15, 0.1]
THIRDS = [2 / 3, 1 / 3, 0, 0]
CASES: list[tuple[dict[str, Any], list[float]]] = [
    ({}, PROBABILITY),
    ({"top_k": 2}, THIRDS),
    ({"top_p": 0.7}, THIRDS),  # 0.5 + 0.25 reaches 0.7; the third token is out
    ({"top_p": 0.76}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
    ({"temperature": 0.5}, [0.25 / 0.345, 0.0625 / 0.345, 0.0225 / 0.345, 0.01 / 0.345]),  # squares, normalised
    ({"top_k": 3, "top_p": 0.8}, THIRDS),  # 0.75 of the 0.9 of three tokens is more than 0.8 of it
    ({"top_k": 3, "top_p": 0.84}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),  # and less than 0.84
    ({"min_p": 0.4}, THIRDS),  # 0.15 is less than 0.4 times 0.5
    ({"min_p": 0.29}, [5 / 9, 2.5 / 9, 1.5 / 9, 0]),
    ({"min_p": 1.0}, [1, 0, 0, 0]),
    ({"top_k": 3, "top_p": 0.84, "min_p": 0.4}, THIRDS),
    ({"top_p": 0.76, "min_p": 0.6}, [1, 0, 0, 0]),
    ({"top_k": 9, "top_p": 0.999999}, PROBABILITY),
    ({"temperature": 0.25, "min_p": 0.05}, [0.9411765, 0.0588235, 0, 0]),  # 16 to 1; the third has 0.0081
]


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(("asked", "expected"), CASES)
def test_draws_follow_the_distribution_by_chi_square(asked: dict[str, Any], expected: list[float]) -> None:
    rows, steps = 50, 40
    logits = torch.tensor(PROBABILITY).log().repeat(rows, 1) + 3
    choices = [Choice(replace(WARM, seed=7, **asked), [0], row) for row in range(rows)]
    drawn = [each for _ in range(steps) for each in choose(logits, choices)]
    for each in drawn:
        assert expected[each.token] > 0
        assert each.drawn == pytest.approx(math.log(expected[each.token]), abs=1e-6)
        assert each.logp == pytest.approx(math.log(PROBABILITY[each.token]), abs=1e-6)
    counts = np.bincount([each.token for each in drawn], minlength=4)
    wanted = np.array(expected) * rows * steps
    there = wanted > 0
    square = float(((counts - wanted)[there] ** 2 / wanted[there]).sum())
    freedom = int(there.sum()) - 1
    assert square <= freedom + 5 * math.sqrt(2 * freedom), counts


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("asked", [{}, {"top_p": 0.9}, {"top_k": 500}, {"min_p": 0.01}, {"temperature": 2.0}])
def test_a_wide_vocabulary_by_chi_square(asked: dict[str, Any]) -> None:
    """Two thousand tokens of 3,000, in the order of their ids and of their likelihood: their tenths come as often."""
    size, rows, steps = 3000, 40, 20
    logits_V = torch.randn(size, generator=torch.Generator().manual_seed(3))
    choices = [Choice(replace(WARM, seed=1, **asked), [0], row) for row in range(rows)]
    drawn = [each for _ in range(steps) for each in choose(logits_V.repeat(rows, 1), choices)]
    weight_V = (logits_V.double() / asked.get("temperature", 1.0)).softmax(-1).numpy()
    order_V = np.argsort(-weight_V)
    kept = size
    if "top_p" in asked:
        kept = int((weight_V[order_V].cumsum() < asked["top_p"]).sum()) + 1
    if "top_k" in asked:
        kept = asked["top_k"]
    if "min_p" in asked:
        kept = int((weight_V >= asked["min_p"] * weight_V.max()).sum())
    weight_V[order_V[kept:]] = 0
    weight_V /= weight_V.sum()
    for each in drawn:
        assert each.drawn == pytest.approx(math.log(weight_V[each.token]), abs=1e-5)
    for order in (np.arange(size), order_V):
        tenth = np.minimum(weight_V[order].cumsum() * 10, 9.999).astype(int)
        place = np.empty(size, int)
        place[order] = tenth
        counts = np.bincount(place[[each.token for each in drawn]], minlength=10)
        wanted = np.bincount(tenth, weights=weight_V[order], minlength=10) * rows * steps
        assert float(((counts - wanted) ** 2 / wanted).sum()) < 9 + 5 * math.sqrt(18)


@pytest.mark.usefixtures("both")
def test_a_flat_vocabulary_is_cut_at_its_mass() -> None:
    choices = [Choice(replace(WARM, top_p=0.9, seed=0), [0], row) for row in range(300)]
    drawn = choose(torch.zeros(300, 5000), choices)
    assert max(each.token for each in drawn) in range(4000, 4500), "the lowest tokens come first among equals"
    assert all(each.drawn == pytest.approx(-math.log(4500), abs=1e-6) for each in drawn)


def test_a_seed_and_a_number_are_one_stream_of_draws() -> None:
    """As they always were: Philox keyed by the seed's two words and the number, one number a token."""
    seed, number, size = 5 + 3 * WORD, 9, 1000
    stream = np.random.Generator(np.random.Philox(key=[5, 3 + number * WORD]))
    choice = Choice(replace(WARM, seed=seed), [0], number)
    for _ in range(20):
        assert one([0.0] * size, choice).token == int(stream.random() * size)


# what changes the logits
def logp(logits: Sequence[float], token: int) -> float:
    return float(torch.tensor(logits, dtype=torch.float64).log_softmax(-1)[token])


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize(
    ("asked", "generated", "expected"),
    [
        ({"repetition_penalty": 2.0}, [], [1.0, -2.0, 1.0, 0.0]),  # the prompt has 0 and 1
        ({"repetition_penalty": 2.0}, [2, 2], [1.0, -2.0, 0.5, 0.0]),
        ({"presence_penalty": 0.75}, [], [2.0, -1.0, 1.0, 0.0]),
        ({"presence_penalty": 0.75}, [2, 2, 1], [2.0, -1.75, 0.25, 0.0]),
        ({"frequency_penalty": 0.75}, [2, 2, 1], [2.0, -1.75, -0.5, 0.0]),
        ({"frequency_penalty": -0.5, "presence_penalty": 0.25}, [3, 3, 3], [2.0, -1.0, 1.0, 1.25]),
        ({"logit_bias": ((3, 4.0), (0, -1.0))}, [3], [1.0, -1.0, 1.0, 4.0]),
        # bias first: 2 - 3 is negative and doubles; then 0.5 and twice 0.25 come off
        (
            {"logit_bias": ((0, -3.0),), "repetition_penalty": 2.0, "presence_penalty": 0.5, "frequency_penalty": 0.25},
            [0, 0],
            [-3.0, -2.0, 1.0, 0.0],
        ),
    ],
)
def test_bias_and_penalties_by_hand(asked: dict[str, Any], generated: list[int], expected: list[float]) -> None:
    logits = [2.0, -1.0, 1.0, 0.0]
    for seed in range(8):
        choice = Choice(replace(WARM, seed=seed, **asked), [0, 1, 0], 0)
        for token in generated:
            forced = [-90.0] * 4
            forced[token] = 1e7
            assert one(forced, choice).token == token
        drawn = one(logits, choice)
        assert drawn.drawn == pytest.approx(logp(expected, drawn.token), abs=1e-6)
        assert drawn.logp == pytest.approx(logp(logits, drawn.token), abs=1e-6)
    greedy = Choice(Sampling(temperature=0.0, **asked), [0, 1, 0], 0)
    for token in generated:
        one([1e7 if place == token else -90.0 for place in range(4)], greedy)
    assert one(logits, greedy).token == expected.index(max(expected))


def test_counts_outgrow_their_room() -> None:
    choice = Choice(Sampling(temperature=0.0, presence_penalty=1.0), [0], 0)
    assert sorted(one([0.0] * 300, choice).token for _ in range(300)) == list(range(300)), "each was new once"


@pytest.mark.usefixtures("both")
def test_a_grammar_rules_tokens_out_before_anything_is_cut_off() -> None:
    logits = [5.0, 4.0, 3.0, 2.0]
    for asked in ({}, {"top_k": 1}, {"top_p": 0.5}, {"min_p": 1.0}):
        grammar = Mask([2, 3])
        drawn = one(logits, Choice(replace(WARM, **asked), [0], 0, grammar))  # type: ignore[arg-type]
        assert drawn.token in (2, 3) and grammar.accepted == [drawn.token]
        assert drawn.drawn == pytest.approx(0 if asked else logp([3.0, 2.0], drawn.token - 2), abs=1e-6)
        assert drawn.logp == pytest.approx(logp(logits, drawn.token), abs=1e-6)
    assert one(logits, Choice(Sampling(), [0], 0, Mask([2, 3]))).token == 2  # type: ignore[arg-type]


@pytest.mark.usefixtures("both")
def test_the_likeliest_takes_the_lowest_of_equals() -> None:
    for logits in ([1.0, 3.0, 3.0], [-0.0, 0.0], [0.0, -0.0], [-5.0, -1.0, -1.0]):
        drawn = one(logits, Choice(Sampling(temperature=0.0), [0], 0))
        assert drawn.token == logits.index(max(logits)) and drawn.drawn == 0
        assert drawn.logp == pytest.approx(logp(logits, drawn.token), abs=1e-6)
    assert one([-0.0, 0.0], Choice(replace(WARM, top_k=1), [0], 0)).token == 0


@pytest.mark.usefixtures("both")
def test_the_likeliest_tokens_are_the_models_own() -> None:
    logits = [0.0, 3.0, -math.inf, 3.0, 1.0, -math.inf]
    sampling = Sampling(temperature=0.0, top_logprobs=20, logit_bias=((0, 9.0),))
    drawn = one(logits, Choice(sampling, [0], 0))
    assert drawn.token == 0
    assert [token for token, _ in drawn.top] == [1, 3, 4, 0], "what cannot come is left out"
    assert [value for _, value in drawn.top] == pytest.approx([logp(logits, token) for token in (1, 3, 4, 0)])
    wide = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    top = choose(wide, [Choice(Sampling(top_logprobs=20), [0], 0)])[0].top
    order = np.argsort(-wide[0].numpy(), kind="stable")[:20]
    assert [token for token, _ in top] == order.tolist()
    assert not choose(wide, [Choice(Sampling(), [0], 0)])[0].top


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("temperature", [1e-30, 1e-3, 1e3, 1e30, 1e300])
def test_any_temperature_is_a_distribution(temperature: float) -> None:
    tokens = {
        one([1.0, 2.0, -math.inf], Choice(Sampling(temperature=temperature, seed=s), [], 0)).token for s in range(9)
    }
    assert tokens == ({1} if temperature < 1 else {0, 1})


# rows and their company
def mixed(size: int, count: int, seed: int = 0) -> list[Choice]:
    """Rows that differ in everything."""
    draw, made = np.random.default_rng(seed), []

    def any_of(*values: float) -> Any:
        return values[draw.integers(len(values))]

    for row in range(count):
        sampling = Sampling(
            temperature=any_of(0.0, 0.3, 1.0, 1.0, 2.0),
            top_p=any_of(1.0, 0.9, 0.5, 0.999),
            top_k=any_of(0, 0, 1, 5, 50, 5000),
            min_p=any_of(0.0, 0.0, 0.05, 0.5, 1e-6),
            repetition_penalty=any_of(1.0, 1.3, 0.8),
            presence_penalty=any_of(0.0, 0.5),
            frequency_penalty=any_of(0.0, -0.5, 0.7),
            logit_bias=tuple((int(t), float(draw.normal() * 5)) for t in draw.permutation(size)[: row % 3]),
            top_logprobs=any_of(0, 3, 20),
            seed=int(draw.integers(2**40)),
        )
        grammar: Any = Mask(vocabulary=size) if row % 5 == 0 else None
        made.append(Choice(sampling, [1, 0, 1], row, grammar))
    return made


def rows_of(size: int, count: int, seed: int, spread: float) -> Tensor:
    logits_BV = torch.randn(count, size, generator=torch.Generator().manual_seed(seed)) * spread
    logits_BV[: count // 3] = logits_BV[: count // 3].round()  # equal ones
    return logits_BV


@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("size", [2, 257, 5003])
def test_what_a_row_gets_hangs_on_nothing_beside_it(size: int) -> None:
    count = 24
    steps = [rows_of(size, count, seed, 2.0) for seed in range(3)]
    together, alone = mixed(size, count), mixed(size, count)
    turned, threads = mixed(size, count), torch.get_num_threads()
    order = np.random.default_rng(0).permutation(count)
    for logits_BV in steps:
        torch.set_num_threads(2)
        drawn = choose(logits_BV, together)
        torch.set_num_threads(threads)
        # apart, their logits lying otherwise in memory
        assert drawn == [choose(logits_BV[row : row + 1].clone(), [alone[row]])[0] for row in range(count)]
        strided = torch.zeros(count, size + 3)[:, 3:]
        strided[:] = logits_BV[order]
        assert [drawn[row] for row in order] == choose(strided, [turned[row] for row in order])


@needs_compiler
@pytest.mark.parametrize(
    ("size", "spread"), [(2, 1.0), (33, 3.0), (1000, 0.01), (3001, 1.0), (3001, 10.0), (20000, 2.0)]
)
def test_the_kernel_is_the_reference(size: int, spread: float) -> None:
    count = 32
    fast, plain = mixed(size, count, seed=size), mixed(size, count, seed=size)
    for seed in range(3):
        logits_BV = rows_of(size, count, seed, spread)
        drawn = choose(logits_BV, fast)
        for row in range(count):
            plain[row].ready(size)
            drawing.draw(logits_BV[row].numpy(), plain[row])
            mine, theirs = drawn[row], plain[row].advance()
            assert mine.token == theirs.token, (row, plain[row].sampling)
            assert mine.logp == pytest.approx(theirs.logp, abs=3e-6)
            assert mine.drawn == pytest.approx(theirs.drawn, abs=3e-6)
            assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]
            assert [p for _, p in mine.top] == pytest.approx([p for _, p in theirs.top], abs=3e-6)


def test_logits_in_16_bits_are_taken_as_they_are() -> None:
    logits_BV = rows_of(300, 8, 0, 2.0).bfloat16()
    assert choose(logits_BV, mixed(300, 8)) == choose(logits_BV.float(), mixed(300, 8))
    assert choose(torch.zeros(0, 5), []) == []
    with pytest.raises(ValueError, match="of 2 rows"):
        choose(logits_BV, mixed(300, 2))


# what cannot be
@pytest.mark.usefixtures("both")
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.nan, None])
def test_logits_that_are_no_numbers_are_told_by_row_and_nothing_moves(bad: float | None) -> None:
    logits_BV = rows_of(100, 6, 0, 1.0)
    logits_BV[2, 50] = math.nan if bad is None else bad
    logits_BV[4] = -math.inf if bad is None else bad
    choices = mixed(100, 6)
    with pytest.raises(NoToken, match="no numbers") as told:
        choose(logits_BV, choices)
    assert told.value.rows == (2, 4)
    kept = [0, 1, 3, 5]
    left = choose(logits_BV[kept], [choices[row] for row in kept])
    fresh = mixed(100, 6)
    assert left == choose(logits_BV[kept], [fresh[row] for row in kept])


@pytest.mark.usefixtures("both")
def test_a_grammar_that_leaves_nothing_is_told_by_row() -> None:
    choices = [Choice(WARM, [0], 0), Choice(WARM, [0], 1, Mask([])), Choice(WARM, [0], 2, Mask([1]))]  # type: ignore[arg-type]
    with pytest.raises(NoToken, match="no token can come") as told:
        choose(torch.zeros(3, 40), choices)
    assert told.value.rows == (1,)
    logits_BV = torch.zeros(3, 40)
    logits_BV[2, 1] = -math.inf  # the only one that may come
    with pytest.raises(NoToken) as told:
        choose(logits_BV, choices)
    assert told.value.rows == (1, 2)


def test_tokens_and_masks_beyond_the_vocabulary_are_refused() -> None:
    outside = Sampling(logit_bias=((64, 1.0),))
    for choice in (
        Choice(outside, [0], 0),
        Choice(Sampling(repetition_penalty=2.0), [64], 0),
        Choice(Sampling(repetition_penalty=2.0), [-1], 0),
        Choice(WARM, [0], 0, Mask([1], vocabulary=32)),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match="choose: "):
            choose(torch.zeros(1, 64), [choice])


WRONG: list[tuple[str, Any]] = [
    *(("temperature", x) for x in (math.nan, -0.1, math.inf, "1", True, None, 10**400)),
    *(("top_p", x) for x in (0.0, 1.1, -1.0, math.nan)),
    *(("top_k", x) for x in (-1, 1.5, math.nan)),
    *(("min_p", x) for x in (-0.1, 1.1, math.nan)),
    *(("repetition_penalty", x) for x in (0.0, -1.0, math.inf, math.nan)),
    *(("presence_penalty", x) for x in (math.inf, math.nan, -1e9)),
    *(("frequency_penalty", x) for x in (-math.inf, math.nan)),
    *(("logit_bias", ((x, 1.0),)) for x in (-1, 64, 1.5)),
    *(("logit_bias", ((3, x),)) for x in (math.nan, math.inf, "a")),
    ("logit_bias", ((3, 1.0), (3, 2.0))),
    *(("stop_ids", (x,)) for x in (-1, 64)),
    *(("stop", x) for x in ("end", ("",), (3,))),
    *(("top_logprobs", x) for x in (-1, 21, 2.5)),
    *(("max_new_tokens", x) for x in (0, -3, 2.0)),
    ("seed", 0.5),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_values_that_cannot_be_are_named(field: str, value: Any) -> None:
    with pytest.raises(LuthierError, match=field) as told:
        check(replace(Sampling(), **{field: value}), 64)
    assert told.value.fix


def test_values_that_can_be_pass() -> None:
    check(Sampling(), 64)
    check(Sampling(temperature=1, top_p=1, seed=2**63, logit_bias=((63, -100), (0, 5.5)), stop_ids=(63,)), 64)
    check(Sampling(temperature=2.5, top_k=99999, min_p=1, top_logprobs=20, stop=("a", "\n")), 64)
