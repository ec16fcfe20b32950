"""compare() with the real engine, the real template and a tiny model that is really trained."""

import math

import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from luthier.data.encode.template import Template
from luthier.engines.local import LocalEngine
from luthier.evaluate import ScoredTask, compare
from luthier.recipe.schema import Task
from luthier.types import Example, Response, Turn

PAIRS = [("two teas", '{"tea": 2}'), ("a bagel", '{"bagel": 1}'), ("两杯茶", '{"茶": 2}')]


@pytest.fixture(autouse=True)
def one_thread():
    """Threads that wait for each other on a busy machine cost more than so small a model."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return letters(
        "<pad>", "<|im_start|>", "<|im_end|>", pad_token="<pad>", eos_token="<|im_end|>", chat_template=CHATML
    )


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    return [Example((Turn("user", q),), (Response((Turn("assistant", a),)),)) for q, a in PAIRS]


def fresh(size: int) -> LlamaForCausalLM:
    return tiny.model(vocab_size=size, hidden_size=48, intermediate_size=96, max_position_embeddings=128)


def labelled(template: Template, row: Example) -> tuple[torch.Tensor, torch.Tensor]:
    encoded = template.encode(row, loss_on="last")
    ids = torch.tensor(encoded.ids[0][None], dtype=torch.long)
    return ids, ids.masked_fill(torch.tensor(encoded.weights[0][None]) == 0, -100)


def test_training_shows_in_the_scores(tokenizer, rows):
    template, base, tuned = Template(tokenizer), fresh(len(tokenizer)), fresh(len(tokenizer))
    optimiser = torch.optim.AdamW(tuned.parameters(), lr=5e-3)
    for _ in range(60):
        for row in rows:
            ids, labels = labelled(template, row)
            tuned(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    engines = {
        name: LocalEngine(module.eval(), tokenizer, template.stop_ids)
        for name, module in (("base", base), ("tuned", tuned))
    }
    task = Task(
        name="orders", data=["x"], scorers=["json_match", "f1", "bleu", "rouge", "perplexity"], max_new_tokens=24
    )
    comparison = compare(ScoredTask(task), rows, template, engines)

    assert comparison.headline.systems["base"].value == 0 and comparison.headline.systems["tuned"].value == 1
    assert [sample.answers["tuned"].text for sample in comparison.samples] == [answer for _, answer in PAIRS]
    assert comparison.cut["tuned"] == 0
    for score in comparison.scores:
        assert (score.difference["tuned"].value > 0) == score.higher_is_better
    # transformers' own loss is the mean over the same tokens
    perplexity = comparison.scores[-1]
    for name, module in (("base", base), ("tuned", tuned)):
        losses = [
            module(input_ids=ids, labels=labels).loss.item() for ids, labels in (labelled(template, r) for r in rows)
        ]
        for sample, loss in zip(comparison.samples, losses, strict=True):
            assert sample.answers[name].scores["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)
        counts = [int((labelled(template, row)[1] != -100).sum()) for row in rows]
        mean = sum(loss * count for loss, count in zip(losses, counts, strict=True)) / sum(counts)
        assert perplexity.systems[name].value == pytest.approx(math.exp(mean), rel=1e-4)
