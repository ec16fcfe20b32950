"""Entries of dataset_info.json: LLaMA-Factory's semantics without its silent faults."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from luthier.data import Ledger, read
from luthier.errors import LuthierError
from luthier.recipe import Source as Entry
from luthier.types import RAW, Example

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[4] / "shared"))
DEMO = SHARED / "data/llamafactory-demo"
LOCAL = {
    "identity": 91, "alpaca_en_demo": 999, "alpaca_zh_demo": 1000, "glaive_toolcall_en_demo": 300,
    "glaive_toolcall_zh_demo": 300, "mllm_demo": 6, "mllm_audio_demo": 3, "mllm_video_demo": 3,
    "mllm_video_audio_demo": 3, "dpo_en_demo": 300, "dpo_zh_demo": 300, "kto_en_demo": 300, "wiki_demo": 30,
    "c4_demo": 300,
}  # fmt: skip


@pytest.mark.skipif(not DEMO.is_dir(), reason="no shared data")
@pytest.mark.parametrize("name", LOCAL)
def test_the_demo_entries_are_read_whole_with_roles_tools_media_and_labels(name: str) -> None:
    ledger = Ledger()
    examples = list(read([Entry(llamafactory=str(DEMO), name=name)], ledger))
    assert len(examples) == LOCAL[name] and not ledger.rows_dropped
    first = examples[0]
    assert len(first.responses) == (2 if name.startswith("dpo") else 1)
    assert (first.responses[0].turns[0].role == RAW) == (name in ("wiki_demo", "c4_demo"))
    assert bool(first.tools) == name.startswith("glaive")
    assert bool(first.prompt and first.prompt[0].media) == name.startswith("mllm")
    assert {e.responses[0].reward for e in examples} == (
        {0.0, 1.0} if "kto" in name else {1.0} if "dpo" in name else {None}
    )


def entry(folder: Path, rows: list[dict[str, Any]], **info: Any) -> list[Example]:
    (folder / "rows.json").write_text(json.dumps(rows))
    (folder / "dataset_info.json").write_text(json.dumps({"mine": {"file_name": "rows.json", **info}}))
    return list(read([Entry(llamafactory=str(folder), name="mine")]))


def test_columns_that_are_not_listed_are_absent(tmp_path: Path) -> None:
    rows = [{"q": "2+2?", "a": "4", "system": "Sum", "instruction": "no"}]
    (example,) = entry(tmp_path, rows, columns={"prompt": "q", "response": "a"})
    assert [(turn.role, turn.text) for turn in example.prompt] == [("user", "2+2?")]
    (example,) = entry(tmp_path, rows, columns={"prompt": "q", "response": "a", "system": "system"})
    assert example.prompt[0].text == "Sum"


def test_tags_that_are_not_listed_keep_their_defaults(tmp_path: Path) -> None:
    rows = [{"talk": [{"who": "system", "what": "Sum"}, {"who": "human", "what": "2+2?"}, {"who": "gpt", "what": "4"}]}]
    tags = {"role_tag": "who", "content_tag": "what"}
    (example,) = entry(tmp_path, rows, formatting="sharegpt", columns={"messages": "talk"}, tags=tags)
    assert [turn.role for turn in example.prompt] == ["system", "user"]


def test_openai_formatting_adds_no_system_prompt(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]}]
    (example,) = entry(tmp_path, rows, formatting="openai")
    assert [turn.role for turn in example.prompt] == ["user"]


def test_ranking_gives_pairs_and_kto_tags_labels(tmp_path: Path) -> None:
    pair = [{"instruction": "Add", "input": "2+2", "chosen": "4", "rejected": "5"}]
    (example,) = entry(tmp_path, pair, ranking=True)
    assert example.prompt[0].text == "Add\n2+2" and len(example.responses) == 2
    columns = {"prompt": "instruction", "response": "output", "kto_tag": "ok"}
    rows = [{"instruction": "Add", "output": "4", "ok": True}, {"instruction": "Add", "output": "5", "ok": 0}]
    (example,) = entry(tmp_path, rows, columns=columns)  # only true and false count, 0 and 1 do not
    assert example.responses[0].reward == 1.0


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"formating": "sharegpt"}, "(?s)unknown key 'formating'.*formatting"),
        ({"formatting": "sharegtp"}, "(?s)unknown formatting 'sharegtp'.*sharegpt"),
        ({"columns": {"promt": "q"}}, "(?s)unknown column 'promt'.*prompt"),
        ({"formatting": "sharegpt", "tags": {"role": "q"}}, "(?s)unknown tag 'role'.*role_tag"),
        ({"script_url": "load.py"}, "`script_url` is not supported"),
        ({"file_name": "nothing.json"}, "nothing.json: no such file"),
    ],
)
def test_faults_of_an_entry_are_named_with_the_nearest_key(info: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(LuthierError, match=message):
        entry(tmp_path, [{"instruction": "a", "output": "b"}], **info)


def test_entries_that_are_not_there(tmp_path: Path) -> None:
    entry(tmp_path, [{"instruction": "a", "output": "b"}])
    with pytest.raises(LuthierError, match=r"(?s)no entry 'mien'.*did you mean 'mine'"):
        list(read([Entry(llamafactory=str(tmp_path), name="mien")]))
    with pytest.raises(LuthierError, match=r"dataset_info.json.bak: no such file"):
        list(read([Entry(llamafactory=str(tmp_path / "dataset_info.json.bak"), name="a")]))
