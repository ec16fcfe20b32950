"""The reference of preference training: log-probabilities of the same tokens under the model as it was.

Three ways, the cheapest that is exact: the adapter switched off on the very weights that train (or, where these were
rewritten or train themselves, their starting values put in their place for the while); a second frozen model; or
log-probabilities computed once, before the first step, and cached on disk by content, so that later epochs and other
runs on the same model and rows find them there.

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
from luthier.forward.likelihoods import LayOut, each, fitting
from luthier.models import dropout
from luthier.models.adapters import Adapter
from luthier.types import Encoded, TokenStore

LAYOUT = 3
"""Raise when what is cached changes its meaning: old folders are then not found any more."""
LOGP, EDGES, KEYS = "logp.bin", "edges.bin", "keys.bin"
KEY = 16
"""Bytes of `Encoded.key`."""


class Reference(Protocol):
    """Gives `Rows.ref_S` of a micro-batch."""

    @property
    def about(self) -> str:
        """What it is, for the screen and the log."""
        ...

    def logp(self, batch: Batch) -> Tensor:
        """S, fp32, without gradient."""
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
    """Where the reference comes from, and whether to cache its log-probabilities unless the recipe says."""

    live: Live
    identity: tuple[str, ...]
    """What tells its values from those of any other reference on the same rows."""
    cache: bool

    def cached(self, wish: bool | Literal["auto"], passes: float) -> bool:
        """Is it better to compute them once? `passes`: how often the run sees each row."""
        return (self.cache or passes > 1) if wish == "auto" else wish


def choose(policy: Model, forward: Forward, second: tuple[Forward, Model] | None, adapt: str) -> Choice:
    """The reference of a run, before its first step. `adapt`: the recipe's adapters, as text."""
    if second is not None:
        frozen, model = second
        live = Live(frozen, f"a second model, {model.base}")
        return Choice(live, (model.digest, str(model.dtype), frozen.path), cache=True)
    note = f" (in {policy.quantized})" if policy.quantized else ""
    # the path, because another one rounds otherwise and the first loss would not be that of equal models
    same = (policy.digest, str(policy.dtype), str(policy.quantized), forward.path)
    if policy.has_adapter and not policy.rewrites_base and _base_is_what_it_was(policy.adapters):
        live = Live(forward, f"the base{note}, the adapter switched off", policy.adapter_off)
        return Choice(live, same, cache=False)
    start = Start(forward.module, everything=not policy.has_adapter)
    live = Live(forward, f"the model{note} as training began", start)
    return Choice(live, (*same, start.digest() if policy.has_adapter else adapt), cache=not policy.has_adapter)


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
    """The reference computed beside the policy, on the same micro-batch: so at the first step both agree to the bit.

    A second model that cannot read the policy's layout (it cannot pack, or not share prefixes) has the rows laid out
    again in its own.
    """

    forward: Forward
    about: str
    off: Callable[[], AbstractContextManager[None]] = nullcontext
    """Inside the block the forward's module is the reference."""

    def logp(self, batch: Batch) -> Tensor:
        """S, fp32, without gradient."""
        module = self.forward.module
        training = module.training
        module.eval()
        try:
            with torch.no_grad(), self.off():
                if self.forward.takes(batch):
                    return self.forward.rows(batch).logp_S
                lay_out = fitting(self.forward, max(batch.whole_tokens, 1))
                device = batch.weight_S.device
                rows = each(batch.examples, lay_out, lambda own: self.forward.rows(own).logp_S, device)
                return torch.from_numpy(np.concatenate(list(rows))).to(device)
        finally:
            module.train(training)


class Cached:
    """Log-probabilities of examples, on disk, found by what the example is."""

    def __init__(self, about: str) -> None:
        self.about = about
        self._found: dict[bytes, NDArray[np.float32]] = {}

    def add(self, folder: Path) -> None:
        """Take the values that lie in a folder."""
        logp, edges = np.memmap(folder / LOGP, "<f4", "r"), np.fromfile(folder / EDGES, "<i8")
        keys = (folder / KEYS).read_bytes()
        for i in range(len(edges) - 1):
            self._found[keys[i * KEY : (i + 1) * KEY]] = logp[edges[i] : edges[i + 1]]

    def logp(self, batch: Batch) -> Tensor:
        """The cached values of the batch's examples, in the order of its scored tokens."""
        values = np.concatenate([self._found[example.key] for example in batch.examples])
        return torch.from_numpy(values).to(batch.weight_S.device)


def compute(
    live: Live,
    examples: Sequence[Sequence[Encoded] | TokenStore],
    identity: Sequence[str],
    values: Callable[[Sequence[Encoded] | TokenStore, Callable[[Batch], Tensor]], list[NDArray[np.float32]]],
    say: Callable[[str], None],
) -> Cached:
    """The log-probabilities of all these examples: found on disk by content, or computed now and put there.

    `identity`: what the reference is, besides the rows: its weights' digest, its type, what starts out rewritten.
    `values` gives what a function of a micro-batch says of each example, within the memory that there is.
    """
    cached = Cached(f"{live.about}, its log-probabilities cached")
    for some in examples:
        keys = b"".join(some[i].key for i in range(len(some)))
        key = json.dumps([LAYOUT, *identity, hashlib.blake2b(keys, digest_size=16).hexdigest()])
        folder = cache.root() / "reference" / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        if not folder.is_dir():
            say(f"reference: computing the log-probabilities of {len(some):,} examples once")
            with cache.whole_folder(folder, "the reference's log-probabilities") as temporary:
                _fill(temporary, values(some, live.logp), keys)
        cached.add(folder)
    return cached


def _fill(folder: Path, values: Sequence[NDArray[np.float32]], keys: bytes) -> None:
    np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype("<i8").tofile(folder / EDGES)
    np.concatenate(values).astype("<f4").tofile(folder / LOGP)
    (folder / KEYS).write_bytes(keys)


__all__ = ["Cached", "LayOut", "Live", "Reference", "Start", "choose", "compute", "unequal"]
