"""A text and what may follow it, as tokens: for asking which continuation a model finds likeliest.

White space at the end of the text belongs to what follows, and both are tokenised as one text and parted where the text
alone ends: so a word is tokenised as it would be when written in one go. Shape suffixes: T = tokens of a sequence.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from luthier.data.encode.mask import Tokens
from luthier.data.encode.template import Template
from luthier.data.encode.tokenised import shared_prefix
from luthier.errors import LuthierError
from luthier.types import RAW, Encoded, Example

AT_ONCE = 512
"""Texts tokenised together."""


def pairs_of(example: Example, template: Template) -> list[tuple[str, str]]:
    """For each response the text before it and its own, as the model reads them. Where `meta["contexts"]` holds a text
    for each response, that is what stands before it."""
    own = example.meta.get("contexts")
    if own is None:
        raw = all(turn.role == RAW for turn in example.prompt)
        before = "".join(turn.text for turn in example.prompt)
        before = before if raw else template.prompt_text(example.prompt, example.tools)
        own = [before] * len(example.responses)
    said = ["".join(turn.text for turn in response.turns) for response in example.responses]
    return [_parted(context, text) for context, text in zip(own, said, strict=True)]


def _parted(context: str, text: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + text


def continued(examples: Sequence[Example], template: Template) -> list[Encoded]:
    """Each example with its responses as continuations of its prompt; the continuations' tokens alone are scored.

    Raises LuthierError, with the row's name, for a continuation that adds no token to what stands before it.
    """
    found: list[Encoded] = []
    for begin in range(0, len(examples), AT_ONCE):
        some = examples[begin : begin + AT_ONCE]
        pairs_N = [pairs_of(example, template) for example in some]
        texts = list(dict.fromkeys(text for pairs in pairs_N for one in pairs for text in (one[0], one[0] + one[1])))
        raw = [all(turn.role == RAW for turn in example.prompt) for example in some]
        ids = {is_raw: dict(zip(texts, template.text_ids(texts, raw=is_raw), strict=True)) for is_raw in set(raw)}
        for example, pairs, is_raw in zip(some, pairs_N, raw, strict=True):
            known = ids[is_raw]
            sequences = [_scored(known[before], known[before + text], example) for before, text in pairs]
            found.append(
                Encoded(
                    tuple(tokens.ids_T for tokens in sequences),
                    tuple(tokens.weights_T for tokens in sequences),
                    shared_prefix(sequences),
                    source=example.source,
                )
            )
    return found


def _scored(before: Sequence[int], whole: Sequence[int], example: Example) -> Tokens:
    first = max(1, len(before))  # the first token of all has nothing that it could be likely after
    if len(whole) <= first:
        raise LuthierError(
            "a choice adds no token to the question, so nothing can be said of its likelihood",
            where=str(example.source) if example.source else None,
            fix="mend the row: give each choice a text of its own",
        )
    weights_T = np.zeros(len(whole), np.float32)
    weights_T[first:] = 1.0
    return Tokens(np.array(whole, np.int32), weights_T, [len(whole)])
