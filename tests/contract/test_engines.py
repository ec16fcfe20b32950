"""What every engine promises: each completion asked for, the same whatever is asked beside it, as likely as it says."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import words

from luthier.engines import ENGINES
from luthier.errors import LuthierError
from luthier.types import Completion, Encoded, Engine, Request, Sampling

STOP = 5
PROMPTS = [(7, 8, 9, 10, *range(20, 20 + length)) for length in (1, 9, 30, 9, 4)]
GREEDY = Sampling(max_new_tokens=16)
WARM = Sampling(max_new_tokens=16, temperature=1.3, seed=3)
Open = Callable[..., Engine]


def model(lora: bool = False) -> Any:
    """A model whose words are not all alike."""
    module: Any = tiny.lora() if lora else tiny.model()
    torch.manual_seed(2)
    for parameter in module.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.25)
    return module.eval()


HERE = [name for name in ENGINES.names() if not ENGINES.get(name).elsewhere]
"""Engines on a model in memory. Those with weights of their own have their tests in tests/unit/engines."""


@pytest.fixture(params=HERE)
def opened(request: pytest.FixtureRequest) -> Open:
    def make(module: Any = None) -> Engine:
        policy = tiny.Policy(model() if module is None else module, words(tiny.VOCABULARY + 1))
        return ENGINES.build(request.param).open(policy, {STOP})

    return make


@pytest.fixture
def adapters(tmp_path: Path) -> list[str]:
    """Folders of two LoRA adapters that fit the model."""
    folders = []
    for seed in (1, 2):
        made = tiny.lora(seed)
        made.save_pretrained(tmp_path / f"adapter-{seed}")
        folders.append(str(tmp_path / f"adapter-{seed}"))
    return folders


def requests() -> list[Request]:
    made = [Request(prompt, GREEDY, id=f"greedy {n}") for n, prompt in enumerate(PROMPTS)]
    made += [Request(prompt, replace(WARM, seed=n), n=3, id=f"warm {n}") for n, prompt in enumerate(PROMPTS)]
    made.append(Request(PROMPTS[0], Sampling(max_new_tokens=16, temperature=0.8, top_k=5, top_p=0.9), n=2, id="cut"))
    return [*made, Request(PROMPTS[1], replace(WARM, repetition_penalty=1.5), id="penalty")]


def by_name(completions: Any) -> dict[tuple[Any, int], Completion]:
    found: dict[tuple[Any, int], Completion] = {}
    for completion in completions:
        assert (completion.request, completion.index) not in found
        found[completion.request, completion.index] = completion
    return found


def rows(asked: list[Request], found: dict[tuple[Any, int], Completion]) -> list[Encoded]:
    """Each request's completions after its prompt, all that was sampled scored."""
    made = []
    for request in asked:
        sampled = [found[request.id, index].sampled for index in range(request.n)]
        ids = tuple(np.array([*request.prompt, *tokens], np.int32) for tokens in sampled)
        weights = tuple(np.array([0.0] * len(request.prompt) + [1.0] * len(t), np.float32) for t in sampled)
        made.append(Encoded(ids, weights))
    return made


def test_it_is_an_engine(opened: Open) -> None:
    assert isinstance(opened(), Engine)


def test_every_completion_comes_once_with_what_it_was_asked_by(opened: Open) -> None:
    asked = requests()
    found = by_name(opened().run(asked))
    assert found.keys() == {(request.id, index) for request in asked for index in range(request.n)}
    for completion in found.values():
        assert len(completion.sampled) == len(completion.logprobs) >= 1
        assert completion.text == words(tiny.VOCABULARY + 1).decode(completion.ids, skip_special_tokens=True)
        assert completion.adapter is None and completion.version == 0
    assert list(opened().run([])) == []


def test_the_stop_token_is_among_what_was_sampled_and_not_in_the_text(opened: Open) -> None:
    found = by_name(opened().run(requests()))
    assert {completion.finish for completion in found.values()} == {"stop", "length"}, "else the test shows nothing"
    for completion in found.values():
        end = (STOP,) if completion.finish == "stop" else ()
        assert completion.sampled == (*completion.ids, *end)
        assert STOP not in completion.ids and max(completion.logprobs) <= 1e-6


def test_shuffled_and_alone_each_request_has_the_same_answers(opened: Open) -> None:
    engine, asked = opened(), requests()
    found = by_name(engine.run(asked))
    shuffled = asked.copy()
    random.Random(0).shuffle(shuffled)
    assert by_name(engine.run(shuffled)) == found
    for request in asked:
        alone = by_name(opened().run([request]))
        assert alone == {key: each for key, each in found.items() if key[0] == request.id}


def test_the_seed_decides_and_the_answers_to_one_request_differ(opened: Open) -> None:
    engine = opened()

    def drawn(seed: int) -> list[tuple[int, ...]]:
        found = by_name(engine.run([Request(PROMPTS[0], replace(WARM, seed=seed), n=4)]))
        return [found[0, index].ids for index in range(4)]

    assert drawn(1) == drawn(1) != drawn(2)
    assert len(set(drawn(1))) > 1
    assert drawn(1)[:2] == [each.ids for each in _ordered(engine, replace(WARM, seed=1), 2)], "n takes nothing away"


def _ordered(engine: Engine, sampling: Sampling, n: int) -> list[Completion]:
    return sorted(engine.run([Request(PROMPTS[0], sampling, n=n)]), key=lambda each: each.index)


def test_what_was_sampled_is_as_likely_as_logprobs_says(opened: Open) -> None:
    engine, asked = opened(), requests()
    found = by_name(engine.run(asked))
    scored = engine.logprobs(rows(asked, found))
    for request, values in zip(asked, scored, strict=True):
        said = [logp for index in range(request.n) for logp in found[request.id, index].logprobs]
        np.testing.assert_allclose(said, values, atol=1e-4)


def test_generate_gives_one_answer_for_each_prompt_in_order(opened: Open) -> None:
    engine = opened()
    alone = [engine.generate([list(prompt)], GREEDY)[0] for prompt in PROMPTS]
    assert engine.generate(PROMPTS, GREEDY) == alone
    twice = engine.generate([PROMPTS[0], PROMPTS[0]], WARM)
    assert twice[0].ids != twice[1].ids
    assert "".join(engine.stream(PROMPTS[0], WARM)) == twice[0].text


def test_adapters_answer_the_requests_that_name_them(opened: Open, adapters: list[str]) -> None:
    from peft import PeftModel

    engine = opened()
    base = by_name(engine.run([Request(PROMPTS[1], GREEDY, id="base")]))
    for name, folder in zip("ab", adapters, strict=True):
        engine.load_adapter(name, folder)
    asked = [Request(PROMPTS[1], GREEDY, adapter=name, id=str(name)) for name in ("a", None, "b")]
    found = by_name(engine.run(asked))
    assert [found[str(name), 0].adapter for name in ("a", None, "b")] == ["a", None, "b"]
    assert found["None", 0].ids == base["base", 0].ids
    for name, folder in zip("ab", adapters, strict=True):
        merged = PeftModel.from_pretrained(model(), folder).merge_and_unload()
        expected = opened(merged).generate([PROMPTS[1]], GREEDY)[0]
        assert found[name, 0].ids == expected.ids != base["base", 0].ids
        (row,) = rows([asked["a_b".index(name)]], found)
        np.testing.assert_allclose(engine.logprobs([row], name)[0], found[name, 0].logprobs, atol=1e-4)
        np.testing.assert_allclose(engine.logprobs([row])[0], opened().logprobs([row])[0], atol=1e-5)
    engine.drop_adapter("a")
    assert engine.generate([PROMPTS[1]], GREEDY)[0].ids == base["base", 0].ids
    assert next(iter(engine.run([asked[2]]))).ids == found["b", 0].ids
    engine.drop_adapter("b")
    assert engine.generate([PROMPTS[1]], GREEDY)[0].ids == base["base", 0].ids


def test_what_cannot_be_answered_is_said_before_anything_is(opened: Open, adapters: list[str], tmp_path: Path) -> None:
    engine = opened()
    engine.load_adapter("a", adapters[0])
    cases = {
        r"no adapter 'b' is loaded \(loaded: a\)": Request(PROMPTS[0], GREEDY, adapter="b"),
        "an empty prompt": Request((), GREEDY),
        "context ends at 256": Request((7,) * 256, GREEDY),
        "asks for 0 answers": Request(PROMPTS[0], GREEDY, n=0),
    }
    for message, request in cases.items():
        with pytest.raises(LuthierError, match=message):
            engine.run([Request(PROMPTS[0], GREEDY), request])
    with pytest.raises(LuthierError, match=r"'b' is loaded \(loaded: a\)"):
        engine.logprobs([], "b")
    with pytest.raises(LuthierError, match=r"'b' was loaded \(loaded: a\)"):
        engine.drop_adapter("b")
    with pytest.raises(LuthierError, match="'a' is loaded already"):
        engine.load_adapter("a", adapters[1])
    with pytest.raises(LuthierError, match="no adapter in PEFT's format"):
        engine.load_adapter("c", str(tmp_path))


def test_completions_carry_the_version_of_the_weights(opened: Open) -> None:
    engine = opened()
    engine.sync(7)
    assert {each.version for each in engine.run(requests())} == {7}
