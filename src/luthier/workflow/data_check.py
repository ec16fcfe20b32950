"""What the rooms cannot see alone: does the data suit the objective, and the model?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.ledger import Ledger
from luthier.data.statistics import GOOD
from luthier.errors import LuthierError
from luthier.types import GOOD_TOKEN, TOKEN, Needs, TokenStore

PAIRS = "`chosen` and `rejected`, or `responses` and `scores`"


def responses(store: TokenStore, needs: Needs, objective: str, *, trains: bool = True) -> None:
    """Raises LuthierError where the rows are not judged as the objective needs it, or judged and it would not look.

    Rows that do not train may all be good, or all bad.
    """
    if not len(store):
        raise LuthierError("there is nothing to train on: no row was kept", fix="see the ledger above")
    if needs.reward_head == "step":
        _steps(store, objective, trains)
    elif needs.responses > 1:
        _pairs(store, needs, objective)
    elif needs.labels:
        _labels(store, objective, trains)
    elif not needs.rollouts:
        _unjudged(store, objective)


def _steps(store: TokenStore, objective: str, trains: bool) -> None:
    """Every row has judged steps, and of those that train not all the same score."""
    without = np.flatnonzero(store.steps == 0)
    if len(without):
        raise _misfit(
            store, without, f"the objective {objective!r} learns from judged steps", "no judged steps",
            f"give rows with `prompt`, `completions` (the steps) and `labels`{_instead(store)}",
        )  # fmt: skip
    first = float(store[0].column("step_reward")[0][0])
    same = ((labels == first).all() for i in range(len(store)) for labels in store[i].column("step_reward"))
    if trains and all(same):
        raise LuthierError(
            f"all {int(store.steps.sum()):,} steps have the score {first:g}, so there is nothing to tell apart",
            where=str(store.source(0)),
            fix="give rows with good and bad steps",
        )


def _pairs(store: TokenStore, needs: Needs, objective: str) -> None:
    """Every row has two responses of different scores, at least."""
    without = np.flatnonzero(~_has_pair(store))
    if len(without):
        found = int(store.responses[without[0]])
        raise _misfit(
            store, without, f"the objective {objective!r} compares {needs.responses} responses to a prompt",
            "one response" if found == 1 else f"{found} responses, of which none is better than another",
            f"give rows with {PAIRS}{_instead(store)}",
        )  # fmt: skip


def _labels(store: TokenStore, objective: str, trains: bool) -> None:
    """Every response has a score, and of those that train some are good and some bad."""
    scores = store.rewards
    unknown = np.isnan(scores)
    if unknown.any():
        without = np.unique(_owners(store)[unknown])
        raise _misfit(
            store, without, f"the objective {objective!r} learns from good and bad responses", "no label",
            f"give rows with `label` (true or false){_instead(store)}",
        )  # fmt: skip
    good, bad = int((scores > GOOD).sum()), int((scores <= GOOD).sum())
    if trains and (not good or not bad):
        every, none = ("good", "bad") if good else ("bad", "good")
        raise LuthierError(
            f"all {len(scores):,} responses are labelled {every}, so there is nothing to contrast them with",
            where=str(store.source(0)),
            fix=f"add responses that are labelled {none}"
            + (", or train on these with `objective: sft`" if good else "")
            + f" (a score above {GOOD} is good)",
        )


def _unjudged(store: TokenStore, objective: str) -> None:
    """No row holds responses that the data call bad: this objective would train on them as on the good ones."""
    scores = store.rewards
    bad = np.unique(_owners(store)[scores <= GOOD])
    if len(bad):
        pairs = bool(_has_pair(store)[bad[0]])
        keep = "`columns: {completion: chosen}` beside a `prompt` column" if pairs else "rows of good responses alone"
        kind = "a rejected response" if pairs else "a response that is labelled bad"
        raise _misfit(
            store, bad, f"the objective {objective!r} trains on every response alike", kind,
            f"take {_fitting(store)}, or keep what is good: {keep}",
        )  # fmt: skip
    judged = np.flatnonzero(store.steps)
    if len(judged):
        raise _misfit(
            store, judged, f"the objective {objective!r} does not look at steps", "judged steps",
            f"take {_fitting(store)}, or give the rows as `prompt` and `completion`",
        )  # fmt: skip


def _misfit(store: TokenStore, rows: NDArray[np.int64], wants: str, has: str, fix: str) -> LuthierError:
    count = "the rows have" if len(rows) == len(store) else f"{len(rows):,} of {len(store):,} rows have"
    return LuthierError(f"{wants}, {count} {has}", where=str(store.source(int(rows[0]))), fix=fix)


def _instead(store: TokenStore) -> str:
    return f", or take {_fitting(store)}"


def _fitting(store: TokenStore) -> str:
    """The objectives that these rows suit."""
    if store.steps.any():
        return "`objective: process_reward`"
    if _has_pair(store).all():
        return "`objective: dpo` (or another one of pairs)"
    return "`objective: sft`" if np.isnan(store.rewards).any() else "`objective: kto` (or bco)"


def _owners(store: TokenStore) -> NDArray[np.int64]:
    """The example of each response."""
    return np.repeat(np.arange(len(store)), store.responses)


def _has_pair(store: TokenStore) -> NDArray[np.bool_]:
    """For each example: do the scores of two of its responses differ?"""
    firsts = np.concatenate([[0], np.cumsum(store.responses, dtype=np.int64)])[:-1]
    made: NDArray[np.bool_] = np.fmax.reduceat(store.rewards, firsts) > np.fmin.reduceat(store.rewards, firsts)
    return made


def context(store: TokenStore, room: int | None, model: str = "the model") -> None:
    """Raises LuthierError where a row is longer than a model has room for (None: it does not say)."""
    if room is None or not len(store):
        return
    for index in np.flatnonzero(store.lengths > room).tolist():  # a row's length counts all of its responses
        tokens = max(len(ids) for ids in store[index].ids)
        if tokens <= room:
            continue
        raise LuthierError(
            f"the row has {tokens:,} tokens, {model}'s context is {room:,}",
            where=str(store.source(index)),
            fix=f"set train.max_tokens={room}, and train.long_rows to drop or truncate"
            if room > 0
            else "take fewer virtual tokens",
        )


def turn_weights(ledger: Ledger, objective: Any, name: str) -> None:
    """Raises LuthierError where turns of judged responses are weighed and the objective would not look at that: all
    but those of single tokens compare or label a response as a whole."""
    whole = [term.needs.unit for _, term in objective.terms() if term.needs.unit != TOKEN]
    for one in filter(None, (ledger, ledger.validation)):
        if one.weighed and whole:
            raise LuthierError(
                f"{one.weighed:,} {'row gives' if one.weighed == 1 else 'rows give'} a turn of a judged response a "
                f"weight other than 0 and 1, and the objective {name!r} takes responses whole: it would count them "
                "like all others",
                where=one.weighed_first,
                fix="take the weights out (0 still turns a turn off); to make pairs count more or less, give a source "
                "another `weight`",
            )


def verdicts(objective: Any, name: str, tells_right: bool) -> str | None:
    """What is to be said where right answers are imitated and nothing tells which those are."""
    if tells_right or all(term.needs.unit != GOOD_TOKEN for _, term in objective.terms()):
        return None
    return (
        f"warning: {name!r} imitates right answers, and the scores of the first scorer of `reward:` do not lie between "
        "0 and 1, so that they do not tell right from wrong: none is imitated (put one first that does, as exact_match)"
    )


def embeddings(store: TokenStore, rows: int, tokenizer: Any, model: str) -> None:
    """Raises LuthierError where a row holds a token that a model with so many embeddings has none for."""
    if rows >= len(tokenizer):
        return
    for index in range(len(store)):
        largest = max(int(ids.max(initial=0)) for ids in store[index].ids)
        if largest >= rows:
            raise LuthierError(
                f"{model} has embeddings for {rows:,} tokens and none for {tokenizer.convert_ids_to_tokens(largest)!r} "
                f"({largest})",
                where=str(store.source(index)),
                fix="give it a row for each token (in transformers, resize_token_embeddings), or take another one",
            )


def vocabulary(policy: Any, second: Any, name: str, role: str = "reference") -> None:
    """Raises LuthierError where two tokenizers give texts other ids: log-probabilities could not be compared."""
    ours, theirs = policy.get_vocab(), second.get_vocab()
    if ours == theirs:
        return
    differing = sorted(set(ours.items()) ^ set(theirs.items()))
    raise LuthierError(
        f"the {role} {name!r} has another vocabulary than the model ({len(theirs):,} tokens against {len(ours):,}; "
        f"{len(differing):,} entries differ, such as {differing[0][0]!r})",
        where="reference.model" if role == "reference" else role,
        fix=f"take a {role} of the same family"
        + (", or none: the model as it was is the default" if role == "reference" else ""),
    )
