"""A conversation through a pipe: history, commands, the adapter on and off."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from rich.console import Console
from tiny_tokenizers import CHATML, letters

from luthier.data import Template
from luthier.engines import LocalEngine
from luthier.errors import LuthierError
from luthier.models import Policy, load
from luthier.recipe.schema import Model, Plugin
from luthier.serve import Chat, chat
from luthier.types import Sampling, Turn


def byte_model(folder: Path) -> None:
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    sizes = {"vocab_size": len(tokenizer), "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    made = {"max_position_embeddings": 512, "initializer_range": 0.3, "bos_token_id": 1, "eos_token_id": 2}
    tiny.model(**sizes, **heads, **made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Policy:
    folder = tmp_path_factory.mktemp("model")
    byte_model(folder)
    opened = load(Model(name=str(folder), dtype="fp32"), [Plugin(name="lora", args={"r": 4})], device="cpu")
    torch.manual_seed(1)
    with torch.no_grad():
        for _, parameter in opened.trainable():
            parameter.normal_(std=0.3)
    return opened


SAMPLING = Sampling(max_new_tokens=8)


def screen() -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, width=120, force_terminal=False), out


def talk(policy: Policy, said: list[str], monkeypatch: pytest.MonkeyPatch, **options: Any) -> str:
    console, out = screen()
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in said)))
    chat(policy, Template(policy.tokenizer), console, sampling=SAMPLING, **options)
    return out.getvalue()


def answer(policy: Policy, *turns: Turn, tuned: bool = True) -> str:
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    prompts = [template.prompt_ids(turns)]
    if tuned:
        return engine.generate(prompts, SAMPLING)[0].text
    with policy.adapter_off():
        return engine.generate(prompts, SAMPLING)[0].text


def test_the_answers_are_the_models_and_stand_in_the_history(policy: Policy) -> None:
    console, out = screen()
    conversation = Chat(policy, Template(policy.tokenizer), console, sampling=SAMPLING)
    assert conversation.hear("hello")
    first = answer(policy, Turn("user", "hello"))
    assert first
    assert out.getvalue() == first + "\n"
    assert conversation.turns == [Turn("user", "hello"), Turn("assistant", first)]
    conversation.hear("and now?")
    assert conversation.turns[-1].text == answer(policy, *conversation.turns[:3])
    conversation.hear("/reset")
    assert conversation.turns == []


def test_a_thinking_block_that_the_prompt_opened_stands_in_the_history(policy: Policy) -> None:
    console, out = screen()
    template = Template(policy.tokenizer)
    opened = CHATML.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    policy.tokenizer.chat_template, before = opened, policy.tokenizer.chat_template
    try:
        conversation = Chat(policy, template, console, sampling=SAMPLING)
        conversation.hear("hello")
        said = answer(policy, Turn("user", "hello"))
        assert said and out.getvalue() == said + "\n"
        assert conversation.turns == [Turn("user", "hello"), Turn("assistant", "<think>\n" + said)]
    finally:
        policy.tokenizer.chat_template = before


def test_base_switches_the_adapter_off_and_on(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tuned = (answer(policy, Turn("user", "hi"), tuned=tuned) for tuned in (False, True))
    assert base != tuned
    shown = talk(policy, ["/base", "hi", "/reset", "/base", "hi"], monkeypatch)
    assert shown.index(base) < shown.index("adapter on") < shown.index(tuned)


def test_both_shows_both_and_goes_on_from_the_tuned_one(policy: Policy) -> None:
    console, out = screen()
    conversation = Chat(policy, Template(policy.tokenizer), console, sampling=SAMPLING, both=True)
    conversation.hear("hi")
    base, tuned = (answer(policy, Turn("user", "hi"), tuned=tuned) for tuned in (False, True))
    printable = [text.split("\n")[0].strip() for text in (base, tuned)]
    assert all(text in out.getvalue() for text in printable)
    assert conversation.turns[-1] == Turn("assistant", tuned)


def test_the_system_message_leads_the_conversation(policy: Policy) -> None:
    console, _ = screen()
    conversation = Chat(policy, Template(policy.tokenizer), console, sampling=SAMPLING, system="be brief")
    conversation.hear("hi")
    assert conversation.turns[0] == Turn("system", "be brief")
    assert conversation.turns[-1].text == answer(policy, Turn("system", "be brief"), Turn("user", "hi"))
    conversation.hear("/system be long")
    assert conversation.turns == [Turn("system", "be long")]


def test_what_cannot_be_answered_leaves_the_conversation_as_it_was(policy: Policy) -> None:
    console, out = screen()
    conversation = Chat(policy, Template(policy.tokenizer), console, sampling=SAMPLING)
    conversation.hear("hi")
    turns = list(conversation.turns)
    assert conversation.hear("x" * 600)
    assert "context ends at 512" in out.getvalue()
    assert conversation.turns == turns
    assert conversation.hear("/rest")
    assert "did you mean '/reset'" in out.getvalue()


def test_a_pipe_some_of_whose_lines_were_not_answered_does_not_end_well(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(LuthierError, match="lines without an answer: 1"):
        talk(policy, ["hello", "x" * 600, "hello"], monkeypatch)


def test_exit_and_the_end_of_input_end_it(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert talk(policy, ["/exit", "hi"], monkeypatch) == ""
    assert talk(policy, [], monkeypatch) == ""
    assert "/system TEXT" in talk(policy, ["/help"], monkeypatch)


def test_a_model_without_adapter_has_nothing_to_compare(policy: Policy, tmp_path: Path) -> None:
    shutil.copytree(policy.folder, tmp_path / "plain")
    plain = load(Model(name=str(tmp_path / "plain"), dtype="fp32"), train=False, device="cpu")
    console, out = screen()
    with pytest.raises(LuthierError, match="no adapter to switch off"):
        Chat(plain, Template(plain.tokenizer), console, both=True)
    Chat(plain, Template(plain.tokenizer), console).hear("/base")
    assert "no adapter to switch off" in out.getvalue()
