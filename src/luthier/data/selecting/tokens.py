"""Token cleaning (arXiv:2502.01968): of the tokens that train, those that a reference model has learnt most of.

Each scored token is worth log p_reference - log p_base, what its log-probability has gained while the reference learnt
from a part of the rows: what can be learnt gains, noise does not. The share `keep` with the highest worth keeps its
weight, all others become context. Both models read the rows as they train, after rendering and cutting.

Shape suffixes: N = scored tokens.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from luthier import cache
from luthier.data.ledger import Ledger
from luthier.data.steps.tools import LOCAL, Speaking, Tools
from luthier.data.store import COLUMN, FILES, Store
from luthier.errors import LuthierError
from luthier.recipe.tokens import TokenCleaning
from luthier.types import Turn

BATCH = 256
PROBE = (Turn("user", "A probe: 12,345 naïve words… 你好 🙂"),)
CHANGED = ("weights", "trained", "scored", "hashes")
"""Files of a store that say which tokens train."""


def in_part(hashes: NDArray[np.uint64], keys: TokenCleaning) -> NDArray[np.bool_]:
    """Which rows are of the part that is asked for, by what they say: equal ones are of one part."""
    if keys.part is None or keys.parts is None:
        return np.ones(len(hashes), np.bool_)
    mixed = (hashes ^ (hashes >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)  # the lowest choose what is held out
    return (mixed >> np.uint64(32)) % np.uint64(keys.parts) == np.uint64(keys.part - 1)


def kept(worth_N: NDArray[np.float32], share: float, rows_N: NDArray[np.int64] | None = None) -> NDArray[np.bool_]:
    """The floor(share · N) tokens of the highest worth, of those that are worth the same the first; with `rows_N` (of
    each token its row) so many of each row."""
    keep_N = np.zeros(len(worth_N), np.bool_)
    if rows_N is None:
        keep_N[np.argsort(-worth_N, kind="stable")[: floor(share, len(worth_N))]] = True
        return keep_N
    _, starts, counts = np.unique(rows_N, return_index=True, return_counts=True)
    for start, count in zip(starts.tolist(), counts.tolist(), strict=True):
        keep_N[start : start + count] = kept(worth_N[start : start + count], share)
    return keep_N


def floor(share: float, count: int) -> int:
    """floor(share · count), where a share as it is written counts: 0.6 of 5 is 3, though 0.6 · 5 may be less."""
    return int(np.floor(round(share * count, 9)))


def cleaned(
    store: Store, rows: NDArray[np.int64], keys: TokenCleaning, tools: Tools, ledger: Ledger
) -> tuple[Store, NDArray[np.int64]]:
    """The store with the weights of these rows cleaned, and those of the rows that still train. `rows`: rising places.

    What the models say is kept in the cache by their weights and the rows, so another share asks nothing. Raises
    LuthierError for rows with judged answers, and for a reference of another tokenizer.
    """
    if not np.isnan(store.arrays[COLUMN + "reward"]).all() or len(store.arrays["column-step_reward"]):
        raise LuthierError(
            "token cleaning is for answers that nobody compares, and these rows are judged",
            where="tokens",
            fix="leave `tokens` out, or train on plain answers (objective: sft)",
        )
    named = {"base": tools.model if keys.base is None else str(keys.base), "reference": str(keys.reference)}
    models = {role: tools.speaker((name or "", {"engine": LOCAL})) for role, name in named.items()}
    content = hashlib.blake2b(store.arrays["hashes"][rows].astype("<u8").tobytes(), digest_size=16)
    content.update(store.folder.parent.name.encode())  # it says which tokens are scored
    content.update(json.dumps([models[role].identity for role in ("base", "reference")]).encode())
    folder = cache.root() / "tokens" / f"worth-{content.hexdigest()}"
    worth_N = _worth(store, rows, models["base"], models["reference"], folder)
    owners_N = np.repeat(np.arange(len(rows)), store.scored[rows])
    keep_N = kept(worth_N, keys.keep, owners_N if keys.of == "row" else None)
    made = _weighed(store, rows, keep_N, folder / f"{keys.of}-{keys.keep}-{_name(store.folder)}")
    left = rows[made.scored[rows] > 0]
    ledger.note(f"tokens: {int(keep_N.sum()):,} of {len(keep_N):,} scored tokens train")
    for row in np.setdiff1d(rows, left).tolist():
        ledger.note("tokens: no token of it trains any more", store.source(row))
    return made, left


def _name(folder: Path) -> str:
    return hashlib.blake2b(str(folder).encode(), digest_size=6).hexdigest()


def _worth(
    store: Store, rows: NDArray[np.int64], base: Speaking, reference: Speaking, folder: Path
) -> NDArray[np.float32]:
    """Of each scored token of these rows what it gained; batch by batch, so that a killed run goes on where it was."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{start:09d}.npy" for start in range(0, len(rows), BATCH)]
    if not all(path.is_file() for path in paths) and base.prompt(PROBE) != reference.prompt(PROBE):
        raise LuthierError(
            "the reference turns texts into other tokens than the base",
            where="tokens.reference",
            fix="take a run that was trained on this model",
        )
    for number, path in enumerate(paths):
        if not path.is_file():
            some = [store.encoded(int(row)) for row in rows[number * BATCH : (number + 1) * BATCH]]
            before, after = base.engine.logprobs(some), reference.engine.logprobs(some)
            gained = [one - other for one, other in zip(after, before, strict=True)]
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            with temporary.open("wb") as file:
                np.save(file, np.concatenate(gained).astype(np.float32))
            temporary.replace(path)
    return np.concatenate([np.load(path) for path in paths]) if paths else np.empty(0, np.float32)


def _weighed(store: Store, rows: NDArray[np.int64], keep_N: NDArray[np.bool_], folder: Path) -> Store:
    """The store where the tokens of these rows that are not kept weigh nothing; all else is shared with the old one."""
    if not (folder / "store" / "meta.json").is_file():
        weights = np.array(store.arrays["weights"])
        places = scored_places(store, rows)
        weights[places[~keep_N]] = 0.0
        hashes = np.array(store.arrays["hashes"])
        trained = np.add.reduceat(weights != 0, store.token_edges[:-1]) if len(weights) else np.empty(0)
        scored = np.add.reduceat(trained, store.sequence_edges[:-1]) if len(trained) else np.empty(0)
        ends = np.cumsum(store.scored[rows])
        for row, keep in zip(rows.tolist(), np.split(keep_N, ends[:-1]), strict=True):
            made = hashlib.blake2b(int(hashes[row]).to_bytes(8, "little"), digest_size=8)
            made.update(np.packbits(keep).tobytes())
            hashes[row] = int.from_bytes(made.digest(), "little")
        arrays = {"weights": weights, "trained": trained, "scored": scored, "hashes": hashes}
        with cache.whole_folder(folder, "cleaned tokens") as temporary:
            (temporary / "store").mkdir()
            for name, dtype in FILES.items():
                to = temporary / "store" / f"{name}.bin"
                if name in CHANGED:
                    to.write_bytes(arrays[name].astype(dtype).tobytes())
                else:
                    os.link(store.folder / f"{name}.bin", to)
            (temporary / "store" / "meta.json").write_bytes((store.folder / "meta.json").read_bytes())
    return Store(folder / "store")


def scored_places(store: Store, rows: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the scored tokens of these rows lie in the store's arrays, row after row."""
    weights = store.arrays["weights"]
    found = []
    for row in rows:
        sequences = range(store.sequence_edges[row], store.sequence_edges[row + 1])
        for sequence in sequences:
            first, last = store.token_edges[sequence : sequence + 2]
            found.append(first + 1 + np.flatnonzero(weights[first + 1 : last]))  # the first is never foretold
    return np.concatenate(found) if found else np.empty(0, np.int64)


__all__ = ["cleaned", "floor", "in_part", "kept", "scored_places"]
