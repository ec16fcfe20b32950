"""Likelihoods of choices by the real engine; windows over a text; what is kept and not asked again."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.data.encode.continuing import continued
from luthier.data.encode.template import Template
from luthier.engines.kept import Kept, Remembering
from luthier.engines.local import LocalEngine
from luthier.errors import LuthierError
from luthier.evaluate import ScoredTask, compare
from luthier.recipe.schema import Task
from luthier.types import Encoded, Example, Request, Response, Sampling, Turn


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    special = ("<s>", "<|im_start|>", "<|im_end|>")
    return letters(*special, bos_token="<s>", eos_token="<|im_end|>", chat_template=CHATML)


@pytest.fixture(scope="module")
def module(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return tiny.model(vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.3).eval()


def logp(module: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, before: list[int], said: list[int]) -> float:
    """Plain transformers' sum of log-probabilities."""
    with torch.no_grad():
        logits = module(torch.tensor([before + said])).logits[0].float().log_softmax(-1)
    return sum(float(logits[len(before) - 1 + place, token]) for place, token in enumerate(said))


def piqa(path: Path, count: int) -> Task:
    rows = "".join(
        f'{{"goal": "goal {n}", "sol1": "a{n} longer one", "sol2": "b{n}", "label": {n % 2}}}\n' for n in range(count)
    )
    (path / "validation.jsonl").write_text(rows)
    return Task(benchmark={"piqa": {"path": str(path)}})


def test_likelihoods_of_choices_are_those_of_plain_transformers(tmp_path, tokenizer, module):
    template, scored = Template(tokenizer), ScoredTask(piqa(tmp_path, 5))
    rows = scored.benchmark.rows(lambda _: None)
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    comparison = compare(scored, rows, template, {"base": engine})
    for row, sample in zip(rows, comparison.samples, strict=True):
        before = tokenizer(row.prompt[0].text)["input_ids"]
        sums = [
            logp(module, tokenizer, before, tokenizer(response.turns[0].text)["input_ids"])
            for response in row.responses
        ]
        (encoded,) = continued([row], template)
        assert encoded.shared >= len(before) - 1
        ours = engine.logprobs([encoded])[0]
        ends = np.cumsum([np.count_nonzero(weights) for weights in encoded.weights])
        assert [float(part.sum()) for part in np.split(ours, ends[:-1])] == pytest.approx(sums, abs=1e-4)
        gold = row.meta["gold"][0]
        lengths = [len(response.turns[0].text) - 1 for response in row.responses]
        assert sample.answers["base"].scores["acc"] == float(int(np.argmax(sums)) == gold)
        assert sample.answers["base"].scores["acc_norm"] == float(int(np.argmax(np.divide(sums, lengths))) == gold)
    assert comparison.remarks[0] == "PIQA (version 1), 0 shots, plain text"
    assert [score.scorer for score in comparison.scores] == ["acc_norm", "acc"]


def test_a_space_at_the_end_of_the_question_goes_with_the_choice(tokenizer):
    template = Template(tokenizer)
    row = Example((Turn("text", "ab "),), tuple(Response((Turn("text", text),)) for text in ("c", "dd")))
    (made,) = continued([row], template)
    assert [int(weights.sum()) for weights in made.weights] == [2, 3], "the space and the choice"
    chat = Example((Turn("user", "ab"),), tuple(Response((Turn("assistant", text),)) for text in ("c", "dd")))
    (made,) = continued([chat], template)
    begins = template.prompt_ids(chat.prompt)
    assert made.ids[0].tolist()[: len(begins)] == begins and [int(w.sum()) for w in made.weights] == [2, 3]


class Counting:
    """An engine that counts what it is asked."""

    def __init__(self, engine: LocalEngine, fails_after: int = 10**9) -> None:
        self.engine, self.context, self.rows, self.left = engine, engine.context, 0, fails_after

    def logprobs(self, rows: Sequence[Encoded], adapter: str | None = None) -> list[np.ndarray]:
        self.rows += len(rows)
        self.left -= len(rows)
        if self.left < 0:
            raise KeyboardInterrupt
        return self.engine.logprobs(rows, adapter)

    def run(self, requests: Sequence[Request]):
        for completion in self.engine.run(requests):
            self.rows += 1
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            yield completion


def test_a_scoring_that_was_stopped_goes_on_where_it_stood(tmp_path, tokenizer, module):
    template, scored = Template(tokenizer), ScoredTask(piqa(tmp_path, 300))
    rows = scored.benchmark.rows(lambda _: None)
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    plain = compare(scored, rows, template, {"base": engine})
    killed = Counting(engine, fails_after=270)
    with pytest.raises(KeyboardInterrupt):
        compare(scored, rows, template, {"base": Remembering(killed, Kept("m"))})
    rest, again = Counting(engine), Counting(engine)
    found = compare(scored, rows, template, {"base": Remembering(rest, Kept("m"))})
    assert killed.rows - len(rows) < 300 and 0 < rest.rows < 300
    assert found.headline.systems == plain.headline.systems
    assert "answers were kept from before" in found.remarks[1]
    compare(scored, rows, template, {"base": Remembering(again, Kept("m"))})
    assert again.rows == 0
    compare(scored, rows, template, {"base": Remembering(again, Kept("another model"))})
    assert again.rows == 300


def test_answers_are_kept_by_prompt_and_decoding_one_by_one(tokenizer, module):
    template = Template(tokenizer)
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    requests = [Request((5 + n, 6, 7), Sampling(max_new_tokens=4, seed=n), id=f"r{n}") for n in range(6)]
    plain = {one.request: one for one in engine.run(requests)}
    with pytest.raises(KeyboardInterrupt):
        list(Remembering(Counting(engine, fails_after=3), Kept("m")).run(requests))
    asks = Counting(engine)
    other_seeds = [Request(one.prompt, Sampling(max_new_tokens=4, seed=99), id=one.id) for one in requests]
    found = {one.request: one for one in Remembering(asks, Kept("m")).run(other_seeds)}
    assert asks.rows == 3 and found == plain, "greedy answers hang on no seed"
    for name, completion in found.items():
        assert completion.logprobs == pytest.approx(plain[name].logprobs, abs=1e-4)
    warm = [
        Request(one.prompt, Sampling(max_new_tokens=4, temperature=1.0, seed=n), id=n) for n, one in enumerate(requests)
    ]
    asks = Counting(engine)
    list(Remembering(asks, Kept("m")).run(warm))
    assert asks.rows == 6, "decoded otherwise, they are other answers"
    kept = Kept("m")
    kept.forget()
    asks = Counting(engine)
    list(Remembering(asks, kept).run(requests))
    assert asks.rows == 6


def test_a_cache_that_is_not_whole_is_begun_anew():
    path = Kept("m").path
    path.write_bytes(b"no database at all" * 100)
    kept = Kept("m")
    kept.keep([(b"a", b"b")])
    assert Kept("m").find(b"a") == b"b" and kept.find(b"c") is None


@pytest.mark.parametrize(("window", "stride"), [(8, 8), (8, 4), (8, 1), (200, 100)])
def test_every_token_of_a_text_is_judged_once_behind_what_its_window_holds(tmp_path, tokenizer, module, window, stride):
    text = "The sea is wide, and I can't cross over. Neither have I wings to fly. Give me a boat."
    (tmp_path / "song.txt").write_text(text)
    template = Template(tokenizer)
    scored = ScoredTask(
        Task(benchmark={"perplexity": {"path": str(tmp_path / "song.txt"), "window": window, "stride": stride}})
    )
    engine = LocalEngine(module, tokenizer, template.stop_ids)
    comparison = compare(scored, scored.benchmark.rows(lambda _: None), template, {"base": engine})
    ids = tokenizer(text)["input_ids"]
    read, total, begin = [tokenizer.bos_token_id, *ids], 0.0, 0
    while begin < len(ids):
        end = min(len(ids), begin + (window if begin == 0 else stride))
        before = read[max(0, end - window) : begin + 1]
        total += logp(module, tokenizer, before, read[begin + 1 : end + 1])
        begin = end
    by_name = {score.scorer: score.systems["base"].value for score in comparison.scores}
    assert by_name["perplexity"] == pytest.approx(math.exp(-total / len(ids)), rel=1e-4)
    assert by_name["bits per byte"] == pytest.approx(-total / math.log(2) / len(text.encode()), rel=1e-4)
    assert by_name["word perplexity"] == pytest.approx(math.exp(-total / len(text.split())), rel=1e-4)
    assert "".join(sample.expected or "" for sample in comparison.samples) == text


def test_a_cache_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "file"))
    with pytest.raises(LuthierError, match="answers cannot be kept"):
        Kept("m")


def test_a_question_that_is_too_long_is_told_before_anything_is_asked(tmp_path, tokenizer, module):
    template = Template(tokenizer)
    rows = [{"goal": "g" * length, "sol1": "a", "sol2": "b", "label": 0} for length in (20, 480, 600)]
    (tmp_path / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scored = ScoredTask(Task(benchmark={"piqa": {"path": str(tmp_path)}}))
    engine = Counting(LocalEngine(module, tokenizer, template.stop_ids))
    with pytest.raises(LuthierError, match=r"jsonl:3: prompt and response have 62\d tokens, .* is 512") as raised:
        compare(scored, scored.benchmark.rows(lambda _: None), template, {"base": engine})
    assert engine.rows == 0 and "fewer `shots`" in str(raised.value)
    compare(scored, scored.benchmark.rows(lambda _: None)[:2], template, {"base": engine})
    assert engine.rows == 2
