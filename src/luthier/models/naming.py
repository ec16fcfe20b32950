"""Words that a model labels: transformers' token classification, over texts of any length.

A word has the label of its first token, as such models are trained. Long texts are read in windows that overlap; each
word is taken from the window in which more stands around it.

Shape suffixes: W = windows of a batch, T = tokens of a window, L = labels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from luthier.errors import LuthierError
from luthier.models.loading.digest import must_be_whole, weights_digest
from luthier.models.loading.load import UNREADABLE
from luthier.models.loading.quiet import quiet
from luthier.models.loading.tokenizer import load_tokenizer

AT_ONCE = 32
"""Windows that go through the model together."""
LONGEST = 512
OVERLAP = 64
Span = tuple[int, int, str]


@dataclass(frozen=True)
class Word:
    """A word of a text: where it stands, how likely each meaning is, and whether its label says that it begins one."""

    start: int
    end: int
    kinds: Mapping[str, float]
    begins: bool


@dataclass(frozen=True)
class Namer:
    """Finds what words are called. `kinds`: what labels mean, without B- and I-; all others mean nothing."""

    folder: Path
    kinds: Mapping[str, str]
    least: float = 0.5

    @property
    def identity(self) -> str:
        """What its findings hang on."""
        return f"{weights_digest(self.folder)} {sorted(self.kinds.items())} {self.least}"

    def __call__(self, texts: Sequence[str]) -> list[list[Span]]:
        """For each text (start, end, kind), in order."""
        windows = [window for n, text in enumerate(texts) for window in self._windows(n, text)]
        found: list[list[Word]] = [[] for _ in texts]
        order = sorted(range(len(windows)), key=lambda n: len(windows[n].ids))
        words: dict[int, list[Word]] = {}
        for start in range(0, len(order), AT_ONCE):
            some = order[start : start + AT_ONCE]
            words |= dict(zip(some, self._labelled([windows[n] for n in some]), strict=True))
        for n, window in enumerate(windows):
            found[window.text] += words[n]
        return [spans(text, one, self.least) for text, one in zip(texts, found, strict=True)]

    def _windows(self, number: int, text: str) -> Iterator[_Window]:
        if not text.strip():
            return
        made = self._tokenizer(
            text,
            truncation=True,
            max_length=self._longest,
            stride=min(OVERLAP, self._longest // 4),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        read = []
        for n, ids in enumerate(made["input_ids"]):
            of = made.word_ids(n)
            places = [(t, *made["offset_mapping"][n][t], of[t]) for t in range(len(ids)) if of[t] is not None]
            read.append((ids, [one for one in places if one[2] > one[1]]))
        cuts = [_cut(before[1], behind[1]) for before, behind in itertools.pairwise(read)]
        for (ids, places), first, last in zip(read, [0, *cuts], [*cuts, len(text)], strict=True):
            yield _Window(number, ids, places, first, last)

    @torch.no_grad()
    def _labelled(self, windows: Sequence[_Window]) -> Iterator[list[Word]]:
        made = self._tokenizer.pad({"input_ids": [one.ids for one in windows]}, return_tensors="pt")
        asked = {name: made[name].to(self._module.device) for name in ("input_ids", "attention_mask")}
        chances_WTL = self._module(**asked).logits.float().softmax(-1).cpu()
        for window, chances_TL in zip(windows, chances_WTL, strict=True):
            yield list(self._words(window, chances_TL))

    def _words(self, window: _Window, chances_TL: Tensor) -> Iterator[Word]:
        groups: dict[int, list[tuple[int, int, int]]] = {}
        for token, start, end, word in window.places:
            groups.setdefault(word, []).append((token, start, end))
        for tokens in groups.values():
            begin = tokens[0][1]
            if window.first <= begin < window.last:
                chances_L = chances_TL[tokens[0][0]]
                kinds: dict[str, float] = {}
                for place, (_, label) in enumerate(self._labels):
                    if label in self.kinds:
                        kind = self.kinds[label]
                        kinds[kind] = kinds.get(kind, 0.0) + float(chances_L[place])
                yield Word(begin, tokens[-1][2], kinds, self._labels[int(chances_L.argmax())][0] == "B")

    @cached_property
    def _labels(self) -> list[tuple[str, str]]:
        return [parted(label) for label in _in_order(self._module.config)]

    @cached_property
    def _tokenizer(self) -> Any:
        made = load_tokenizer(self.folder)
        if not made.is_fast:
            raise LuthierError(
                "the tokenizer does not say where its tokens stand in a text",
                where=str(self.folder),
                fix="put a tokenizer.json into the folder: save it with transformers' fast tokenizer",
            )
        return made

    @cached_property
    def _longest(self) -> int:
        config = self._module.config
        most = getattr(config, "max_position_embeddings", None) or LONGEST
        most -= (getattr(config, "pad_token_id", None) or 0) + 1  # RoBERTa's kin count places from behind the padding
        return int(min(most, self._tokenizer.model_max_length, LONGEST))

    @cached_property
    def _module(self) -> Any:
        from transformers import AutoModelForTokenClassification

        load: Any = AutoModelForTokenClassification.from_pretrained
        must_be_whole(self.folder)
        try:
            with quiet():
                module, told = load(self.folder, local_files_only=True, use_safetensors=True, output_loading_info=True)
        except UNREADABLE as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise LuthierError(
                f"cannot load the model that finds names: {said}", where=str(self.folder), fix=WHAT
            ) from error
        if told["missing_keys"]:
            missing = sorted(told["missing_keys"])[0]
            raise LuthierError(
                f"the model has no weights that label words: {missing} is missing", where=str(self.folder), fix=WHAT
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return module.eval().requires_grad_(False).to(device)


WHAT = "give the folder of a token-classification model, with config.json and model.safetensors"


@dataclass(frozen=True)
class _Window:
    """A part of a text as tokens: (token, start, end, word) of those that stand in it, and the characters from `first`
    to `last`, whose words are taken from here."""

    text: int
    ids: list[int]
    places: list[tuple[int, int, int, int]]
    first: int
    last: int


def _cut(before: Sequence[tuple[int, int, int, int]], behind: Sequence[tuple[int, int, int, int]]) -> int:
    """Where one window ends and the next begins: in the middle of what they share."""
    shared = [start for _, start, _, _ in behind if start <= before[-1][1]]
    return shared[len(shared) // 2] if shared else behind[0][1]


def labels_of(folder: Path) -> list[str]:
    """What a model of the folder calls words, without B- and I-. Raises LuthierError where there is no model."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # huggingface_hub's checks of fields are no kind of ValueError
        raise LuthierError("there is no model that finds names", where=str(folder), fix=WHAT) from error
    return [parted(label)[1] for label in _in_order(config)]


def _in_order(config: Any) -> list[str]:
    return [config.id2label[place] for place in sorted(config.id2label)]


def parted(label: str) -> tuple[str, str]:
    """A label as its prefix (B, I, … or none) and what it says."""
    prefix, sign, rest = label.partition("-")
    return (prefix, rest) if sign and len(prefix) == 1 else ("", label)


def spans(text: str, words: Sequence[Word], least: float) -> list[Span]:
    """Words of one kind that follow one another are one name, unless a label says that the next begins one, or a line
    ends between them; an address may have several lines."""
    found: list[Span] = []
    last = -1
    for word in words:
        kind = max(word.kinds, key=lambda one: word.kinds[one], default=None)
        if kind is not None and word.kinds[kind] >= least:
            between = text[found[-1][1] : word.start] if found and last == word.start else None
            joins = between is not None and found[-1][2] == kind and not word.begins
            if joins and ("\n" not in (between or "") or kind == "address"):
                found[-1] = (found[-1][0], word.end, kind)
            else:
                found.append((word.start, word.end, kind))
            last = _next(text, word.end)
        else:
            last = -1
    return found


def _next(text: str, end: int) -> int:
    """Where the next word begins, behind spaces."""
    rest = text[end:]
    return end + len(rest) - len(rest.lstrip())


__all__ = ["Namer", "Word", "labels_of", "parted", "spans"]
