"""The local engine against transformers' own generation, and against itself in batches of other shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import letters
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.models.blocks.kernels import decode
from luthier.types import Encoded, Engine, Sampling

STOP = 2
VOCABULARY = 259


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte: ids 3 to 258; a character of several bytes is several tokens."""
    return letters("<pad>", "<s>", "</s>", pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def small(family: str) -> Any:
    torch.manual_seed(0)
    keys: dict[str, Any] = {"vocab_size": VOCABULARY, "intermediate_size": 64, "max_position_embeddings": 64}
    keys |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": STOP, "initializer_range": 0.3}
    if family == "gemma3":  # a sliding window shorter than what is generated
        keys |= {"sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
    return AutoModelForCausalLM.from_config(tiny.config(family, **keys)).eval()


PROMPTS = [[1, *range(5, 5 + length)] for length in (3, 11, 7, 7, 1, 16, 2)]


@pytest.fixture(scope="module", params=["llama", "gpt2", "gemma3"])
def module(request: pytest.FixtureRequest) -> Any:
    return small(request.param)


def reference(module: Any, prompt: list[int], count: int, **options: Any) -> list[int]:
    out = module.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=count,
        do_sample=False, **options,
    )  # fmt: skip
    new = out[0, len(prompt) :].tolist()
    return new[: new.index(STOP)] if STOP in new else new


def test_it_is_an_engine(module: Any) -> None:
    assert isinstance(LocalEngine(module, byte_tokenizer(), {STOP}), Engine)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_greedy_in_batches_of_any_size_is_what_transformers_generates(module: Any, rows: int) -> None:
    engine = LocalEngine(module, byte_tokenizer(), {STOP}, rows=rows)
    made = engine.generate(PROMPTS, Sampling(max_new_tokens=20))
    assert [list(c.ids) for c in made] == [reference(module, prompt, 20) for prompt in PROMPTS]
    assert all(c.finish == ("length" if len(c.ids) == 20 else "stop") for c in made)


SHARED = [9, 8, 7, 6, 5, 4, 3]
BEGINNINGS = [[*SHARED, *range(20, 20 + length)] for length in (1, 9, 2, 2, 8, 1, 5)]


def test_a_common_prefix_changes_nothing(module: Any) -> None:
    made = LocalEngine(module, byte_tokenizer(), {STOP}).generate(BEGINNINGS, Sampling(max_new_tokens=20))
    assert [list(c.ids) for c in made] == [reference(module, prompt, 20) for prompt in BEGINNINGS]
    same = LocalEngine(module, byte_tokenizer(), {STOP}).generate([BEGINNINGS[1]] * 3, Sampling(max_new_tokens=20))
    assert same == [made[1]] * 3


def test_rows_that_end_leave_the_batch_and_the_others_go_on(module: Any) -> None:
    free = LocalEngine(module, byte_tokenizer(), ()).generate(PROMPTS, Sampling(max_new_tokens=24))

    def ends(token: int) -> set[int]:
        return {c.ids.index(token) if token in c.ids else -1 for c in free}

    common = {max((token for c in free for token in c.ids), key=lambda token: len(ends(token)))}
    ended: list[int] = []
    made = LocalEngine(module, byte_tokenizer(), common).generate(
        PROMPTS, Sampling(max_new_tokens=24), progress=ended.append
    )
    for whole, cut in zip(free, made, strict=True):
        first = next((place for place, token in enumerate(whole.ids) if token in common), None)
        assert cut.ids == whole.ids[:first]
        assert cut.finish == ("length" if first is None else "stop")
    assert len({len(c.ids) for c in made}) > 1, "all rows ended together: the test shows nothing"
    assert sum(ended) == len(PROMPTS)


def test_repetition_penalty_is_transformers(module: Any) -> None:
    engine = LocalEngine(module, byte_tokenizer(), {STOP})
    made = engine.generate(PROMPTS, Sampling(max_new_tokens=16, repetition_penalty=1.7))
    assert [list(c.ids) for c in made] == [reference(module, p, 16, repetition_penalty=1.7) for p in PROMPTS]
    assert made != engine.generate(PROMPTS, Sampling(max_new_tokens=16))


def test_sampling_repeats_with_its_seed_whatever_the_batch(module: Any) -> None:
    warm = Sampling(max_new_tokens=12, temperature=1.5, seed=4)
    alone, together = (LocalEngine(module, byte_tokenizer(), {STOP}, rows=rows) for rows in (1, 64))
    made = together.generate(PROMPTS, warm)
    assert made == together.generate(PROMPTS, warm) == alone.generate(PROMPTS, warm)
    assert made != together.generate(PROMPTS, Sampling(max_new_tokens=12, temperature=1.5, seed=5))
    twice = together.generate([PROMPTS[0], PROMPTS[0]], warm)
    assert twice[0].ids != twice[1].ids, "two rows of one batch drew the same numbers"


def test_a_prompt_asked_often_is_read_once_and_answered_as_if_alone(module: Any) -> None:
    engine = LocalEngine(module, byte_tokenizer(), {STOP})
    asked = [PROMPTS[number] for number in (0, 1, 0, 2, 0, 1)]
    greedy = Sampling(max_new_tokens=12)
    alone = {tuple(prompt): engine.generate([prompt], greedy)[0].ids for prompt in asked}
    together = engine.generate(asked, greedy)
    assert [completion.ids for completion in together] == [alone[tuple(prompt)] for prompt in asked]
    read: list[int] = []
    watch = module.register_forward_pre_hook(
        lambda _, args, options: read.append(options["input_ids"].numel()), with_kwargs=True
    )
    engine.generate(asked, Sampling(max_new_tokens=1))
    watch.remove()
    assert sum(read) <= sum(len(prompt) for prompt in alone)
    drawn = engine.generate(asked, Sampling(max_new_tokens=12, temperature=1.0, seed=1))
    assert drawn[0].ids != drawn[2].ids, "copies of a prompt drew the same numbers"


def test_every_response_of_a_row_is_scored(module: Any) -> None:
    generator = np.random.default_rng(1)
    ids = [generator.integers(3, VOCABULARY, length).astype(np.int32) for length in (9, 14, 6)]
    weights = [np.r_[np.zeros(3), np.full(len(each) - 3, 0.5)].astype(np.float32) for each in ids]
    engine = LocalEngine(module, byte_tokenizer(), {STOP})
    together = engine.logprobs([Encoded(tuple(ids), tuple(weights)), Encoded((ids[0],), (weights[0],))])
    alone = [engine.logprobs([Encoded((a,), (b,))])[0] for a, b in zip(ids, weights, strict=True)]
    np.testing.assert_allclose(together[0], np.concatenate(alone), atol=1e-5)
    np.testing.assert_allclose(together[1], alone[0], atol=1e-5)


def test_streamed_text_is_the_generated_text(module: Any) -> None:
    engine = LocalEngine(module, byte_tokenizer(), {STOP})
    for sampling in (Sampling(max_new_tokens=30), Sampling(max_new_tokens=30, temperature=1.0, seed=3)):
        for prompt in PROMPTS:
            pieces = list(engine.stream(prompt, sampling))
            assert "".join(pieces) == engine.generate([prompt], sampling)[0].text
            assert all(pieces)


def test_a_stop_string_ends_the_text_before_it(module: Any) -> None:
    engine = LocalEngine(module, byte_tokenizer(), ())
    whole = engine.generate(PROMPTS[:1], Sampling(max_new_tokens=20))[0]
    place = next(i for i in range(4, 20) if "�" not in whole.text[i : i + 2])
    stop = whole.text[place : place + 2]
    sampling = Sampling(max_new_tokens=20, stop=(stop,))
    cut = engine.generate(PROMPTS[:1], sampling)[0]
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.index(stop)]
    assert "".join(engine.stream(PROMPTS[0], sampling)) == cut.text


def test_scores_are_the_log_softmax_at_the_scored_places(module: Any) -> None:
    rows = []
    generator = np.random.default_rng(0)
    for length in (4, 17, 9, 30):
        weights = (generator.random(length) < 0.5).astype(np.float32)
        weights[0], weights[-1] = 0, 1
        ids = generator.integers(3, VOCABULARY, length).astype(np.int32)
        rows.append(Encoded((ids,), (weights,)))
    rows.append(Encoded((rows[0].ids[0],), (np.zeros(4, np.float32),)))
    scored = LocalEngine(module, byte_tokenizer(), {STOP}).logprobs(rows)
    for row, found in zip(rows, scored, strict=True):
        ids = torch.from_numpy(row.ids[0].astype(np.int64))
        with torch.no_grad():
            log = module(input_ids=ids[None]).logits[0].log_softmax(-1)
        wanted = [log[t - 1, ids[t]].item() for t in range(1, len(ids)) if row.weights[0][t] > 0]
        np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_model_in_training_answers_without_dropout_and_is_left_in_training(family: str) -> None:
    module = small(family)  # GPT-2 has dropout of its own
    wanted = LocalEngine(module, byte_tokenizer(), {STOP}).generate(PROMPTS, Sampling(max_new_tokens=8))
    module.train()
    engine = LocalEngine(module, byte_tokenizer(), {STOP})
    assert engine.generate(PROMPTS, Sampling(max_new_tokens=8)) == wanted
    assert all(part.training for part in module.modules())


@pytest.mark.skipif(decode.library() is None, reason="no C compiler")
def test_compiled_steps_do_not_switch_modules() -> None:
    config = tiny.config("llama", vocab_size=VOCABULARY, head_dim=16, max_position_embeddings=64)
    module, switched = AutoModelForCausalLM.from_config(config).train(), []
    train = module.train

    def counted(mode: bool = True) -> Any:
        switched.append(mode)
        return train(mode)

    module.train = counted
    engine = LocalEngine(module, byte_tokenizer(), ())
    engine.generate(PROMPTS[:1], Sampling(max_new_tokens=1))
    few = len(switched)
    engine.generate(PROMPTS[:1], Sampling(max_new_tokens=30))
    assert few and len(switched) <= 2 * few and module.training


def test_the_context_ends_generation_and_refuses_prompts_that_fill_it() -> None:
    engine = LocalEngine(small("llama"), byte_tokenizer(), ())
    made = engine.generate([[1] * 60, [1] * 10], Sampling(max_new_tokens=30))
    assert [(len(c.ids), c.finish) for c in made] == [(4, "length"), (30, "length")]
    with pytest.raises(LuthierError, match="context ends at 64"):
        engine.generate([[1] * 64], Sampling())
    with pytest.raises(LuthierError, match="empty prompt"):
        engine.generate([[1], []], Sampling())
