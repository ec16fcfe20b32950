"""Rows as prompts: whatever their shape, with what answers are compared with, within the room that an answer needs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_tokenizers import CHATML, letters

from luthier.data import Template, prompts, show_prompts
from luthier.data.prompting import with_answer
from luthier.errors import LuthierError
from luthier.recipe import Recipe, Source
from luthier.recipe.schema import Model, Plugin, Reward, Rollout, Train, Validate
from luthier.scorers.metric import reference

TEMPLATE = Template(letters("<|im_start|>", "<|im_end|>", eos_token="<|im_end|>", chat_template=CHATML))
ROWS = [
    {"prompt": "2 + 3 =", "answer": 5},
    {"question": "Which is larger, 3 or 4?", "answer": "4"},
    {"messages": [{"role": "user", "content": "Say yes."}, {"role": "assistant", "content": "yes"}]},
]


def recipe(path: Path, rows: list[dict[str, Any]], **keys: Any) -> Recipe:
    files = []
    for number, row in enumerate(rows):  # a file a shape
        file = path / f"{number}.jsonl"
        file.write_text(json.dumps(row) + "\n")
        files.append(Source(path=str(file)))
    train = {"max_tokens": 128, **keys.pop("train", {})}
    base = Recipe(
        model=Model(name="tiny"),
        data=tuple(files),
        objective=Plugin(name="grpo"),
        rollout=Rollout(prompts=4, max_new_tokens=20),
        reward=(Reward(scorer=Plugin(name="contains")),),
        train=Train(**train),
        output="unused",
    )
    return replace(base, **keys)


def test_rows_of_any_shape_are_prompts_and_keep_what_answers_are_compared_with(tmp_path: Path) -> None:
    found = prompts(recipe(tmp_path, ROWS), TEMPLATE)
    assert [reference(prompt.example) for prompt in found.train] == ["5", "4", "yes"]
    for prompt, asked in zip(found.train, ("2 + 3 =", "Which is larger, 3 or 4?", "Say yes."), strict=True):
        assert prompt.ids == tuple(TEMPLATE.prompt_ids(prompt.example.prompt))
        assert prompt.example.prompt[-1].text == asked and prompt.where.endswith(".jsonl:1")
    assert found.ledger.rows_kept == 3 and found.ledger.tokens == sum(len(prompt.ids) for prompt in found.train)
    assert "to compare with: yes" in show_prompts(found, TEMPLATE, 3).plain


def test_what_a_prompt_is_hangs_on_what_it_is_judged_by(tmp_path: Path) -> None:
    rows = [{"prompt": "2 + 3 =", "answer": 5}, {"prompt": "2 + 3 =", "answer": 6}, {"prompt": "2 + 3 =", "answer": 5}]
    one, two, three = (prompt.key for prompt in prompts(recipe(tmp_path, rows), TEMPLATE).train)
    assert one == three != two


def test_a_prompt_that_leaves_no_room_for_an_answer_is_told(tmp_path: Path) -> None:
    rows = [{"prompt": "short", "answer": "1"}, {"prompt": "x" * 90, "answer": "1"}]
    with pytest.raises(LuthierError, match=r"1.jsonl:1: 1 of 2 prompts leave no room for an answer of 20 tokens"):
        prompts(recipe(tmp_path, rows), TEMPLATE)
    found = prompts(recipe(tmp_path, rows, train={"long_rows": "drop", "max_lost": 0.5}), TEMPLATE)
    assert len(found.train) == 1 and found.ledger.rows_dropped == 1
    with pytest.raises(LuthierError, match=r"50.0% of 2 rows are lost"):
        prompts(recipe(tmp_path, rows, train={"long_rows": "drop"}), TEMPLATE)
    with pytest.raises(LuthierError, match="leave no room") as refused:
        prompts(recipe(tmp_path, rows[:1]), TEMPLATE, context=40)
    assert "of the model's context (40) are free" in refused.value.what
    assert "train.max_tokens" not in str(refused.value.fix), "raising it would not help"


def test_a_text_has_no_prompt(tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=r"there is no prompt to learn from: it has no prompt to answer"):
        prompts(recipe(tmp_path, [{"text": "once upon a time"}]), TEMPLATE)


def test_a_base_model_is_given_prompts_as_they_stand(tmp_path: Path) -> None:
    bare = Template(letters(eos_token="<|im_end|>", pad_token="<|im_end|>"))
    given = recipe(tmp_path, [{"prompt": "2 + 3 =", "answer": "5"}, {"prompt": "1 + 3 =", "completion": " 4"}])
    with pytest.raises(LuthierError, match="no chat template") as refused:
        prompts(given, bare)
    assert "chat: false" in str(refused.value.fix)  # and what it advises is taken
    raw = replace(given, data=tuple(replace(one, chat=False) for one in given.data))
    found = prompts(raw, bare).train
    assert [bare.tokenizer.decode(list(one.ids)) for one in found] == ["2 + 3 =", "1 + 3 ="]
    assert [reference(one.example) for one in found] == ["5", " 4"]
    for one in found:  # the data's own answer stands behind the very prompt, where that is learnt from
        encoded = bare.encode(with_answer(one.example), loss_on="last")
        assert tuple(encoded.ids[0][: len(one.ids)]) == one.ids and encoded.weights[0][len(one.ids) :].all()


def test_prompts_are_held_out_by_what_they_are(tmp_path: Path) -> None:
    rows = [{"prompt": f"{number} + 1 =", "answer": number + 1} for number in range(40)]
    found = prompts(recipe(tmp_path, rows, validate=Validate(share=0.3)), TEMPLATE)
    assert len(found.train) + len(found.held_out) == 40 and 4 < len(found.held_out) < 22
    assert not {prompt.key for prompt in found.train} & {prompt.key for prompt in found.held_out}
    with pytest.raises(LuthierError, match=r"validate.share: .* holds out all 40"):
        prompts(recipe(tmp_path, rows, validate=Validate(share=0.999)), TEMPLATE)
    apart = tmp_path / "apart.jsonl"
    apart.write_text(json.dumps({"prompt": "7 + 7 =", "answer": 14}) + "\n")
    found = prompts(recipe(tmp_path, rows, validate=Validate(data=(Source(path=str(apart)),))), TEMPLATE)
    assert len(found.train) == 40 and [prompt.example.answer for prompt in found.held_out] == ["14"]


def test_sources_share_out_prompts_by_weight(tmp_path: Path) -> None:
    made = recipe(tmp_path, [])
    for name, weight in (("often", 3.0), ("seldom", 1.0)):
        file = tmp_path / f"{name}.jsonl"
        file.write_text("".join(json.dumps({"prompt": f"{name} {n}", "answer": name}) + "\n" for n in range(4)))
        made = replace(made, data=(*made.data, Source(path=str(file), weight=weight)))
    found = prompts(made, TEMPLATE)
    assert [prompt.example.answer for prompt in found.train] == ["often"] * 6 + ["seldom"] * 2
