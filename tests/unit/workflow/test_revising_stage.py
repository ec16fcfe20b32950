"""A stage that revises answers: what it writes, gone on with, refused; and Constitutional AI from end to end."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from tiny_tokenizers import CHATML, letters

from luthier import verbs
from luthier.data import Ledger
from luthier.data import read as read_rows
from luthier.engines.openai.kept import Kept
from luthier.errors import LuthierError
from luthier.recipe import Source
from luthier.scorers.judges import asking
from luthier.workflow.pipeline import reading

REVISED = """
output: out
stages:
  revised: {kind: revise, model: MODEL, data: asked.jsonl, rounds: 2, max_new_tokens: 60, temperature: 1.0}
"""
WHOLE = """
output: out
stages:
  first: {kind: generate, model: MODEL, data: asked.jsonl, temperature: 1.0, max_new_tokens: 60}
  revised:
    kind: revise
    model: MODEL
    answers: $first
    constitution: own.yaml
    rounds: 1
    max_new_tokens: 60
    temperature: 1.0
  sft: {recipe: train.yaml, model: MODEL, data: $revised, objective: sft}
  answers: {kind: generate, model: $sft, data: asked.jsonl, n: 3, temperature: 1.0, max_new_tokens: 8}
  pairs:
    kind: select
    answers: $answers
    reward: [judge: {model: JUDGE, constitution: own.yaml, reads: tokens}]
    keep: pairs
  preference: {recipe: train.yaml, model: $sft, data: $pairs, objective: reward}
  rl:
    recipe: train.yaml
    model: $sft
    data: asked.jsonl
    objective: grpo
    rollout: {n: 4, prompts: 2, max_new_tokens: 4}
    reward: [reward_model: $preference]
"""
TRAIN = """
model: nothing
data: nothing.jsonl
adapt: {lora: {r: 2}}
train: {steps: 2, batch: 2, threads: 1, max_tokens: 400, lr: 0.01}
output: elsewhere
"""
OWN = """
language: en
principles:
  - {name: brief, compare: Choose the brief one., critique: Say where it is long., revise: Write it briefly.}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that ends its answers now and then; and one that answers a question by A or B, which of them hangs a little
    on what it has read."""
    folder = tmp_path_factory.mktemp("models")
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer = letters("<|endoftext|>", start, end, bos_token=start, eos_token=end, chat_template=CHATML)
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "num_hidden_layers": 1, "max_position_embeddings": 8192}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    speaker = tiny.model(0, **sizes, **ends, initializer_range=0.3)
    speaker.lm_head.weight.data[2] *= 4
    judge = tiny.model(1, **sizes, **ends, initializer_range=0.02)
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "A or B?"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )["input_ids"]
    with torch.no_grad():
        hidden = judge.model(asked).last_hidden_state[0, -1]
    a, b = tokenizer.convert_tokens_to_ids(["A", "B"])
    head = judge.lm_head.weight.data
    head[a] = head[b] = 12 * hidden / hidden.norm() ** 2
    head[a] += 5 * torch.randn(len(hidden), generator=torch.Generator().manual_seed(0)) / len(hidden)
    for name, module in (("speaker", speaker), ("judge", judge)):
        module.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


@pytest.fixture
def place(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with a cache of its own."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"what is {n}?"} for n in range(8)]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "train.yaml").write_text(TRAIN)
    (tmp_path / "own.yaml").write_text(OWN)
    for name, text in (("revised", REVISED), ("whole", WHOLE)):
        (tmp_path / f"{name}.yaml").write_text(
            text.replace("MODEL", f"{models}/speaker").replace("JUDGE", f"{models}/judge")
        )
    asking.forget()
    return tmp_path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_revision_is_a_row_to_learn_from_and_what_is_left_out_is_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = verbs.run("revised.yaml") / "revised"
    rows, ledger = lines(out / "rows.jsonl"), lines(out / "ledger.jsonl")
    assert 0 < len(rows) < len(ledger) == 8, "a model that ends its answers now and then"
    assert [line["kept"] for line in ledger].count(True) == len(rows)
    for row, line in zip(rows, [line for line in ledger if line["kept"]], strict=True):
        assert row["messages"][-1] == {"role": "assistant", "content": row["revisions"][-1]["revision"]}
        assert [one["principle"] for one in row["revisions"]] == line["principles"] and len(line["principles"]) == 2
    examples = list(read_rows([Source(path=str(out / "rows.jsonl"))], Ledger()))
    assert [example.responses[0].turns[0].text for example in examples] == [r["messages"][-1]["content"] for r in rows]
    told = " ".join(capsys.readouterr().err.split())
    assert f"{len(rows)} of 8 answers are revised in 2 rounds; {8 - len(rows)} left out" in told
    lost = Counter(f"{line['at']} {line['why']}" for line in ledger if not line["kept"])
    assert all(f"{reason} ({count})" in told for reason, count in lost.items())
    assert f"{len(rows)} of 8 answers revised" in (place / "out" / "report.html").read_text()


def test_stopped_on_the_way_it_asks_only_for_what_it_has_not_heard(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = (verbs.run("revised.yaml", ["output=whole"]) / "revised" / "rows.jsonl").read_text()
    every = len(list((place / "cache" / "answers").rglob("*.json")))
    monkeypatch.setenv("LUTHIER_CACHE", str(place / "another"))
    keep, kept, asked = Kept.keep, [], []

    def dying(self: Kept, name: str, answer: Any) -> None:
        keep(self, name, answer)
        kept.append(name)
        if len(kept) == 11:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Kept, "keep", dying)
        verbs.run("revised.yaml")
    asking.forget()
    monkeypatch.setattr(Kept, "keep", lambda self, name, answer: (keep(self, name, answer), asked.append(name))[0])
    assert (verbs.run("revised.yaml") / "revised" / "rows.jsonl").read_text() == whole
    assert len(asked) == every - 11 and not set(asked) & set(kept)


def test_constitutional_ai_from_prompts_to_reinforcement(place: Path) -> None:
    out = verbs.run("whole.yaml")
    book = json.loads((out / "pipeline.json").read_text())["stages"]
    assert list(book) == ["first", "revised", "sft", "answers", "pairs", "preference", "rl"]
    assert {record["state"] for record in book.values()} == {"finished"}
    firsts = {row["source"]: row["text"] for row in lines(out / "first/answers.jsonl") if row["finish"] == "stop"}
    assert {row["first"] for row in lines(out / "revised/rows.jsonl")} <= {text.strip() for text in firsts.values()}
    ledger = lines(out / "pairs/ledger.jsonl")
    assert len(ledger) == 24 and all(0 <= line["reward"] <= 1 for line in ledger if line["reward"] is not None)
    assert all({"chosen", "rejected"} <= row.keys() for row in lines(out / "pairs/rows.jsonl"))
    assert list((out / "preference/adapter").glob("head*.safetensors")) and (out / "rl/adapter").is_dir()
    rollouts = [json.loads(line) for line in (out / "rl/events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in rollouts if event["kind"] == "rollout"] == [1, 2]
    (place / "own.yaml").write_text(OWN.replace("briefly", "in a word"))
    with pytest.raises(LuthierError, match=r"'revised' .*own.yaml has another content"):
        verbs.run("whole.yaml")


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ("model: m", "nothing says what is to be revised"),
        ("data: asked.jsonl", "'model' is missing"),
        ("model: m, data: asked.jsonl, rounds: 17", "17 rounds, and the constitution has 16 principles"),
        ("model: m, data: asked.jsonl, constitution: none.yaml", "the constitution cannot be read"),
        ("model: m, data: asked.jsonl, round: 1", "unknown key 'round'"),
        ("model: m, answers: a.jsonl", "nothing says which prompts were answered"),
        ("model: m, answers: $s", "which has answered nothing"),
    ],
)
def test_what_is_wrong_is_told_before_anything_begins(place: Path, keys: str, match: str) -> None:
    text = f"output: o\nstages:\n  s: {{recipe: train.yaml}}\n  r: {{kind: revise, {keys}}}"
    (place / "wrong.yaml").write_text(text)
    with pytest.raises(LuthierError, match=match) as told:
        reading.read("wrong.yaml")
    assert told.value.where and told.value.fix
