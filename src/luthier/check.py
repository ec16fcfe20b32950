"""What the rooms cannot see alone: does the data suit the objective, and the model?"""

from __future__ import annotations

from typing import Any

from luthier.errors import LuthierError
from luthier.types import Needs, TokenStore

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""What model configurations call the longest sequence they were made for."""


def responses(store: TokenStore, needs: Needs, objective: str) -> None:
    """Raises LuthierError where the rows hold fewer responses than the objective compares."""
    if not len(store):
        raise LuthierError("there is nothing to train on: no row was kept", fix="see the ledger above")
    found = len(store[0].ids)
    if found < needs.responses:
        raise LuthierError(
            f"the objective {objective!r} compares {needs.responses} responses to a prompt, the rows have {found}",
            where=str(store.source(0)),
            fix="give rows with `chosen` and `rejected`, or take `objective: sft`",
        )


def context(store: TokenStore, config: Any) -> None:
    """Raises LuthierError where a row is longer than the model can attend to."""
    longest = context_length(config)
    if longest is None or not len(store):
        return
    index = int(store.lengths.argmax())
    tokens = max(len(ids) for ids in store[index].ids)
    if tokens > longest:
        raise LuthierError(
            f"the row has {tokens:,} tokens, the model's context is {longest:,}",
            where=str(store.source(index)),
            fix=f"set train.max_tokens={longest}, and train.long_rows to drop or truncate",
        )


def context_length(config: Any) -> int | None:
    """The longest sequence a model's configuration was made for; None if it does not say."""
    text = config.get_text_config()
    for key in CONTEXT_KEYS:
        value = getattr(text, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def vocabulary(policy: Any, reference: Any, name: str) -> None:
    """Raises LuthierError where two tokenizers give texts other ids: log-probabilities could not be compared."""
    ours, theirs = policy.get_vocab(), reference.get_vocab()
    if ours == theirs:
        return
    differing = sorted(set(ours.items()) ^ set(theirs.items()))
    raise LuthierError(
        f"the reference {name!r} has another vocabulary than the model ({len(theirs):,} tokens against {len(ours):,}; "
        f"{len(differing):,} entries differ, such as {differing[0][0]!r})",
        where="reference.model",
        fix="take a reference of the same family, or none: the model as it was is the default",
    )
