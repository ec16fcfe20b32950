"""The reference of preference training: log-probabilities of the same tokens under the model as it was.

Three ways, the cheapest that is exact: the adapter switched off on the very weights that train (or, where these were
rewritten or train themselves, their starting values put in their place for the while); a second frozen model; or
log-probabilities computed once, before the first step, and kept on disk by content, so that later epochs and other runs
on the same model and rows find them there.

Shape suffixes: S = scored tokens of a micro-batch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier import cache
from luthier.forward.batches import Batch
from luthier.forward.forward import Forward
from luthier.forward.likelihoods import LayOut, each
from luthier.models import dropout
from luthier.models.adapters import Adapter
from luthier.types import Encoded, TokenStore

LAYOUT = 2
"""Raise when what is kept changes its meaning: old folders are then not found any more."""
LOGP, EDGES = "logp.bin", "edges.bin"


class Reference(Protocol):
    """Gives `Rows.ref_S` of a micro-batch."""

    @property
    def about(self) -> str:
        """What it is, for the screen and the log."""
        ...

    def logp(self, batch: Batch, store: str) -> Tensor:
        """S, fp32, without gradient. `store`: the digest of the token store that the batch's rows are places of."""
        ...


class Model(Protocol):
    """What is asked of a policy; `luthier.models.Policy` is one."""

    @property
    def base(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def dtype(self) -> torch.dtype: ...
    @property
    def has_adapter(self) -> bool: ...
    @property
    def rewrites_base(self) -> bool: ...
    @property
    def quantized(self) -> str | None: ...
    @property
    def adapters(self) -> Sequence[Adapter]: ...
    def adapter_off(self) -> AbstractContextManager[None]: ...


@dataclass(frozen=True)
class Choice:
    """Where the reference comes from, and whether to keep its log-probabilities unless the recipe says."""

    live: Live
    identity: tuple[str, ...]
    """What tells its values from those of any other reference on the same rows."""
    keep: bool

    def kept(self, wish: bool | Literal["auto"], passes: float) -> bool:
        """Is it better to compute them once? `passes`: how often the run sees each row."""
        return (self.keep or passes > 1) if wish == "auto" else wish


def choose(policy: Model, forward: Forward, second: tuple[Forward, Model] | None, adapt: str) -> Choice:
    """The reference of a run, before its first step. `adapt`: the recipe's adapters, as text."""
    if second is not None:
        frozen, model = second
        live = Live(frozen, f"a second model, {model.base}")
        return Choice(live, (model.digest, str(model.dtype), frozen.path), keep=True)
    note = f" (in {policy.quantized})" if policy.quantized else ""
    # the path, because another one rounds otherwise and the first loss would not be that of equal models
    same = (policy.digest, str(policy.dtype), str(policy.quantized), forward.path)
    if policy.has_adapter and not policy.rewrites_base and _base_is_what_it_was(policy.adapters):
        live = Live(forward, f"the base{note}, the adapter switched off", policy.adapter_off)
        return Choice(live, same, keep=False)
    start = Start(forward.module, everything=not policy.has_adapter)
    live = Live(forward, f"the model{note} as training began", start)
    return Choice(live, (*same, start.digest() if policy.has_adapter else adapt), keep=not policy.has_adapter)


def _base_is_what_it_was(adapters: Sequence[Adapter]) -> bool:
    """Is the base what the model was, or what it is to be compared with, rather than the model as training began?"""
    return all(adapter.exact_start for adapter in adapters) or any(adapter.starts_elsewhere for adapter in adapters)


def unequal(policy: Model, module: nn.Module, neftune: bool) -> list[str]:
    """Why the first loss is not that of equal models, where the reference is the model's own past; [] where it is."""
    reasons = [
        f"{adapter.card.title.partition(':')[0]} begins as another model than the base"
        for adapter in policy.adapters
        if adapter.starts_elsewhere
    ]
    rates = sorted({rate.value for rate in dropout.of_adapters(module)})
    if rates and not all(adapter.exact_start for adapter in policy.adapters):  # else it falls on what adds nothing yet
        reasons.append(f"the adapter has a dropout of {', '.join(f'{rate:g}' for rate in rates)}")
    return [*reasons, "NEFTune adds noise"] if neftune else reasons


class Start:
    """Calling it gives a block inside which a module has the weights it has now. Costs memory for what may change."""

    def __init__(self, module: nn.Module, *, everything: bool) -> None:
        self._weights = [weight for weight in module.parameters() if everything or weight.requires_grad]
        self._now: list[Tensor] | None = None

    def digest(self) -> str:
        """Identity of the weights by content: seeds draw them, and rows of the data are measured for them."""
        found = hashlib.blake2b(digest_size=16)
        for weight in self._weights:
            found.update(weight.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        return found.hexdigest()

    def remember(self) -> None:
        """Copy the weights, if that was not done."""
        self._now = self._now or [weight.detach().clone() for weight in self._weights]

    @contextmanager
    def __call__(self) -> Iterator[None]:
        if self._now is None:  # nothing has changed yet
            yield
            return
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        assert self._now is not None
        for place, weight in enumerate(self._weights):
            weight.data, self._now[place] = self._now[place], weight.data


@dataclass(frozen=True)
class Live:
    """The reference computed beside the policy, on the same micro-batch: so at the first step both agree to the bit."""

    forward: Forward
    about: str
    off: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside the block the forward's module is the reference."""

    def logp(self, batch: Batch, store: str = "") -> Tensor:
        module = self.forward.module
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), self.off():
                return self.forward.rows(batch).logp_S
        finally:
            module.train(training)


class Kept:
    """Log-probabilities of every example of some stores, on disk."""

    def __init__(self, about: str) -> None:
        self.about = about
        self._stores: dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]] = {}

    def add(self, store: TokenStore, folder: Path) -> None:
        """Take the values of one more store from its folder."""
        logp = np.memmap(folder / LOGP, "<f4", "r")
        self._stores[store.digest] = logp, np.fromfile(folder / EDGES, "<i8")

    def logp(self, batch: Batch, store: str) -> Tensor:
        """The kept values of the batch's examples, in the order of its scored tokens."""
        logp, edges = self._stores[store]
        return torch.from_numpy(np.concatenate([logp[edges[row] : edges[row + 1]] for row in batch.rows])).to(
            batch.weight_S.device
        )


def keep(
    live: Live, stores: Sequence[TokenStore], identity: Sequence[str], lay_out: LayOut, say: Callable[[str], None]
) -> Kept:
    """The log-probabilities of all rows of the stores: found on disk by content, or computed now and put there.

    `identity`: what the reference is, besides the rows: its weights' digest, its type, what starts out rewritten.
    """
    kept = Kept(f"{live.about}, its log-probabilities kept")
    for store in stores:
        key = json.dumps([LAYOUT, *identity, store.digest])
        folder = cache.root() / "reference" / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        if not folder.is_dir():
            say(f"reference: computing the log-probabilities of {len(store):,} examples once")
            with cache.whole_folder(folder, "the reference's log-probabilities") as temporary:
                _fill(temporary, live, store, lay_out)
        kept.add(store, folder)
    return kept


def _fill(folder: Path, live: Live, store: TokenStore, lay_out: LayOut) -> None:
    device = next(live.forward.module.parameters()).device
    values = list(each(store, lay_out, live.logp, device))
    np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype("<i8").tofile(folder / EDGES)
    np.concatenate(values).astype("<f4").tofile(folder / LOGP)


def mismatched(examples: Sequence[Encoded]) -> list[Encoded]:
    """Each example's prompt with the first response of the example before it (KTO's estimate of the KL divergence).

    `examples` has at least two.
    """
    made = []
    for one, other in zip(examples, [examples[-1], *examples[:-1]], strict=True):
        prompt = one.ids[0][: _first_scored(one)]
        begin = _first_scored(other)
        ids = np.concatenate([prompt, other.ids[0][begin:]])
        weights = np.concatenate([np.zeros(len(prompt), np.float32), other.weights[0][begin:]])
        made.append(Encoded((ids,), (weights,), row=one.row))
    return made


def cut(pair: Encoded, longest: int) -> Encoded:
    """A mismatched pair without what its response has beyond `longest` tokens, as a judged row that is too long."""
    return Encoded((pair.ids[0][:longest],), (pair.weights[0][:longest],), row=pair.row)


def _first_scored(example: Encoded) -> int:
    return int(np.flatnonzero(example.weights[0])[0])
