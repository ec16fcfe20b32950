"""What a run makes of templates and tokens that do not fit: told before training, or mended for all who ask later."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench
from transformers import AutoTokenizer

from luthier.cli import main
from luthier.data import Template
from luthier.types import Turn

HEADER = "<|im_start|>assistant\n"
MUTE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
PAIR = {"prompt": "count", "chosen": {"role": "assistant", "content": "ab", "weight": 0.5}, "rejected": "ba"}


@pytest.fixture
def model(bench: Bench, tiny_model: Path) -> Path:
    """A copy of the tiny model, to be changed."""
    return Path(shutil.copytree(tiny_model, bench.folder / "model"))


def change(folder: Path, template: str | None = None, **special: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(special.get("tokens", []))
    tokenizer.chat_template = template or tokenizer.chat_template
    tokenizer.save_pretrained(folder)


def test_a_template_without_a_generation_prompt_is_exported_with_one(
    bench: Bench, model: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    change(model, MUTE)
    assert bench.here("train", model={"name": str(model), "dtype": "fp32"}, export="merged") == 0
    assert "has no generation prompt" in capfd.readouterr().err
    tokenizer = AutoTokenizer.from_pretrained(bench.run / "merged")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], add_generation_prompt=True)["input_ids"]
    assert tokenizer.decode(asked).endswith(HEADER)
    assert Template(AutoTokenizer.from_pretrained(model)).prompt_ids([Turn("user", "hi")]) == asked


def test_a_token_that_the_model_has_no_embedding_for(
    bench: Bench, model: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(model, tokens=["<tool>"])
    named = {"name": str(model), "dtype": "fp32"}

    def refused(run: Callable[[], int]) -> str:
        assert run() == 1
        said = capfd.readouterr().err
        assert "Traceback" not in said and "'<tool>' (259)" in said and "resize_token_embeddings" in said
        return said

    good = (bench.folder / "rows.jsonl").read_text()
    held = bench.folder / "held.jsonl"
    held.write_text(json.dumps({"prompt": "a <tool>", "completion": "b"}) + "\n")
    (bench.folder / "rows.jsonl").write_text(good + held.read_text())
    assert "rows.jsonl:13: " in refused(lambda: bench.here("train", model=named))
    (bench.folder / "rows.jsonl").write_text(good)
    task = {"data": "held.jsonl", "scorers": "exact_match"}
    assert "held.jsonl:1: " in refused(lambda: bench.here("train", model=named, evaluate=[task]))
    assert not (bench.run / "adapter").exists()
    lines = iter(["a <tool>"])
    monkeypatch.setattr("rich.console.Console.input", lambda *_: next(lines, "/exit"))
    bench.inside(main, "chat", str(model))
    assert "'<tool>' (259)" in capfd.readouterr().out


def test_weights_of_turns_that_an_objective_would_not_look_at(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    (bench.folder / "rows.jsonl").write_text(json.dumps({**PAIR, "rejected": "ab ba"}) + "\n")
    assert bench.here("data", objective="dpo") == 1
    said = capfd.readouterr().err
    assert "rows.jsonl:1: 1 row gives a turn of a judged response a weight other than 0 and 1" in said
    assert bench.here("data", objective={"sum": {"dpo": {}, "sft": 0.5}}) == 1
    assert "takes responses whole" in capfd.readouterr().err
    spoken = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]
    (bench.folder / "rows.jsonl").write_text(json.dumps({"messages": spoken}) + "\n")
    assert bench.here("data") == 0


def test_earlier_turns_of_a_pair_may_have_weights(bench: Bench) -> None:
    """They are a part of the prompt, which never trains."""
    spoken = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]
    ends = [[*spoken, {"role": "user", "content": "r"}, {"role": "assistant", "content": text}] for text in "bc"]
    (bench.folder / "rows.jsonl").write_text(json.dumps({"chosen": ends[0], "rejected": ends[1]}) + "\n")
    assert bench.here("data", objective="dpo") == 0
