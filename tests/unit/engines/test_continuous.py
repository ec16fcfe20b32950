"""Requests come and go: what an answer says does not depend on when it came, on what is beside it, or on what was read
before it."""

from __future__ import annotations

from typing import Any

import pytest
import tiny
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from tiny_tokenizers import words
from transformers import AutoModelForCausalLM

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.models.decode.compiled import CompiledReader
from luthier.models.decode.step import PAGE
from luthier.types import Completion, Grammar, Request, Sampling

VOCABULARY = 65
COMPILED = ["llama", "mistral", "qwen2", "qwen3"]
FAMILIES = [*COMPILED, "gemma3", "gemma2", "gpt2"]
GREEDY = Sampling(max_new_tokens=24)
WARM = Sampling(max_new_tokens=24, temperature=1.2, seed=7)


def model(family: str = "llama") -> Any:
    torch.manual_seed(0)
    keys: dict[str, Any] = {"initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": None}
    keys["hidden_size"] = 64
    if family in ("mistral", "gemma3", "gemma2"):
        keys["sliding_window"] = 9
    if family in ("gemma3", "gemma2"):
        keys["layer_types"] = ["sliding_attention", "full_attention"]
    return AutoModelForCausalLM.from_config(tiny.config(family, **keys)).eval()


@pytest.fixture(params=["compiled", "layers"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each is read by the compiled step where that serves it, and by the model's own layers."""
    if request.param == "layers":
        monkeypatch.setattr(CompiledReader, "of", lambda module, kind="own": "this test asks for the other way")
    return str(request.param)


pytestmark = pytest.mark.usefixtures("way")


def engine(module: Any, **sizes: int) -> LocalEngine:
    return LocalEngine(module, words(VOCABULARY), (), **sizes)


def prompts(count: int, length: int = 40) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(3, VOCABULARY, (length + 3 * n,), generator=generator).tolist() for n in range(count)]


def asked(made: list[Completion]) -> dict[tuple[Any, int], tuple[int, ...]]:
    return {(one.request, one.index): one.sampled for one in made}


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_answers_are_transformers_own(family: str, way: str) -> None:
    module = model(family)
    one = engine(module)
    made = one.generate(prompts(5), GREEDY)
    compiled = isinstance(one._lanes[None].scheduler.reader, CompiledReader)
    assert compiled is (way == "compiled" and family in COMPILED)
    for prompt, completion in zip(prompts(5), made, strict=True):
        own = module.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)[0, len(prompt) :].tolist()
        assert list(completion.ids) == own


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pool_too_small_for_all_puts_answers_back_and_changes_none(family: str) -> None:
    module = model(family)
    roomy, tight = engine(module), engine(module, tokens=12 * PAGE)
    assert [c.ids for c in tight.generate(prompts(6), WARM)] == [c.ids for c in roomy.generate(prompts(6), WARM)]
    scheduler = tight._lanes[None].scheduler
    assert scheduler.preempted > 0, "nothing was put back: the test shows nothing"
    assert scheduler.pages.held == 0
    assert scheduler.pages.made <= 12


def test_requests_that_come_while_others_run_are_answered_as_if_alone() -> None:
    module = model()
    alone = {n: engine(module).generate([prompt], WARM)[0].ids for n, prompt in enumerate(prompts(6))}
    busy = engine(module, rows=4)
    tickets = {}
    for number, prompt in enumerate(prompts(6)):
        tickets[number] = busy.submit(Request(tuple(prompt), WARM, id=number))
        for _ in range(3):
            busy.step()
    while busy.busy:
        busy.step()
    for number, ticket in tickets.items():
        last = ticket.pieces[-1].completion
        assert last is not None and last.ids == alone[number]
        assert [piece.token for piece in ticket.pieces] == list(last.sampled)


def test_a_stream_and_a_list_are_one_mechanism() -> None:
    module = model()
    one = engine(module)
    whole = one.generate([prompts(1)[0]], GREEDY)[0].text
    pieces = one.stream(prompts(1)[0], GREEDY)
    said = [next(pieces), next(pieces)]
    between = one.generate(prompts(3), GREEDY)
    said += list(pieces)
    assert "".join(said) == whole
    assert between == engine(module).generate(prompts(3), GREEDY)


def test_what_nobody_waits_for_leaves() -> None:
    one = engine(model())
    pieces = one.stream(prompts(1)[0], GREEDY)
    next(pieces)
    assert one.busy
    pieces.close()
    one.step()
    assert not one.busy
    ticket = one.submit(Request(tuple(prompts(1)[0]), GREEDY, n=3))
    one.step()
    one.cancel(ticket)
    one.step()
    assert not one.busy and one._lanes[None].scheduler.pages.held == 0


@pytest.mark.parametrize("length", [31, 32, 33, 5])
def test_samples_of_one_prompt_read_it_once_and_draw_apart(length: int) -> None:
    module = model()
    one = engine(module)
    request = Request(tuple(prompts(1)[0][:length]), WARM, n=6)
    made = asked(list(one.run([request])))
    assert one._lanes[None].scheduler.tokens_read <= length + 6 * WARM.max_new_tokens
    assert len(set(made.values())) == 6
    few = engine(module, rows=2)  # the others come in later, and find the pages
    assert asked(list(few.run([request]))) == made
    alone = engine(module)
    assert alone.generate([request.prompt], WARM)[0].sampled == made[0, 0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3"])
def test_what_was_read_once_is_not_read_again(family: str) -> None:
    module = model(family)
    one = engine(module)
    system = prompts(1, 70)[0]
    first = one.generate([[*system, 5, 6, 7]], GREEDY)[0]
    before = one._lanes[None].scheduler.tokens_read
    turn = [*system, 5, 6, 7, *first.ids, 9, 9, 9]
    second = one.generate([turn], GREEDY)[0]
    assert one._lanes[None].scheduler.tokens_read - before <= GREEDY.max_new_tokens + 3 + PAGE
    assert second == engine(module).generate([turn], GREEDY)[0]
    assert second.cached >= 70 + 3


def test_rows_that_begin_alike_wait_for_the_one_that_reads_it() -> None:
    module = model()
    system = prompts(1, 100)[0]
    rows = [[*system, 3 + n, 4, 5] for n in range(8)]
    one = engine(module)
    made = one.generate(rows, Sampling(max_new_tokens=1))
    assert one._lanes[None].scheduler.tokens_read <= 103 + 7 * (3 + PAGE)
    assert made == [engine(module).generate([row], Sampling(max_new_tokens=1))[0] for row in rows]


def test_pages_of_old_weights_are_not_read_on() -> None:
    module = model()
    one = engine(module)
    prompt = prompts(1, 64)[0]
    one.generate([prompt], GREEDY)
    with torch.no_grad():
        module.model.layers[0].self_attn.v_proj.weight.mul_(0.5)
    assert one.generate([prompt], GREEDY) == engine(module).generate([prompt], GREEDY)
    module.model.layers[0].self_attn.v_proj.weight.data.mul_(3.0)  # behind autograd's back
    assert one.generate([prompt], GREEDY) == engine(module).generate([prompt], GREEDY)
    before = one.generate([prompt], GREEDY)[0]
    tuned = get_peft_model(module, LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    beside = engine(tuned)
    with_it = beside.generate([prompt], GREEDY)[0]
    with tuned.disable_adapter():
        assert beside.generate([prompt], GREEDY)[0].ids == before.ids
    assert beside.generate([prompt], GREEDY)[0] == with_it != before


@pytest.mark.parametrize("kind", ["prompt", "prefix"])
def test_virtual_tokens_lie_in_pages_like_any_others(kind: str) -> None:
    config: Any = {
        "prompt": PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=19),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=19),
    }[kind]
    module = get_peft_model(model(), config).eval()
    with torch.no_grad():
        for weight in module.prompt_encoder.parameters():
            weight.normal_(generator=torch.Generator().manual_seed(2))
    one = engine(module)
    made = one.generate([*prompts(3), prompts(3)[0]], GREEDY)
    for prompt, completion in zip(prompts(3), made, strict=False):
        ids = torch.tensor([[*prompt, *completion.ids]])
        with torch.no_grad():
            logits = module(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -len(completion.ids) - 1 : -1]
        assert list(completion.ids) == logits.argmax(-1).tolist()
    assert made[3] == made[0]
    assert one.generate(prompts(3), GREEDY) == made[:3]


def test_the_log_probabilities_are_the_models_own() -> None:
    module = model()
    for completion in engine(module).generate(prompts(3), Sampling(max_new_tokens=12, temperature=0.7, top_p=0.9)):
        prompt = prompts(3)[int(completion.request)]
        with torch.no_grad():
            log = module(torch.tensor([prompt + list(completion.sampled)])).logits[0].log_softmax(-1)
        own = [float(log[len(prompt) - 1 + n, token]) for n, token in enumerate(completion.sampled)]
        assert completion.logprobs == pytest.approx(own, abs=1e-5)


def test_what_cannot_be_answered_is_refused_before_anything_begins() -> None:
    one = engine(model())
    for request, said in {
        Request((), GREEDY): "empty prompt",
        Request((1, 99), GREEDY): "no token 99",
        Request((1,), GREEDY, n=0): "asks for 0 answers",
        Request((1,), GREEDY, adapter="nobody"): "no adapter 'nobody'",
        Request((1,) * 256, GREEDY): "context ends at 256",
    }.items():
        with pytest.raises(LuthierError, match=said):
            one.run([Request((1, 2), GREEDY), request])
        assert not one.busy


def test_a_row_that_cannot_go_on_is_told_and_the_others_end() -> None:
    module = model()
    one = engine(module)
    good = one.submit(Request(tuple(prompts(1)[0]), GREEDY))
    with torch.no_grad():
        module.model.embed_tokens.weight[64] = torch.nan
    bad = one.submit(Request((5, 6, 64), GREEDY))
    while one.busy:
        one.step()
    assert "NaN" in str(bad.error) and good.error is None
    assert good.pieces[-1].completion is not None
    assert one._lanes[None].scheduler.pages.held == 0
    with pytest.raises(LuthierError, match="NaN"):
        one.generate([[5, 6, 64]], GREEDY)


def test_callers_bring_each_other_on_and_none_waits_for_ever() -> None:
    module = model()
    one = engine(module, rows=1)
    alone = engine(module).generate(prompts(5), GREEDY)
    first = one.run([Request(tuple(prompt), GREEDY, id=place) for place, prompt in enumerate(prompts(4))])
    answers = [next(first)]
    between = one.generate(prompts(5)[4:], GREEDY)
    said = "".join(one.stream(prompts(1)[0], GREEDY))
    answers += list(first)
    assert {c.request: c.ids for c in answers} == {place: alone[place].ids for place in range(4)}
    assert between[0].ids == alone[4].ids and said == alone[0].text
    assert not one.busy


def test_a_request_that_is_refused_late_leaves_none_under_way() -> None:
    one = engine(model())
    bad = Sampling(max_new_tokens=4, grammar=Grammar("regex", "("))
    with pytest.raises(LuthierError):
        list(one.run([Request((5, 6), GREEDY), Request((5, 6), bad)]))
    one.step()
    assert not one.busy and not one._tickets


def test_a_model_that_was_cast_or_scaled_is_read_as_it_is_by_now() -> None:
    module = model()
    one = engine(module)
    prompt = prompts(1, 64)[0]
    before = one.generate([prompt], GREEDY)
    module.to(torch.bfloat16)
    assert one.generate([prompt], GREEDY) == engine(module).generate([prompt], GREEDY)
    module.to(torch.float32)
    tuned = get_peft_model(module, LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False)).eval()
    beside = engine(tuned)
    live = beside.generate([prompt], GREEDY)
    for layer in module.model.layers:
        layer.self_attn.v_proj.scaling["default"] = 9.0
    scaled = beside.generate([prompt], GREEDY)
    assert scaled == engine(tuned).generate([prompt], GREEDY) and before != scaled != live
    tuned.merge_adapter()
    assert beside.generate([prompt], GREEDY)[0].ids == scaled[0].ids


def test_settings_that_mean_nothing_are_refused() -> None:
    module = model()
    for settings in ({"rows": 0}, {"tokens": 0}, {"row": 4}, {"weights": "int4"}):
        with pytest.raises(ValueError, match=r"engine|weights"):
            engine(module, **settings)  # type: ignore[arg-type]
