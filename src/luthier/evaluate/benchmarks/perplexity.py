"""Perplexity of any text, read through a window that slides over it. Shape suffixes: T = tokens of a document."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from luthier.errors import LuthierError
from luthier.evaluate.benchmarks.benchmark import Benchmark, Item, Tell, spread
from luthier.evaluate.benchmarks.published import file_rows, need
from luthier.scorers.metric import Metric
from luthier.scorers.perplexity import BitsPerByte, Perplexity, WordPerplexity
from luthier.types import RAW, Example, Response, Source, Turn

if TYPE_CHECKING:
    from luthier.data.encode.template import Template

WINDOW = 1024
"""Tokens that a model reads at once, if it can and nothing else is said."""


@dataclass(frozen=True)
class TextPerplexity(Benchmark):
    """How surprised the model is by a text: by its tokens, and by its bytes and words, which compare across tokenizers.
    Every token is judged once, the first behind the token that begins a text."""

    title: ClassVar[str] = "Perplexity"
    paper: ClassVar[str] = ""

    path: str | None = None
    """Text files, or rows with a `text`: a file, a folder or a glob. Each file or row is a document."""
    limit: Annotated[int, Field(gt=0)] | None = None
    """Only so many windows, spread over the documents and drawn by `seed`. Default: all."""
    window: Annotated[int, Field(gt=1)] | None = None
    """Tokens that are read at once. Default: 1,024, or the model's context if that is less."""
    stride: Annotated[int, Field(gt=0)] | None = None
    """How far the window slides, and so how many tokens each judges; the rest of it is what stands before them.
    Default: half the window. As long as the window: pieces that know nothing of one another."""

    def metrics(self) -> dict[str, Metric]:
        return {"perplexity": Perplexity(), "bits per byte": BitsPerByte(), "word perplexity": WordPerplexity()}

    @property
    def protocol(self) -> str:
        stride = "half of it" if self.stride is None else f"{self.stride}"
        return f"{self.title} (version {self.version}), window {self.window or f'≤ {WINDOW}'}, stride {stride}"

    def items(self, tell: Tell) -> list[Item]:
        return [Item(str(text), "", source=where) for where, text in self._documents()]

    def _documents(self) -> list[tuple[Source, str]]:
        from luthier.data.reading.folders import find

        if self.path is None:
            raise LuthierError("perplexity needs a text", where="evaluate", fix="write `perplexity: {path: text.txt}`")
        found = []
        for file in find(self.path).paths:
            for where, row in file_rows(file):
                (text,) = need({"text": row.get("page"), **row}, ("text",), where, self.title)
                if str(text).strip():
                    found.append((where, str(text)))
        return found

    def rows(self, tell: Tell) -> list[Example]:
        """The documents; `fitted` cuts them into windows."""
        found = [
            Example((), (Response((Turn(RAW, item.asked),)),), source=item.source, meta={"cluster": str(item.source)})
            for item in self.items(tell)
        ]
        if not found:
            raise LuthierError("the text is empty", where=self.path, fix="look at `path:`")
        return found

    def fitted(self, rows: Sequence[Example], template: Template, context: int | None) -> list[Example]:
        window = self.window or min(WINDOW, context or WINDOW)
        stride = min(self.stride or max(1, window // 2), window)
        made = [one for row in rows for one in windows(row, template, window, stride)]
        return spread(made, lambda row: str(row.meta["cluster"]), self.limit, self.seed)


def windows(row: Example, template: Template, window: int, stride: int) -> list[Example]:
    """A document as windows: `ids` are what the model reads, of which the last `judged` are judged."""
    text = row.responses[0].turns[0].text
    tokenizer = template.tokenizer
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=tokenizer.is_fast, verbose=False)
    ids_T: list[int] = list(made["input_ids"])
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        what = "the tokenizer has no token that begins or ends a text, so its first token cannot be judged"
        raise LuthierError(what, where=tokenizer.name_or_path, fix="give the tokenizer a `bos_token` or `eos_token`")
    read = [first, *ids_T]
    starts = [begin for begin, _ in made["offset_mapping"]] if tokenizer.is_fast else None
    words = [match.start() for match in re.finditer(r"\S+", text)]
    found: list[Example] = []
    begin = 0
    while begin < len(ids_T):
        end = min(len(ids_T), begin + (window if begin == 0 else stride))
        seen = read[max(0, end - window) : end + 1]
        known: dict[str, Any] = {"ids": tuple(seen), "judged": end - begin, "cluster": row.meta["cluster"]}
        part = str(tokenizer.decode(ids_T[begin:end]))
        if starts is not None:
            low, high = (0 if begin == 0 else starts[begin]), (starts[end] if end < len(ids_T) else len(text))
            part = text[low:high]
            known |= {"bytes": len(part.encode()), "words": bisect_left(words, high) - bisect_left(words, low)}
        found.append(replace(row, responses=(Response((Turn(RAW, part),)),), meta=known))
        begin = end
    return found
