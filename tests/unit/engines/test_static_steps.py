"""Steps in shapes that stay give what the ordinary steps give, whatever fills them up, and forget what no longer holds.

On CPU they are computed anew each time; with a CUDA device, recorded and played.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, get_peft_model
from tiny_tokenizers import words
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from luthier.engines import LocalEngine
from luthier.engines.local import static
from luthier.engines.local.paged import PagedReader
from luthier.engines.local.static import StaticSteps
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.step import PAGE, Run
from luthier.types import Sampling

FAMILIES = ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2"]
LENGTHS = [1, 9, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE - 1, 3 * PAGE]
"""Of prompts: their answers begin at, before and after a page's edge, and cross one."""
EXACT: dict[str, Any] = {"atol": 1e-5, "rtol": 1e-5}


def model(family: str = "llama", **keys: Any) -> Any:
    torch.manual_seed(0)
    keys = {"initializer_range": 0.15, "hidden_size": 64, "pad_token_id": 0, "eos_token_id": None, **keys}
    if family in ("mistral", "gemma3"):
        keys["sliding_window"] = 9
    if family == "gemma3":
        keys["layer_types"] = ["sliding_attention", "full_attention"]
    return AutoModelForCausalLM.from_config(tiny.config(family, **keys)).eval()


def reader(module: Any, *, record: bool = False) -> PagedReader:
    """A reader whose steps of single tokens are static, recorded or not."""
    found = PagedReader(module)
    found.static = StaticSteps(module, module, found._pool, record=record)
    return found


class Sequences:
    """Sequences that grow by tokens drawn beforehand, each in pages that lie anywhere."""

    def __init__(self, lengths: list[int], room: int = 6) -> None:
        draw = torch.Generator().manual_seed(1)
        self.ids = [torch.randint(1, tiny.VOCABULARY, (room * PAGE,), generator=draw).tolist() for _ in lengths]
        self.lengths = list(lengths)
        self.pages = torch.randperm(room * len(lengths), generator=draw).view(len(lengths), room).tolist()

    def prompts(self) -> list[Run]:
        return [Run(self.ids[n][:length], 0, self._held(n, length), True) for n, length in enumerate(self.lengths)]

    def step(self, rows: list[int]) -> list[Run]:
        """One more token of these."""
        runs = []
        for n in rows:
            at = self.lengths[n]
            runs.append(Run(self.ids[n][at : at + 1], at, self._held(n, at + 1), True))
            self.lengths[n] += 1
        return runs

    def _held(self, n: int, length: int) -> list[int]:
        return self.pages[n][: -(-length // PAGE)]


def begun(one: PagedReader, sequences: Sequences, pages: int = 48) -> None:
    """Read the prompts, and put what is no number wherever they do not lie."""
    one.grow(pages)
    one.read(sequences.prompts())
    filled = [slot for run in sequences.prompts() for slot in _slots(run)]
    empty = torch.ones(len(one._pool.of(0, torch.empty(0), torch.empty(0))[0]), dtype=torch.bool)
    empty[filled] = False
    empty[one._pool.spare * PAGE :] = False  # the page that is nobody's
    for pools in one._pool._layers.values():
        for pool in pools:
            pool[empty.to(pool.device)] = torch.nan


def _slots(run: Run) -> list[int]:
    end = run.start + len(run.ids)
    return [run.pages[at // PAGE] * PAGE + at % PAGE for at in range(end)]


@pytest.mark.parametrize("family", FAMILIES)
def test_static_steps_give_what_ordinary_ones_give(family: str) -> None:
    module = model(family)
    mine, theirs = Sequences(LENGTHS), Sequences(LENGTHS)
    one, own = reader(module), PagedReader(module)
    begun(one, mine)
    begun(own, theirs)
    assert one.static is not None
    everyone = list(range(len(LENGTHS)))
    for rows in (everyone, everyone, everyone[:3], [5], *[everyone[::-1]] * 20):
        before = one._pool._layers[0][0].clone()
        runs = mine.step(rows)
        mine_WV, own_WV = one.read(runs), own.read(theirs.step(rows))
        assert torch.allclose(mine_WV, own_WV, **EXACT)
        changed = (one._pool._layers[0][0] - before).nan_to_num(9.0).flatten(1).any(1) & ~_both_nan(one, before)
        written = set(changed.nonzero().flatten().tolist())
        assert {_slots(run)[-1] for run in runs} <= written
        assert all(slot // PAGE == one._pool.spare for slot in written - {_slots(run)[-1] for run in runs})
    assert one.static.why is None
    assert one.static.shapes == [(4, 16), (1, 16), (8, 16)]
    for (keys, values), (own_keys, own_values) in zip(
        one._pool._layers.values(), own._pool._layers.values(), strict=True
    ):
        for mine_S, own_S in ((keys, own_keys), (values, own_values)):
            end = one._pool.spare * PAGE
            assert torch.allclose(mine_S[:end], own_S[:end], equal_nan=True, **EXACT)


def _both_nan(one: PagedReader, before: torch.Tensor) -> torch.Tensor:
    return (one._pool._layers[0][0].isnan() & before.isnan()).flatten(1).all(1)


@contextmanager
def engines_static(monkeypatch: pytest.MonkeyPatch, record: bool = False) -> Iterator[list[StaticSteps]]:
    """Engines opened inside read steps of single tokens so; gives those that were made."""
    made: list[StaticSteps] = []
    init = PagedReader.__init__

    def with_steps(self: PagedReader, module: Any) -> None:
        init(self, module)
        self.static = StaticSteps(module, self._model, self._pool, record=record)
        made.append(self.static)

    with monkeypatch.context() as patch:
        patch.setattr(CompiledReader, "of", lambda module, kind="own": "this test asks for the other way")
        patch.setattr(PagedReader, "__init__", with_steps)
        yield made


def _answers(module: Any, **sizes: int) -> list[tuple[int, ...]]:
    draw = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, 64, (40 + 3 * n,), generator=draw).tolist() for n in range(6)]
    engine = LocalEngine(module, words(65), (), **sizes)
    made = engine.generate(prompts, Sampling(max_new_tokens=40, temperature=1.2, seed=7))
    preempted = engine._lanes[None].scheduler.preempted
    assert bool(preempted) is bool(sizes), "rows were to be put back where pages are few, and there alone"
    return [one.ids for one in made]


@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_answers_alike_with_rows_put_back(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = model(family)
    own = _answers(module)
    with engines_static(monkeypatch) as made:
        assert _answers(module) == own
        assert _answers(module, tokens=16 * PAGE) == own
    assert [steps.why for steps in made] == [None, None] and all(steps.shapes for steps in made)


@pytest.mark.parametrize("way", ["ordinary", "static"])
def test_what_is_no_number_stays_with_its_row(way: str) -> None:
    one = reader(model()) if way == "static" else PagedReader(model())
    one.grow(4)
    one.read([Run([5] * 40, 0, [0, 1, 2], True), Run([6] * 3, 0, [3], True)])
    _, values = one._pool._layers[0]
    values[3 * PAGE : 3 * PAGE + 3] = torch.nan  # of the short row
    for at in range(2):
        long, short = one.read([Run([7], 40 + at, [0, 1, 2], True), Run([7], 3 + at, [3], True)])
        assert long.isfinite().all() and short.isnan().all()
    for pools in one._pool._layers.values():
        for pool in pools:
            pool[3 * PAGE :] = 1.0
    values[:40] = torch.nan  # of the long one
    for at in range(2):
        long, short = one.read([Run([7], 42 + at, [0, 1, 2], True), Run([7], 5 + at, [3], True)])
        assert long.isnan().all() and short.isfinite().all()


def test_only_steps_of_single_tokens_are_served() -> None:
    one = reader(model())
    one.grow(8)
    single = Run([5], 0, [0], True)
    steps = one.static
    assert steps is not None
    assert steps.serves([single]) and steps.serves([single] * static.ROWS)
    assert not steps.serves([])
    assert not steps.serves([single] * (static.ROWS + 1))
    assert not steps.serves([single, Run([5, 6], 0, [1], True)])
    assert not steps.serves([single, Run([5], 0, [1], False)])
    assert not steps.serves([single, Run([-1], 0, [1], True)])


def test_shapes_are_filled_up_and_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    one = reader(model())
    sequences = Sequences([1] * 9, room=17)
    begun(one, sequences, 17 * 9)
    assert one.static is not None
    for rows in (1, 2, 3, 4, 5, 8, 9):
        one.read(sequences.step(list(range(rows))))
    assert one.static.shapes == [(1, 16), (2, 16), (4, 16), (8, 16), (16, 16)]
    held = one.static.bytes
    assert held == sum(rows * (2 + 16) * 8 + rows * 65 * 4 for rows in (1, 2, 4, 8, 16))
    one.read([Run([5], 16 * PAGE, sequences.pages[0], True)])  # a seventeenth page
    assert one.static.shapes[-1] == (1, 32)
    monkeypatch.setattr(static, "SHAPES", 6)
    one.read(sequences.step([0, 1]))
    one.read([Run([5], 16 * PAGE, page, True) for page in sequences.pages[:2]])
    assert one.static.shapes == [(4, 16), (8, 16), (16, 16), (1, 32), (2, 16), (2, 32)]


def test_what_no_longer_holds_is_forgotten_and_training_in_place_is_not_that() -> None:
    module = get_peft_model(model(), LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)).eval()
    one = PagedReader(module)
    steps = one.static = StaticSteps(module, module.get_base_model(), one._pool, record=False)
    sequences = Sequences([1])
    begun(one, sequences)
    down = module.base_model.model.model.layers[0].self_attn.v_proj.lora_A["default"]

    def forgot() -> bool:
        one.read(sequences.step([0]))
        return step is not steps._steps[1, 16]

    one.read(sequences.step([0]))
    step = steps._steps[1, 16]
    assert not forgot()
    with torch.no_grad():
        down.weight.mul_(2.0)
    one.refresh()
    assert not forgot()

    down.weight = torch.nn.Parameter(down.weight.detach().clone())  # seen without being told
    assert forgot()
    step = steps._steps[1, 16]
    one.grow(1000)  # the pool moves
    assert forgot()
    step = steps._steps[1, 16]
    module.base_model.model.model.rotary_emb.inv_freq = module.base_model.model.model.rotary_emb.inv_freq.clone()
    assert forgot()
    for change in (
        lambda: module.base_model.model.model.layers[0].self_attn.v_proj.scaling.update(default=9.0),
        lambda: module.base_model.disable_adapter_layers(),
        lambda: module.base_model.model.model.layers[0].register_forward_hook(lambda *a: None),
        lambda: module.base_model.enable_adapter_layers(),
        lambda: module.merge_adapter(),
    ):
        step = steps._steps[1, 16]
        change()
        one.refresh()
        assert forgot()


def test_a_model_whose_static_steps_differ_is_read_in_the_ordinary_way(caplog: pytest.LogCaptureFixture) -> None:
    module = model()
    mine, theirs = Sequences([9, 20]), Sequences([9, 20])
    one, own = reader(module), PagedReader(module)
    begun(one, mine)
    begun(own, theirs)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static, "paged_attention", lambda query, *rest: torch.zeros_like(query))
        assert torch.equal(one.read(mine.step([0, 1])), own.read(theirs.step([0, 1])))
    assert one.static is not None and "% off" in str(one.static.why) and "% off" in caplog.text
    assert torch.equal(one.read(mine.step([0, 1])), own.read(theirs.step([0, 1])))
    assert one.static.shapes == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="here steps can be recorded")
def test_a_model_that_cannot_be_recorded_is_read_in_the_ordinary_way(caplog: pytest.LogCaptureFixture) -> None:
    module = model()
    mine, theirs = Sequences([9, 20]), Sequences([9, 20])
    one, own = reader(module), PagedReader(module)
    begun(one, mine)
    begun(own, theirs)
    assert one.static is not None
    one.static.refresh()  # the pool has grown
    one.static._record = True  # on a machine where nothing can be
    for _ in range(2):
        assert torch.equal(one.read(mine.step([0, 1])), own.read(theirs.step([0, 1])))
    assert one.static.why is not None and one.static.shapes == []
    assert caplog.text.count("without CUDA graphs") == 1


class _Nothing(TorchDispatchMode):
    """Refuses what looks at numbers, or brings some from the host, in the middle of a step: no graph holds it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.name().split("::")[-1].split(".")[0]
        waits = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "lift_fresh", "lift"}
        assert name not in waits, f"{name} cannot be recorded"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_in_a_step_waits_for_the_device(family: str) -> None:
    one = reader(model(family))
    sequences = Sequences(LENGTHS)
    begun(one, sequences)
    one.read(sequences.step([0, 1, 2]))
    assert one.static is not None
    step = one.static._steps[4, 16]
    with torch.no_grad(), _Nothing():
        one.static._forward(step)
    with torch.no_grad(), _Nothing(), pytest.raises(AssertionError, match="cannot be recorded"):
        one._read(sequences.step([0]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_recorded_gives_what_is_computed(family: str, dtype: torch.dtype) -> None:
    module = model(family).to("cuda", dtype)
    mine, theirs = Sequences(LENGTHS), Sequences(LENGTHS)
    one, eager = PagedReader(module), reader(module)
    begun(one, mine)
    begun(eager, theirs)
    assert one.static is not None
    everyone = list(range(len(LENGTHS)))
    for rows in (everyone, everyone, everyone[:3], [5], *[everyone[::-1]] * 20):
        mine_WV, their_WV = one.read(mine.step(rows)), eager.read(theirs.step(rows))
        assert torch.allclose(mine_WV, their_WV, **(EXACT if dtype is torch.float32 else {"atol": 0.2, "rtol": 0.05}))
    assert one.static.why is None and all(step.graph is not None for step in one.static._steps.values())
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(0.9)  # in place: what was recorded reads the new numbers
    assert torch.allclose(one.read(mine.step([0])), eager.read(theirs.step([0])), atol=0.05, rtol=0.05)
