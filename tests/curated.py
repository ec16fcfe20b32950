"""Rows of every kind, and steps that are run on them as a recipe would."""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scripted import Scripted

from luthier.data.curation.calls import Calls
from luthier.data.curation.chain import Curated
from luthier.data.curation.feeds import opened
from luthier.data.curation.lines import body
from luthier.data.curation.stages import Settings
from luthier.data.encode.rendering import RowFault
from luthier.data.steps.tools import Tools
from luthier.recipe import Plugin, Source
from luthier.types import Completion, Encoded, Example, Request, Turn

ROWS: dict[str, list[dict[str, Any]]] = {
    "english": [
        {"prompt": "What is tea?", "completion": "Tea is a drink made of leaves, and people have drunk it for long."},
        {"prompt": "Name a river.", "completion": "The Danube, which flows through ten countries to the Black Sea."},
        {"prompt": "What is tea?", "completion": "Tea is a drink made of leaves, and people have drunk it for long."},
    ],
    "chinese": [
        {
            "prompt": "茶是什么？",
            "completion": "茶是一种用茶叶冲泡的饮料，人们喝茶已有数千年的历史，至今仍然非常流行。",
        },
        {"prompt": "说出一条河。", "completion": "长江，它全长六千三百多公里，是亚洲最长的河流，流入东海。"},
    ],
    "unicode": [
        {
            "prompt": "👩‍👩‍👧 e\u0301 \u2028?",
            "completion": "x² ½ ™ 𝔘 \u200d\u0928\u094d ﷽ \x85 — “quoted”, and some more words.",
        },
        {
            "prompt": "\ufeff?",
            "completion": "A\u0000".replace("\u0000", "\u0001") + " text with a control character in it.",
        },
    ],
    "turns": [
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hello."},
                {"role": "assistant", "content": "Hello! How can I help you today?", "weight": 0},
                {"role": "user", "content": "The weather in Rome?"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": '{"city":"Rome"}'}}],
                },
                {"role": "tool", "content": "sunny", "tool_call_id": "1"},
                {"role": "assistant", "content": "It is sunny in Rome today, with hardly a cloud in the sky."},
            ],
            "tools": [{"type": "function", "function": {"name": "w", "parameters": {"type": "object"}}}],
        },
    ],
    "judged": [
        {
            "prompt": "Say something kind to me, please.",
            "chosen": "You have done well today, and it was seen by many.",
            "rejected": "No, I would rather not say anything at all to you.",
            "margin": 2,
        },
    ],
    "labelled": [{"prompt": "2+2?", "completion": "It is four, as everyone who can count will know.", "label": True}],
    "stepwise": [
        {"prompt": "2+2?", "completions": ["First add two.", "Then two more: that makes four."], "labels": [1, 0]},
    ],
    "texts": [
        {"text": "A first paragraph of a plain text.\n\nA second one, longer than the first. It has sentences."},
        {"text": "一段没有模板的纯文本。它有两句话，而且第二句比第一句长得多，因为它还在继续。"},
    ],
    "dirty": [
        {
            "prompt": "<p>Who  is <b>Ann</b>?</p>  ",
            "completion": "Ann\u200b is at ann@example.com &amp; on +49 30 12345678.  \n\n\n\nSo.",
            "answer": "ann@example.com",
        },
        {"prompt": "Sing.", "completion": "La la, my love, la la, my love, la la. " * 12},
        {"prompt": "Parlez.", "completion": "Bonjour à tous, nous parlons français aujourd'hui et demain aussi."},
    ],
    "called": [
        {
            "messages": [
                {"role": "user", "content": "Write to 13812345678 on my phone."},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [
                        {
                            "type": "function",
                            "function": {"name": "s", "arguments": '{"to": "a@b.de", "n": 13812345678}'},
                        }
                    ],
                },
                {"role": "tool", "content": "sent to a@b.de"},
                {"role": "assistant", "content": "It was sent to a@b.de, as you asked me to."},
            ]
        },
    ],
    "tasks": [{"prompt": "What is 6 times 7?", "answer": "42"}],
}
"""Kind → rows of one shape."""
KEYS: dict[str, dict[str, Any]] = {
    "sample": {"n": 3},
    "select": {"by": "words", "keep": 0.5, "unknown": "keep"},
    "chunk": {"size": 30},
    "language": {"keep": ["en", "zh"]},
    "rewrite": {"style": "formal"},
    "self_instruct": {"until": 3},
    "synonyms": {"table": {"tea": ["chai"], "茶": ["茗"], "river": ["stream"], "kind": ["friendly"]}},
    "balance": {"column": "answer", "unknown": "keep"},
    "diverse": {"keep": 0.5},
    "tournament": {"keep": 0.5, "model": "a model"},
    "select by ifd": {"by": {"ifd": "a model"}, "keep": 0.5, "max": 100, "unknown": "keep"},
    "dedup by a model": {"semantic": 0.999, "model": "a model"},
    "diverse by a model": {"keep": 0.5, "how": "score_first", "by": "length", "model": "a model"},
    "decontaminate": {"against": [str(Path(__file__).parent / "asked.jsonl")]},
}
"""The keys of a step that it cannot do without, or that make it do something on these rows."""


VARIANTS = tuple(name for name in KEYS if " " in name)
"""Steps with other keys, by the name of the step and what is particular to them."""


def plugin(name: str) -> str:
    """The step of a name in `KEYS`."""
    return name.partition(" ")[0]


def write(folder: Path, *kinds: str, times: int = 1) -> list[str]:
    """A file for each kind, its rows so many times with a number in them that makes them others; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for kind in kinds or ROWS:
        path = folder / f"{kind}.jsonl"
        rows = [_numbered(row, number) for number in range(times) for row in ROWS[kind]]
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        paths.append(str(path))
    return paths


def _numbered(row: Mapping[str, Any], number: int) -> dict[str, Any]:
    if not number:
        return dict(row)
    key = next(key for key in ("completion", "text", "prompt", "messages") if key in row)
    if key == "messages":
        *others, last = row[key]
        return {**row, key: [*others, {**last, "content": f"{last['content']} ({number})"}]}
    return {**row, key: f"{row[key]} ({number})"}


class Speller:
    """A model whose tokens are letters: a letter is the likelier the more often it was read before. Of two rows
    it thinks the longer one better."""

    identity = "a speller"
    context = 100_000

    def __init__(self) -> None:
        self.scored: list[Encoded] = []
        self.asked: list[Request] = []

    @property
    def engine(self) -> Any:
        return self

    def prompt(self, turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]] = ()) -> tuple[int, ...]:
        return tuple(map(ord, "".join(f"<{turn.role}>{turn.text}" for turn in turns) + "<assistant>"))

    def encode(self, example: Example) -> Encoded:
        if not example.responses:
            raise RowFault("there is no response to train on")
        turns = (*example.prompt, *example.responses[0].turns)
        before = self.prompt(turns[:-1])
        ids = np.array([*before, *map(ord, turns[-1].text), 3], np.int32)
        weights = np.zeros(len(ids), np.float32)
        weights[len(before) :] = 1
        return Encoded((ids,), (weights,), source=example.source)

    def logprobs(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        self.scored += rows
        return [self._of(row) for row in rows]

    def _of(self, row: Encoded) -> NDArray[np.float32]:
        ids = row.ids[0].tolist()
        scored = np.flatnonzero(row.weights[0]).tolist()
        return np.array([np.log((1 + ids[:at].count(ids[at])) / (at + 500)) for at in scored], np.float32)

    def means(self, rows: Sequence[Encoded]) -> list[NDArray[np.float32]]:
        return [np.bincount(row.ids[0] % 16, minlength=16).astype(np.float32) / len(row.ids[0]) for row in rows]

    def run(self, requests: Sequence[Request]) -> Iterator[Completion]:
        self.asked += requests
        for request in requests:
            one, other = (part.partition("\n--- end")[0] for part in request.turns[0].text.split("---\n")[1:4:2])
            better = max((one, other), key=lambda text: (len(text), zlib.crc32(text.encode("utf-8", "replace"))))
            text = "Verdict: tie" if one == other else f"Verdict: {'A' if better == one else 'B'}"
            yield Completion((), text, "stop", length=3, request=request.id)


SPELLER = Speller()


def curated(paths: Sequence[str], *steps: str | dict[str, Any], **settings: Any) -> Curated:
    """The files gone through the steps, each by name or as a recipe has it."""
    plugins = []
    for one in steps:
        name, keys = (one, KEYS.get(one, {})) if isinstance(one, str) else next(iter(one.items()))
        plugins.append(Plugin(name=plugin(name), args=keys if isinstance(keys, dict) else {"": keys}))
    seed = settings.pop("seed", 0)
    settings = {"tools": tools(seed), "processes": 1, "allow_drop": 1.0, **settings}
    feeds = opened([Source(path=path) for path in paths], plugins, Settings(**settings))
    return feeds[0].curated


def tools(seed: int = 0, model: Scripted | None = None) -> Tools:
    """Those of a recipe: models that answer by rules, and a journal of what they were asked."""
    speaking = model or Scripted()
    speakers = {"a model": SPELLER}
    return Tools(seed, lambda named: speakers.get(named[0], speaking), asking=Calls(), model="the recipe's")


def said(made: Curated) -> list[tuple[str, str]]:
    """Where each row came from, and what it says."""
    return [(str(example.source), body(example)) for example in made.examples()]
