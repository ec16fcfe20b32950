"""What rows bring of a teacher's log-probabilities: found beside their tokens, in every shape that endpoints have."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_tokenizers import CHATML, letters

from luthier.data import Template, prepare
from luthier.errors import LuthierError
from luthier.forward.head import Likeliest
from luthier.recipe import Recipe, Train
from luthier.recipe.schema import Teacher
from luthier.serve.words.tokens import Told, for_chat, for_completions
from luthier.train.roles.teacher import Once
from luthier.workflow.teaching.said import CERTAIN, SaidByRows

END = "<|im_end|>"
HALF, TENTH = math.log(0.5), math.log(0.1)


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Template:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    start = "<|im_start|>"
    return Template(letters("<|endoftext|>", start, END, bos_token=start, eos_token=END, chat_template=CHATML))


def ids(template: Template, text: str) -> list[int]:
    return list(template.tokenizer(text, add_special_tokens=False)["input_ids"])


def told(template: Template, text: str) -> list[Told]:
    """Each letter with one half, the next letter of the alphabet with a tenth."""
    ours, others = ids(template, text), ids(template, "".join(chr(ord(letter) + 1) for letter in text))
    return [Told(one, HALF, ((one, HALF), (other, TENTH))) for one, other in zip(ours, others, strict=True)]


def shapes(template: Template, text: str) -> dict[str, Any]:
    said = told(template, text)
    chat = for_chat(template.tokenizer, said)
    numbered = json.loads(json.dumps(chat))
    for entry in (one for each in numbered["content"] for one in (each, *each["top_logprobs"])):
        (entry["token"],) = (f"token_id:{ids(template, entry['token'])[0]}",)
    return {
        "chat": chat,
        "list": chat["content"],
        "as JSON": json.dumps(chat),
        "numbers": numbered,
        "completion": for_completions(template.tokenizer, said, 2, 0),
        "ids": {"ids": [one.token for one in said], "top": [[list(pair) for pair in one.top] for one in said]},
    }


def read(
    template: Template, folder: Path, rows: list[dict[str, Any]], width: int = 4, **train: Any
) -> tuple[list[Likeliest], SaidByRows, Once]:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(
        model="tiny",
        data=str(path),
        teacher=Teacher(top=width),
        train=Train(**train),
        output="run",  # type: ignore[arg-type]
    )
    said, once = SaidByRows(recipe, template), Once(prepare(recipe, template).train)
    return list(said.read(once, width)), said, once


SHAPES = ["chat", "list", "as JSON", "numbers", "completion", "ids"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_says_the_same(template: Template, tmp_path: Path, shape: str) -> None:
    (found,), said, _ = read(
        template, tmp_path, [{"prompt": "hm", "completion": "ace", "logprobs": shapes(template, "ace")[shape]}]
    )
    a, c, e, b, d, f = (ids(template, letter)[0] for letter in "acebdf")
    (end,) = ids(template, END)
    assert found.ids_SK.tolist() == [[a, b, -1, -1], [c, d, -1, -1], [e, f, -1, -1], [end, -1, -1, -1]]
    torch.testing.assert_close(found.logp_SK[:3, :2], torch.tensor([[HALF, TENTH]] * 3))
    assert found.rest_S[:3].exp().tolist() == pytest.approx([0.4] * 3)
    assert found.rest_S[3].exp().item() == pytest.approx(CERTAIN) and said.certain == 1
    torch.testing.assert_close(found.buckets_SB.exp().sum(1), torch.ones(4))


def test_no_more_are_taken_than_are_kept(template: Template, tmp_path: Path) -> None:
    (found,), _, _ = read(
        template, tmp_path, [{"prompt": "hm", "completion": "a", "logprobs": shapes(template, "a")["chat"]}], width=1
    )
    assert found.ids_SK[0].tolist() == ids(template, "a") and found.rest_S[0].exp().item() == pytest.approx(0.5)


def test_the_last_answer_of_a_conversation_is_what_it_is_about(template: Template, tmp_path: Path) -> None:
    turns = [("user", "x"), ("assistant", "ya"), ("user", "z"), ("assistant", "ya")]
    messages = [{"role": role, "content": text} for role, text in turns]
    (found,), said, _ = read(template, tmp_path, [{"messages": messages, "logprobs": shapes(template, "ya")["chat"]}])
    assert len(found.rest_S) == 6 and said.certain == 4
    assert (found.ids_SK[:, 1] >= 0).tolist() == [False, False, False, True, True, False]


def test_rows_that_were_said_as_other_tokens_are_learnt_as_text_and_named(
    template: Template, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"prompt": "hm", "completion": "ab", "logprobs": shapes(template, "ac")["chat"]}]
    rows += [{"prompt": f"{n}", "completion": "ab", "logprobs": shapes(template, "ab")["chat"]} for n in range(3)]
    with pytest.raises(LuthierError, match=r"rows.jsonl:1.*1 of 4 rows hold other tokens"):
        read(template, tmp_path, rows)
    found, said, _ = read(template, tmp_path, rows, max_lost=0.3)
    assert [name.rpartition(":")[2] for name in said.otherwise] == ["1"]
    assert found[0].ids_SK[0].tolist() == [*ids(template, "a"), -1, -1, -1]
    assert found[1].ids_SK[0, 1] >= 0
    assert "1 rows were said as other tokens, and are learnt as text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("logprobs", "words"),
    [
        (None, "the row has no `logprobs`, and no teacher is named"),
        ({"content": [{"token": "中文", "logprob": -1.0}]}, "no token '中文': the teacher has another vocabulary"),
        ({"content": [{"token": "a", "logprob": "x"}]}, "the log-probability of 'a' is 'x'"),
        ({"content": [{"token": "a", "bytes": "no", "logprob": 0.0}]}, "are no bytes"),
        ({"ids": [5], "top": [[[10**6, -1.0]]]}, "there is no token 1000000"),
        ({"ids": [5], "top": [[[5, 0.0], [6, 0.0]]]}, "add up to more than 1"),
        ({"ids": [5], "top": [[]]}, "are missing"),
        ({"ids": [5], "top": [5]}, "not pairs of an id"),
        ({"ids": [5], "top": []}, "it tells of 0 places and 1 tokens"),
        ({"content": []}, "it tells of 0 places"),
        ({"ids": 5, "top": []}, "'ids' is no list"),
        ("{", "text, but not JSON"),
        (7, "neither `content`, nor `tokens`, nor `ids`"),
        ([-0.1], "neither `content`, nor `tokens`, nor `ids`"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_row(
    template: Template, tmp_path: Path, logprobs: Any, words: str
) -> None:
    rows = [
        {"prompt": "hm", "completion": "ab", "logprobs": shapes(template, "ab")["ids"]},
        {"prompt": "x", "completion": "a", "logprobs": logprobs},
    ]
    with pytest.raises(LuthierError) as caught:
        read(template, tmp_path, rows)
    assert words in caught.value.what and str(caught.value.where).endswith("rows.jsonl:2") and caught.value.fix


def test_other_log_probabilities_of_the_same_rows_are_another_teacher(template: Template, tmp_path: Path) -> None:
    row = {"prompt": "hm", "completion": "ab", "logprobs": shapes(template, "ab")["ids"]}
    _, one, _ = read(template, tmp_path, [row])
    first = one.identity
    row["logprobs"]["top"][0][0][1] = -0.25
    _, other, _ = read(template, tmp_path, [row])
    assert first != other.identity
