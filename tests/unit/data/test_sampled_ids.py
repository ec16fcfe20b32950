"""A response that keeps the tokens it was sampled as trains on those, whatever its text would be as tokens."""

from __future__ import annotations

import chat_templates as ct
import numpy as np
import pytest

from luthier.data import Template
from luthier.data.encode.rendering import RowFault
from luthier.types import RAW, Example, Response, Turn

ASKED = (Turn("user", "What is 2+2?"),)


@pytest.fixture(scope="module")
def template() -> Template:
    return Template(ct.tokenizer(ct.CHATML))


def split(template: Template, text: str) -> tuple[int, ...]:
    """The text letter by letter, where the tokenizer would take several together; and its end."""
    ids = [token for letter in text for token in template.tokenizer(letter, add_special_tokens=False)["input_ids"]]
    together = template.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert template.tokenizer.decode(ids) == template.tokenizer.decode(together) == text and ids != together
    return (*ids, template.tokenizer.convert_tokens_to_ids("<|im_end|>"))


def said(text: str, ids: tuple[int, ...] | None = None, reward: float | None = None, **keys: object) -> Response:
    return Response((Turn("assistant", text),), reward=reward, ids=ids, **keys)  # type: ignore[arg-type]


def test_what_would_be_other_tokens_stays_as_it_was_sampled(template: Template) -> None:
    sampled, prompt = split(template, "It is 4."), template.prompt_ids(ASKED)
    for loss_on in ("assistant", "last", "all"):
        encoded = template.encode(Example(ASKED, (said("It is 4.", sampled),)), loss_on)  # type: ignore[arg-type]
        (ids,), (weights,) = encoded.ids, encoded.weights
        assert ids.tolist() == [*prompt, *sampled] and ids.dtype == np.int32
        assert weights.tolist() == [0.0] * len(prompt) + [1.0] * len(sampled) and weights.dtype == np.float32
    other = template.encode(Example(ASKED, (said("It is 4."),)))
    assert other.ids[0].tolist() != ids.tolist(), "else the test shows nothing"
    assert template.tokenizer.decode(other.ids[0]) == template.tokenizer.decode(ids)


def test_an_answer_that_was_cut_off_has_no_end_token(template: Template) -> None:
    sampled = split(template, "It is 4.")[:3]
    encoded = template.encode(Example(ASKED, (said("It ", sampled),)))
    assert encoded.ids[0].tolist() == [*template.prompt_ids(ASKED), *sampled]


def test_earlier_turns_of_the_response_are_its_prompt(template: Template) -> None:
    sampled = split(template, "It is 4.")
    turns = (Turn("assistant", "Hm."), Turn("user", "Well?"), Turn("assistant", "It is 4."))
    encoded = template.encode(Example(ASKED, (Response(turns, ids=sampled),)))
    prompt = template.prompt_ids((*ASKED, *turns[:2]))
    assert encoded.ids[0].tolist() == [*prompt, *sampled]
    assert encoded.weights[0].tolist() == [0.0] * len(prompt) + [1.0] * len(sampled)


def test_beside_responses_of_which_only_the_text_is_known(template: Template) -> None:
    sampled, cut = split(template, "It is 4."), split(template, "Four is it")[:4]
    written = said("It is 5.", reward=0.0)
    row = Example(ASKED, (said("It is 4.", sampled, 1.0), written, said("Four", cut, 0.5)))
    plain = Example(ASKED, (written, said("Three.", reward=2.0)))
    both, alone, last = template.encode_batch([row, plain, Example(ASKED, (said("It is 4.", sampled),))])
    prompt = template.prompt_ids(ASKED)
    found = both.encoded()  # type: ignore[union-attr]
    assert [ids.tolist() for ids in found.ids] == [
        [*prompt, *sampled],
        alone.encoded().ids[0].tolist(),  # type: ignore[union-attr]
        [*prompt, *cut],
    ]
    assert found.columns["reward"] == (1.0, 0.0, 0.5) and found.shared == len(prompt)
    assert last.encoded().ids[0].tolist() == [*prompt, *sampled]  # type: ignore[union-attr]


def test_plain_text_goes_on_as_it_was_sampled(template: Template) -> None:
    prompt, sampled = (Turn(RAW, "once upon"),), split(template, "It is 4.")[:-1]
    encoded = template.encode(Example(prompt, (Response((Turn(RAW, "It is 4."),), ids=sampled),)))
    assert encoded.ids[0].tolist() == [*template.prompt_ids(prompt), *sampled]
    assert encoded.weights[0].sum() == len(sampled)


def test_weights_of_turns_hold_for_sampled_tokens_too(template: Template) -> None:
    sampled = split(template, "It is 4.")
    encoded = template.encode(Example(ASKED, (Response((Turn("assistant", "It is 4.", 0.5),), ids=sampled),)))
    assert encoded.weights[0].sum() == 0.5 * len(sampled)


def test_what_cannot_be_is_refused(template: Template) -> None:
    with pytest.raises(RowFault, match="sampled as no tokens"):
        template.encode(Example(ASKED, (said("", ()),)))
    with pytest.raises(RowFault, match="steps are judged by their text"):
        template.encode(Example(ASKED, (said("It is 4.", split(template, "It is 4."), step_rewards=(1.0,)),)))
    thinks = Template(ct.tokenizer(ct.QWEN3))
    turns = (Turn("assistant", "<think>\nhm\n</think>\n\n4"), Turn("user", "sure?"), Turn("assistant", "yes"))
    with pytest.raises(RowFault, match="so it is not one sequence"):
        thinks.encode(Example(ASKED, (said("4", (5, 6)), Response(turns))))
    with pytest.raises(RowFault, match="images"):
        template.encode(Example((Turn("user", "?", media=("a.png",)),), (said("x", (1, 2)),)))
