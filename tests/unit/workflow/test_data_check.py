"""Data against objective: what is judged must suit what learns from it; each misfit is one clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter
from tiny_tokenizers import letters
from transformers import AutoTokenizer

from luthier.data import Template, prepare
from luthier.errors import LuthierError
from luthier.objectives import OBJECTIVES
from luthier.recipe import Recipe
from luthier.types import PAIR, ROW, STEP, Needs, TokenStore
from luthier.workflow import data_check

SFT, DPO, KTO = Needs(), Needs(responses=2, unit=PAIR), Needs(labels=True, unit=ROW)
REWARD = Needs(responses=2, readouts=(), heads=(("reward", "row"),), unit=PAIR)
PRM = Needs(readouts=(), heads=(("reward", "step"),), unit=STEP)

PLAIN = {"prompt": "What is 2+2?", "completion": "It is 4."}
GOOD, BAD = {**PLAIN, "label": True}, {**PLAIN, "label": False}
PAIR = {"prompt": "What is 2+2?", "chosen": "It is 4.", "rejected": "It is 5."}
RANKED = {"prompt": "What is 2+2?", "responses": ["4", "5", "6"], "scores": [0.9, 0.4, 0.4]}
STEPS = {"prompt": "What is 2+2?", "completions": ["Two and two.", "It is 4."], "labels": [1, 0]}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: Any) -> Any:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))

    def made(*files: list[dict[str, Any]]) -> TokenStore:
        paths = []
        for number, rows in enumerate(files):
            paths.append(str(tmp_path / f"{number}.jsonl"))
            Path(paths[-1]).write_text("".join(json.dumps(row) + "\n" for row in rows))
        recipe: Recipe = TypeAdapter(Recipe).validate_python({"model": "m", "data": paths, "output": "o"})
        return prepare(recipe, Template(tokenizer)).train

    return made


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    letters("<|end|>", eos_token="<|end|>", chat_template=template).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


def test_rows_that_do_not_train_may_all_be_good_but_must_be_judged(store):
    data_check.responses(store([GOOD, {**GOOD, "prompt": "And 3+1?"}]), KTO, "kto", trains=False)
    alike = {**STEPS, "labels": [1, 1]}
    data_check.responses(store([alike]), PRM, "process_reward", trains=False)
    with pytest.raises(LuthierError, match="learns from good and bad responses, the rows have no label"):
        data_check.responses(store([PLAIN]), KTO, "kto", trains=False)
    with pytest.raises(LuthierError, match="all 2 steps have the score 1"):
        data_check.responses(store([alike]), PRM, "process_reward")


def suits(rows: TokenStore, needs: Needs) -> bool:
    try:
        data_check.responses(rows, needs, "it")
    except LuthierError:
        return False
    return True


@pytest.mark.parametrize(
    ("files", "objectives"),
    [
        ([[PLAIN]], {"sft"}),
        ([[GOOD, GOOD]], {"sft"}),
        ([[BAD, BAD]], set()),
        ([[GOOD, BAD]], {"kto"}),
        ([[PAIR]], {"dpo", "reward", "kto"}),
        ([[RANKED]], {"dpo", "reward", "kto"}),
        ([[STEPS]], {"process_reward"}),
        ([[PAIR], [PLAIN]], set()),
    ],
)
def test_rows_suit_exactly_the_objectives_that_learn_from_all_they_hold(
    files: list[list[dict[str, Any]]], objectives: set[str], store: Any
) -> None:
    every = {"sft": SFT, "dpo": DPO, "kto": KTO, "reward": REWARD, "process_reward": PRM}
    rows = store(*files)
    assert len(rows) == sum(len(file) for file in files)
    assert {name for name, needs in every.items() if suits(rows, needs)} == objectives


@pytest.mark.parametrize(
    ("files", "needs", "message"),
    [
        ([[PLAIN]], DPO, r"'it' compares 2 responses to a prompt, the rows have one response.*take `objective: sft`"),
        ([[GOOD, BAD]], DPO, r"'it' compares 2 responses.*the rows have one response.*take `objective: kto`"),
        ([[GOOD, BAD]], REWARD, r"'it' compares 2 responses.*the rows have one response"),
        ([[STEPS]], DPO, r"'it' compares 2 responses.*take `objective: process_reward`"),
        ([[PAIR] * 3, [PLAIN]], DPO, r"1.jsonl:1: .*1 of 4 rows have one response"),
        ([[PLAIN]], KTO, r"learns from good and bad responses, the rows have no label.*`label` .*`objective: sft`"),
        ([[GOOD, BAD], [PLAIN]], KTO, r"1.jsonl:1: .*1 of 3 rows have no label"),
        ([[GOOD] * 3], KTO, r"all 3 responses are labelled good, so there is nothing to contrast.*labelled bad"),
        ([[BAD] * 2], KTO, r"all 2 responses are labelled bad, so there is nothing to contrast.*labelled good"),
        ([[PLAIN]], PRM, r"'it' learns from judged steps, the rows have no judged steps.*`completions`.*sft"),
        ([[PAIR]], PRM, r"'it' learns from judged steps, the rows have no judged steps.*take `objective: dpo`"),
        ([[{**STEPS, "labels": [1, 1]}] * 2], PRM, r"all 4 steps have the score 1, so there is nothing to tell apart"),
        ([[PAIR]], SFT, r"'it' trains on every response alike, the rows have a rejected response.*dpo.*chosen"),
        ([[GOOD, GOOD, BAD]], SFT, r"0.jsonl:3: .*1 of 3 rows have a response that is labelled bad.*`objective: kto`"),
        ([[STEPS]], SFT, r"'it' does not look at steps, the rows have judged steps.*process_reward"),
    ],
)
def test_what_does_not_suit_is_named(files: Any, needs: Needs, message: str, store: Any) -> None:
    with pytest.raises(LuthierError, match=f"(?s){message}"):
        data_check.responses(store(*files), needs, "it")


def test_the_longest_response_is_held_against_the_context_not_the_longest_row(store):
    both = {**PAIR, "chosen": "x" * 12, "rejected": "y" * 12}  # together longer than the next row, each short enough
    long = {**PAIR, "chosen": "x" * 20, "rejected": "y"}
    rows = store([both, long])
    assert rows.lengths.argmax() == 0, "the first row counts both of its responses"
    with pytest.raises(LuthierError, match=r"0\.jsonl:2.*the model's context is 46"):
        data_check.context(rows, 46)
    data_check.context(store([both]), 46)
    data_check.context(rows, None)


def test_a_reference_without_an_embedding_for_a_token(store, tokenizer):
    made = store([PAIR, {**PAIR, "prompt": "And ~?"}])
    highest = max(int(ids.max()) for i in range(2) for ids in made[i].ids)
    data_check.embeddings(made, highest + 1, tokenizer, "the reference")
    with pytest.raises(
        LuthierError, match=rf"(?s)0.jsonl:\d: the reference has embeddings for {highest} tokens .*resize"
    ):
        data_check.embeddings(made, highest, tokenizer, "the reference")


def test_imitating_what_is_right_without_a_word_on_what_is_is_told() -> None:
    vapo = OBJECTIVES.build("vapo")
    assert data_check.verdicts(vapo, "vapo", tells_right=True) is None
    assert data_check.verdicts(OBJECTIVES.build("ppo"), "ppo", tells_right=False) is None
    assert data_check.verdicts(OBJECTIVES.build("vapo", {"imitate": 0}), "vapo", tells_right=False) is None
    within = OBJECTIVES.build("sum", {"of": {"vapo": 1.0, "sft": 0.1}})
    for objective in (vapo, within):
        assert "none is imitated" in (data_check.verdicts(objective, "it", tells_right=False) or "")
