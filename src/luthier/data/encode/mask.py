"""Text spans into token weights, exactly: a token counts as the assistant's only if all of it is, and the prompt
before it has the tokens that it has when it is served.

Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain, pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from luthier.data.encode.rendering import Layout, RowFault

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Offsets = Sequence[tuple[int, int]]
LEADS = ("\n", ".", "a")
"""Texts to tokenise a piece behind, so that it is not taken for the beginning of a text."""
PROMPTS = 4096
"""Ends of prompts whose tokens are remembered (most templates have one or two)."""


@dataclass(slots=True)
class Tokens:
    """One tokenised sequence. `ends` are the places behind each scored span: where it may be cut.

    `steps` are the places of the tokens that hold the last character of each judged step.
    """

    ids_T: NDArray[np.int32]
    weights_T: NDArray[np.float32]
    ends: list[int]
    steps: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Place:
    """Tokens [first, last) of a span, and the `context` tokens before it, which are the text `prompt`."""

    first: int
    last: int
    context: int
    prompt: str


class Tokeniser:
    """Token ids and weights of layouts, in batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._added = frozenset(tokenizer.added_tokens_decoder)
        self._prompts: dict[str, list[int]] = {"": []}
        self.bos = self._before()

    def _before(self) -> list[int]:
        """What the tokenizer puts before a plain text: BOS, if it adds one."""
        plain, dressed = self._ids(["a"])[0], list(self.tokenizer("a", add_special_tokens=True)["input_ids"])
        starts = [i for i in range(len(dressed)) if dressed[i : i + len(plain)] == plain]
        return dressed[: starts[0]] if starts else []

    def _ids(self, texts: list[str]) -> list[list[int]]:
        return list(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"])

    def text_ids(self, text: str) -> list[int]:
        """Ids of a plain text that is to be continued: BOS once, no EOS."""
        ids = self._ids([text])[0]
        return ids if self._begins(ids) else self.bos + ids

    def plain_ids(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts as they stand."""
        return self._ids(texts) if texts else []

    def texts_ids(self, texts: list[str]) -> list[list[int]]:
        """`text_ids` of many texts."""
        return [ids if self._begins(ids) else self.bos + ids for ids in self.plain_ids(texts)]

    def tokenise(self, layouts: Sequence[Layout]) -> list[Tokens | RowFault]:
        """Each layout as tokens, or why its mask cannot be exact."""
        if not layouts:
            return []
        texts = [layout.text for layout in layouts]
        offsets_N: Sequence[Offsets | None]
        if self.tokenizer.is_fast:
            encoded = self.tokenizer(
                texts,
                add_special_tokens=False,
                return_offsets_mapping=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )
            ids_N, offsets_N = encoded["input_ids"], encoded["offset_mapping"]
        else:
            ids_N, offsets_N = self._ids(texts), [None] * len(texts)
        places_N = [self._places(*one) for one in zip(layouts, ids_N, offsets_N, strict=True)]
        self._learn([place.prompt for places in places_N if places for place in places])
        results: list[Tokens | RowFault] = []
        for layout, ids, offsets, places in zip(layouts, ids_N, offsets_N, places_N, strict=True):
            try:
                results.append(self._weigh(layout, ids, offsets, places))
            except RowFault as fault:
                results.append(fault)
        return results

    def _weigh(self, layout: Layout, ids: list[int], offsets: Offsets | None, places: list[Place] | None) -> Tokens:
        steps = _step_places(layout, offsets)
        if (
            steps is None
            or places is None
            or any(self._prompts[p.prompt] != ids[p.first - p.context : p.first] for p in places)
        ):
            ids, runs, steps = self._in_pieces(layout, ids)
        else:
            runs = [(place.first, place.last) for place in places]
        weights = [layout.base] * len(ids)
        for span, (first, last) in zip(layout.spans, runs, strict=True):
            weights[first:last] = [span.weight] * (last - first)
        ends = [last for (_, last), span in zip(runs, layout.spans, strict=True) if span.weight > 0]
        if layout.raw:
            steps = [place + (0 if self._begins(ids) else len(self.bos)) for place in steps]
            ids, weights, ends = self._dress(ids, weights, ends)
        ids_T, weights_T = np.array(ids, np.int32), np.array(weights, np.float32)
        weights_T[:1] = 0  # nothing predicts the first token
        return Tokens(ids_T, weights_T, ends, steps)

    def _dress(self, ids: list[int], weights: list[float], ends: list[int]) -> tuple[list[int], list[float], list[int]]:
        """BOS before a plain text and EOS after it, neither twice. EOS trains as the text's last token does."""
        eos = self.tokenizer.eos_token_id
        if eos is None:
            raise RowFault(
                "the tokenizer has no end-of-sequence token, so the end of a text cannot be learnt",
                fix="set eos_token in the model's tokenizer_config.json",
            )
        weight = weights[-1] if weights else 0.0
        if not self._begins(ids):
            ids, weights = self.bos + ids, [0.0] * len(self.bos) + weights
            ends = [end + len(self.bos) for end in ends]
        if ids[-1] != eos:
            ids, weights = [*ids, eos], [*weights, weight]
        return ids, weights, [*ends[:-1], len(ids)] if ends else []

    def _begins(self, ids: list[int]) -> bool:
        """Is BOS there already (or does this tokenizer put none)?"""
        return ids[: len(self.bos)] == self.bos

    def _places(self, layout: Layout, ids: list[int], offsets: Offsets | None) -> list[Place] | None:
        """The tokens of each span, exactly its characters; None when a token straddles an edge.

        An added token that swallowed white space beside it belongs where it begins.
        """
        if offsets is None:
            return None
        places = []
        for span in layout.spans:
            first = bisect_left(offsets, (span.start,))
            last = bisect_left(offsets, (span.end,), first)
            if first == last:
                return None
            swallowed = first > 0 and ids[first - 1] in self._added
            begins = offsets[first][0] == span.start and (first == 0 or offsets[first - 1][1] == span.start)
            stops = offsets[last - 1][1] == span.end or ids[last - 1] in self._added
            if not ((begins or swallowed) and stops):
                return None
            start = first  # the prompt since the last added token: nothing before that bears on its tokens
            while start > 0 and ids[start - 1] not in self._added:
                start -= 1
            start = max(start - 1, 0)
            prompt = layout.text[offsets[start][0] if first else 0 : span.start]
            places.append(Place(first, last, first - start, prompt))
        return places

    def _learn(self, prompts: list[str]) -> None:
        """Tokenise ends of prompts by themselves: they must have the tokens that they have before an answer."""
        if len(self._prompts) > PROMPTS:
            self._prompts = {"": []}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._prompts]
        if new:
            self._prompts |= dict(zip(new, self._ids(new), strict=True))

    def _in_pieces(self, layout: Layout, whole: list[int]) -> tuple[list[int], list[tuple[int, int]], list[int]]:
        """Tokenise what stands before, in and after each span by itself, as serving does with the prompt, and each
        judged step by itself: the ids, the tokens of each span and the last token of each step.

        Raises RowFault when this tokenizer gives a text other tokens in pieces (those of SentencePiece's kind do).
        """
        edges = {edge for span in layout.spans for edge in (span.start, span.end)}
        cuts = sorted({0, len(layout.text), *edges, *layout.steps})
        texts, wanted = [layout.text[a:b] for a, b in pairwise(cuts)], self._text(whole)
        pieces = self._ids(texts)
        if self._text(list(chain(*pieces))) != wanted:
            pieces = self._continued(texts, pieces)
            if self._text(list(chain(*pieces))) != wanted:
                raise RowFault("a token straddles the edge of what the assistant says", fix=_edge_advice(layout))
        ids = list(chain(*pieces))
        behind = dict(zip(cuts, accumulate(map(len, pieces), initial=0), strict=True))
        return (
            ids,
            [(behind[span.start], behind[span.end]) for span in layout.spans],
            [behind[end] - 1 for end in layout.steps],
        )

    def _continued(self, texts: list[str], pieces: list[list[int]]) -> list[list[int]]:
        """The pieces as a text goes on with them: SentencePiece's kind begins every text with a space of its own,
        which a model that continues a prompt does not say."""
        made = pieces[:1]
        for text, before, plain in zip(texts[1:], pieces, pieces[1:], strict=False):
            added = self.tokenizer.convert_ids_to_tokens(before[-1:]) if before and before[-1] in self._added else None
            found = self._behind(tuple(added) if added else LEADS, text)
            made.append(plain if found is None else found)
        return made

    def _behind(self, leads: Sequence[str], text: str) -> list[int] | None:
        """Ids of a text that follows another one; None where it merges with whatever stands before it."""
        for lead, whole in zip(self._ids([*leads]), self._ids([lead + text for lead in leads]), strict=True):
            if whole[: len(lead)] == lead:
                return whole[len(lead) :]
        return None

    def _text(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text if isinstance(text, str) else "".join(text)


def _edge_advice(layout: Layout) -> str:
    """What to do about a text whose tokens differ in pieces: it names the side that has white space at the edge."""
    text = layout.text
    if any(text[span.start : span.start + 1].isspace() or text[: span.end][-1:].isspace() for span in layout.spans):
        said = "the completions" if layout.raw else "the assistant's texts"
        return f"begin and end {said} without white space"
    if any(text[: span.start][-1:].isspace() for span in layout.spans):
        if layout.raw:
            return "end the prompts without white space"
        return "let the generation prompt of the model's chat template end without white space"
    return "this tokenizer cannot tell a text's parts apart: take a model with another one"


def _step_places(layout: Layout, offsets: Offsets | None) -> list[int] | None:
    """The token that holds the last character of each step, perhaps with the separator behind it; None when such a
    token holds something of the next step, too."""
    if offsets is None:
        return None if layout.steps else []
    places = []
    for end in layout.steps:
        place = bisect_left(offsets, (end,)) - 1
        if layout.text[end : offsets[place][1]].strip():
            return None
        places.append(place)
    return places
