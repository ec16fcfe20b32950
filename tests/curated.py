"""Rows of every kind, and steps that are run on them as a recipe would."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scripted import Scripted

from luthier.data.curation.calls import Calls
from luthier.data.curation.chain import Curated
from luthier.data.curation.feeds import opened
from luthier.data.curation.lines import body
from luthier.data.curation.stages import Settings
from luthier.data.steps.tools import Tools
from luthier.recipe import Plugin, Source

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
    "decontaminate": {"against": [str(Path(__file__).parent / "asked.jsonl")]},
}
"""The keys of a step that it cannot do without, or that make it do something on these rows."""


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


def curated(paths: Sequence[str], *steps: str | dict[str, Any], **settings: Any) -> Curated:
    """The files gone through the steps, each by name or as a recipe has it."""
    plugins = []
    for one in steps:
        name, keys = (one, KEYS.get(one, {})) if isinstance(one, str) else next(iter(one.items()))
        plugins.append(Plugin(name=name, args=keys if isinstance(keys, dict) else {"": keys}))
    seed = settings.pop("seed", 0)
    settings = {"tools": tools(seed), "processes": 1, "allow_drop": 1.0, **settings}
    feeds = opened([Source(path=path) for path in paths], plugins, Settings(**settings))
    return feeds[0].curated


def tools(seed: int = 0, model: Scripted | None = None) -> Tools:
    """Those of a recipe: a model that answers by rules, and a journal of what it was asked."""
    speaking = model or Scripted()
    return Tools(seed, speakers=lambda named: speaking, asking=Calls())


def said(made: Curated) -> list[tuple[str, str]]:
    """Where each row came from, and what it says."""
    return [(str(example.source), body(example)) for example in made.examples()]
