"""Judged responses that people have: HH-RLHF, GSM8K model solutions, LLaMA-Factory's demo files."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from pathlib import Path
from typing import Any

import chat_templates as ct
import pytest

from luthier.data import Ledger, Template, read
from luthier.recipe import Source
from luthier.types import Example

DATA = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared")) / "data"
HH = DATA / "hh-rlhf/harmless-base/test.jsonl.gz"
WHO = {"user": "Human", "assistant": "Assistant"}


def there(*names: str) -> Any:
    return pytest.mark.skipif(not all((DATA / name).exists() for name in names), reason="no shared data")


def rows(ledger: Ledger, **source: Any) -> list[Example]:
    return list(read([Source(**source)], ledger))


def transcript(example: Example, response: int) -> str:
    turns = (*example.prompt, *example.responses[response].turns)
    return "".join(f"\n\n{WHO[turn.role]}: {turn.text}" for turn in turns)


@there("hh-rlhf")
def test_hh_transcripts_become_themselves_again() -> None:
    """Every row that is read says what it said, white space at the edges of turns aside; nine of 2,312 are no pairs."""
    ledger = Ledger()
    examples = rows(ledger, path=str(HH))
    assert ledger.rows_read == 2312 and len(examples) == 2303
    assert {reason: entry.count for reason, entry in ledger.reasons.items()} == {
        "'chosen' and 'rejected' do not share a prompt: they differ before their last turn": 5,
        "'chosen' is empty": 4,
    }
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line in file]
    exact = 0
    for example in examples:
        assert example.source is not None
        row = given[example.source.row - 1]
        for i, name in enumerate(("chosen", "rejected")):
            again = transcript(example, i)
            exact += again == row[name]
            assert "".join(again.split()) == "".join(row[name].split())
        assert example.prompt[-1].role == "user" and example.prompt[0].role == "user"
        assert all(response.turns[0].text for response in example.responses)
    assert exact >= 2 * len(examples) - 8


@there("hh-rlhf")
def test_hh_rows_are_dropped_for_what_is_wrong_with_them() -> None:
    ledger = Ledger()
    rows(ledger, path=str(HH))
    with gzip.open(HH, "rt", encoding="utf-8") as file:
        given = [json.loads(line) for line in file]
    assert {"empty" in reason for reason in ledger.reasons} == {True, False}
    assert all(entry.rows for entry in ledger.reasons.values())
    for reason, entry in ledger.reasons.items():
        for place in entry.rows:
            row = given[int(place.rpartition(":")[2]) - 1]
            if "empty" in reason:
                assert row["chosen"].endswith("\n\nAssistant: ")
            else:  # one transcript has a speaker inside a line, so that two turns of the assistant follow each other
                asked = [row[name].rpartition("\n\nAssistant:")[0] for name in ("chosen", "rejected")]
                assert asked[0] != asked[1]


@there("hh-rlhf")
def test_hh_pairs_share_their_prompt_s_tokens() -> None:
    template = Template(ct.tokenizer())
    examples = list(itertools.islice(read([str(HH)]), 20))
    assert len(examples) == 20
    for example in examples:
        encoded = template.encode(example)
        prompt = template.prompt_ids(example.prompt)
        assert encoded.shared >= len(prompt) and encoded.ids[1][: len(prompt)].tolist() == prompt
        for i, response in enumerate(example.responses):
            trained = encoded.ids[i][encoded.weights[i] > 0].tolist()
            assert template.tokenizer.decode(trained) == response.turns[0].text + "<|im_end|>"


@there("gsm8k-model-solutions")
def test_gsm8k_model_solutions() -> None:
    ledger = Ledger()
    pairs = rows(ledger, path=str(DATA / "gsm8k-model-solutions/pairs.jsonl"))
    labelled = rows(ledger, path=str(DATA / "gsm8k-model-solutions/unpaired.jsonl"))
    assert ledger.rows_dropped == 0 and (len(pairs), len(labelled)) == (2429, 5276)
    assert {tuple(r.reward for r in pair.responses) for pair in pairs} == {(1.0, 0.0)}
    assert sum(one.responses[0].reward or 0.0 for one in labelled) == 2001


@there("llamafactory-demo")
@pytest.mark.parametrize(
    ("name", "shape", "scores"),
    [
        ("dpo_en_demo", "preference", {(1.0, 0.0): 300}),
        ("dpo_zh_demo", "preference", {(1.0, 0.0): 300}),
        ("kto_en_demo", "unpaired", {(1.0,): 150, (0.0,): 150}),
    ],
)
def test_llamafactory_s_entries_and_their_bare_files(name: str, shape: str, scores: dict[Any, int]) -> None:
    found = []
    folder = DATA / "llamafactory-demo"
    for source in ({"llamafactory": str(folder), "name": name}, {"path": str(folder / f"{name}.json")}):
        ledger = Ledger()
        examples = rows(ledger, **source)
        assert ledger.rows_dropped == 0 and next(iter(ledger.sources.values())).shape == shape
        each = [tuple(response.reward for response in example.responses) for example in examples]
        assert {score: each.count(score) for score in set(each)} == scores
        found.append([(example.prompt, example.responses) for example in examples])
    assert found[0] == found[1]


@there("llamafactory-demo")
def test_llamafactory_s_typed_messages() -> None:
    columns = {"chosen": "chosen_messages", "rejected": "rejected_messages"}
    examples = rows(Ledger(), path=str(DATA / "llamafactory-demo/v1_dpo_demo.jsonl"), columns=columns)
    assert len(examples) == 10 and all(len(example.responses) == 2 for example in examples)
