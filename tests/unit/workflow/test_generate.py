"""`luthier generate`: the engine's own answers in a file, gone on with after a kill."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from endpoints import endpoint, said
from processes import FORKED
from tiny_tokenizers import CHATML, letters

from luthier import verbs
from luthier.data import Template
from luthier.engines import LocalEngine
from luthier.engines.text import whole
from luthier.errors import LuthierError
from luthier.models import load
from luthier.recipe.schema import Model
from luthier.types import Request, Sampling, Turn

QUESTIONS = ["one?", "two?", "a longer one, number three?", "two?", "five?"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("models") / "model", 0)


def saved(folder: Path, seed: int) -> Path:
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": 256}
    module = tiny.model(seed, **sizes, initializer_range=0.3, bos_token_id=1, eos_token_id=2)
    with torch.no_grad():
        module.lm_head.weight[2] *= 3  # the end comes now and then
    module.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def prompts(folder: Path, questions: Sequence[str] = QUESTIONS) -> Path:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": question}) + "\n" for question in questions))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def key(row: dict[str, Any]) -> tuple[str, int]:
    return row["source"], row["index"]


WARM = ["n=3", "temperature=1.1", "max_new_tokens=12", "seed=4"]


def test_each_answer_is_the_engines_own(model: Path, tmp_path: Path) -> None:
    given = prompts(tmp_path)
    rows = read(verbs.generate(model, given, tmp_path / "out.jsonl", [*WARM, "ids=true", "logprobs=true"]))
    assert sorted(map(key, rows)) == [(f"{given}:{line}", index) for line in range(1, 6) for index in range(3)]
    assert {row["finish"] for row in rows} == {"stop", "length"}, "else the test shows nothing"
    policy = load(Model(name=str(model)), train=False)
    template = Template(policy.tokenizer)
    engine = LocalEngine(policy.module, policy.tokenizer, template.stop_ids)
    for row in rows:
        assert row["tokens"] == len(row["ids"]) == len(row["logprobs"])
        ids = [token for token in row["ids"] if token not in template.stop_ids]
        assert row["text"] == whole(policy.tokenizer, ids)
    greedy = read(verbs.generate(model, given, tmp_path / "greedy.jsonl", ["max_new_tokens=12"]))
    for row, question in zip(sorted(greedy, key=key), QUESTIONS, strict=True):
        ids = tuple(template.prompt_ids([Turn("user", question)]))
        (expected,) = engine.run([Request(ids, Sampling(max_new_tokens=12))])
        assert (row["text"], row["finish"], row["tokens"]) == (expected.text, expected.finish, len(expected.sampled))


def test_a_prompt_is_answered_alike_wherever_it_stands(model: Path, tmp_path: Path) -> None:
    first = read(verbs.generate(model, prompts(tmp_path), tmp_path / "a.jsonl", WARM))
    moved = read(verbs.generate(model, prompts(tmp_path, QUESTIONS[::-1]), tmp_path / "b.jsonl", WARM))
    assert {(row["key"], row["index"]): row["text"] for row in first} == {
        (row["key"], row["index"]): row["text"] for row in moved
    }
    assert len({row["text"] for row in first if row["source"].endswith((":2", ":4"))}) > 3, (
        "equal prompts are drawn apart"
    )


def test_killed_and_run_again_it_has_the_same_answers(model: Path, tmp_path: Path) -> None:
    given, out = prompts(tmp_path, [f"question {n}?" for n in range(60)]), tmp_path / "out.jsonl"
    arguments = [*WARM, "max_new_tokens=24"]
    process = FORKED.Process(target=verbs.generate, args=(model, given, out, arguments))
    process.start()
    end = time.monotonic() + 60
    while not (out.exists() and out.read_bytes().count(b"\n") >= 20) and time.monotonic() < end:
        time.sleep(0.005)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    before = out.read_bytes()
    whole = before[: before.rfind(b"\n") + 1]
    assert 20 <= whole.count(b"\n") < 180, "it was killed on the way"
    out.write_bytes(whole + b'{"source": "cut off in the mid')
    verbs.generate(model, given, out, arguments)
    assert out.read_bytes().startswith(whole), "what was there stays"
    unbroken = read(verbs.generate(model, given, tmp_path / "unbroken.jsonl", arguments))
    assert sorted(read(out), key=key) == sorted(unbroken, key=key) and len(unbroken) == 180


def test_more_answers_and_more_prompts_are_added(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    verbs.generate(model, prompts(tmp_path, QUESTIONS[:3]), out, ["n=2", *WARM[1:]])
    few = out.read_text()
    verbs.generate(model, prompts(tmp_path), out, WARM)
    assert out.read_text().startswith(few)
    assert sorted(read(out), key=key) == sorted(
        read(verbs.generate(model, prompts(tmp_path), tmp_path / "other.jsonl", WARM)), key=key
    )
    capsys.readouterr()
    verbs.generate(model, prompts(tmp_path), out, WARM)
    assert capsys.readouterr().err.strip() == "5 of 5 prompts are answered already"


def test_what_was_made_otherwise_is_not_gone_on_with(model: Path, tmp_path: Path) -> None:
    given, out = prompts(tmp_path), tmp_path / "out.jsonl"
    verbs.generate(model, given, out, ["max_new_tokens=4"])
    before = out.read_bytes()
    cases = {
        r"max_new_tokens \(4 there, 5 here\)": (model, given, ["max_new_tokens=5"]),
        "weights": (saved(tmp_path / "other", 1), given, ["max_new_tokens=4"]),
        "answers 1 prompts that are not among these": (model, prompts(tmp_path, QUESTIONS[1:]), ["max_new_tokens=4"]),
    }
    for message, (other, asked, keys) in cases.items():
        with pytest.raises(LuthierError, match=message) as error:
            verbs.generate(other, asked, out, keys)
        assert "--overwrite" in (error.value.fix or "") and out.read_bytes() == before
    verbs.generate(model, given, out, ["max_new_tokens=5"], overwrite=True)
    assert len(read(out)) == 4
    (tmp_path / "out.jsonl.about.json").unlink()
    with pytest.raises(LuthierError, match="how its answers were made, is not there"):
        verbs.generate(model, given, out, ["max_new_tokens=5"])
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text('{"text": "mine"}\n')
    with pytest.raises(LuthierError, match="is not empty"):
        verbs.generate(model, given, foreign)
    assert foreign.read_text() == '{"text": "mine"}\n'


def test_a_line_that_was_changed_is_named(model: Path, tmp_path: Path) -> None:
    out = verbs.generate(model, prompts(tmp_path), tmp_path / "out.jsonl", ["max_new_tokens=4"])
    lines = out.read_text().splitlines(keepends=True)
    out.write_text(lines[0] + '{"half": \n' + "".join(lines[1:]))
    with pytest.raises(LuthierError, match=re.escape(f"{out}:2: the line is no answer")):
        verbs.generate(model, prompts(tmp_path), out, ["max_new_tokens=4"])


def test_rows_of_every_kind_are_prompts_and_bad_ones_are_named(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    (tmp_path / "talk.jsonl").write_text(json.dumps({"messages": talk}) + "\n" + json.dumps({"messages": []}) + "\n")
    (row,) = read(verbs.generate(model, tmp_path / "talk.jsonl", tmp_path / "a.jsonl", ["max_new_tokens=6"]))
    told = capsys.readouterr().err
    assert f"({tmp_path}/talk.jsonl:2)" in told and "1 of 2 rows are not answered" in told
    assert "1 answers" in told and "tokens/s" in told
    (tmp_path / "hi.jsonl").write_text('{"prompt": "hi"}\n')
    (same,) = read(verbs.generate(model, tmp_path / "hi.jsonl", tmp_path / "b.jsonl", ["max_new_tokens=6"]))
    assert row["text"] == same["text"] and row["key"] == same["key"], "the answer that the row has is not shown"
    (tmp_path / "text.txt").write_text("Once upon a time")
    (went,) = read(verbs.generate(model, tmp_path / "text.txt", tmp_path / "c.jsonl", ["max_new_tokens=6"]))
    assert went["source"] == f"{tmp_path}/text.txt:1" and went["key"] != row["key"]
    (tmp_path / "q.csv").write_text("question,other\nhi,1\n")
    keys = ["max_new_tokens=6", "data.columns.prompt=question"]
    (mapped,) = read(verbs.generate(model, tmp_path / "q.csv", tmp_path / "d.jsonl", keys))
    assert mapped["text"] == row["text"]


def test_what_cannot_be_answered_is_said_before_anything_is(model: Path, tmp_path: Path) -> None:
    given = prompts(tmp_path, ["short?", "long? " * 60])
    with pytest.raises(LuthierError, match=r"prompts.jsonl:2: the prompt has \d+ tokens, the model's context is 256"):
        verbs.generate(model, given, tmp_path / "out.jsonl")
    with pytest.raises(LuthierError, match="unknown key 'temprature'"):
        verbs.generate(model, given, tmp_path / "out.jsonl", ["temprature=1"])
    with pytest.raises(LuthierError, match="n must be greater than 0"):
        verbs.generate(model, given, tmp_path / "out.jsonl", ["n=0"])
    with pytest.raises(LuthierError, match="n is 2, which needs a temperature above 0"):
        verbs.generate(model, given, tmp_path / "out.jsonl", ["n=2"])
    with pytest.raises(LuthierError, match="unknown engine 'lokal'"):
        verbs.generate(model, given, tmp_path / "out.jsonl", ["engine=lokal"])
    with pytest.raises(LuthierError, match=r"none.jsonl"):
        verbs.generate(model, tmp_path / "none.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(LuthierError, match="this is a folder"):
        verbs.generate(model, prompts(tmp_path), tmp_path)


def test_an_endpoint_answers_without_any_weights_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("luthier.models.load", lambda *_, **__: pytest.fail("weights were loaded"))
    with endpoint(lambda _, body: said(body["messages"][-1]["content"].upper(), finish="length")) as found:
        keys = [f"engine={{openai: {{url: '{found.url}', model: m}}}}", "engine.openai.concurrency=2"]
        out = verbs.generate(model, prompts(tmp_path), tmp_path / "out.jsonl", keys)
        assert {key(row)[0].rpartition(":")[2]: row["text"] for row in read(out)} == {
            str(line): question.upper() for line, question in enumerate(QUESTIONS, 1)
        }
        assert "5 were cut off at their longest (max_new_tokens=256)" in capsys.readouterr().err
        with pytest.raises(LuthierError, match=r"prompts.jsonl:\d: the answer came as text alone"):
            verbs.generate(model, prompts(tmp_path), tmp_path / "ids.jsonl", [*keys, "ids=true"])
        with pytest.raises(LuthierError, match="engine"):
            verbs.generate(model, prompts(tmp_path), out, [keys[0].replace("model: m", "model: other")])


def test_answers_are_never_written_over_their_prompts(model: Path, tmp_path: Path) -> None:
    given = prompts(tmp_path)
    before = given.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(given)
    for out in (given, tmp_path / "link.jsonl"):
        with pytest.raises(LuthierError, match="the prompts are read from this file"):
            verbs.generate(model, given, out, ["max_new_tokens=2"], overwrite=True)
    assert given.read_bytes() == before


def test_what_cannot_be_seen_is_not_answered(model: Path, tmp_path: Path) -> None:
    given = tmp_path / "pictures.jsonl"
    content = [{"type": "text", "text": "what is it"}, {"type": "image", "image": "x"}]
    for row in ({"messages": [{"role": "user", "content": content}]}, {"prompt": "what is it", "images": ["x.png"]}):
        given.write_text(json.dumps(row) + "\n")
        with pytest.raises(LuthierError, match="which no answer would see"):
            verbs.generate(model, given, tmp_path / "out.jsonl", ["max_new_tokens=2"])
        assert not (tmp_path / "out.jsonl").exists()
