"""Load a model and attach what trains, or open what a run has trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from luthier import machine
from luthier.errors import LuthierError
from luthier.models import heads
from luthier.models.adapters import ADAPTERS, Adapter, build, named
from luthier.models.adapters.kit.attached import attach
from luthier.models.adapters.peft.few_bits import mended
from luthier.models.adapters.peft.tuner import Tuner
from luthier.models.loading.digest import weights_digest
from luthier.models.loading.fetching import Fetched, fetch
from luthier.models.loading.quiet import quiet
from luthier.models.policy import Policy
from luthier.models.quantizers import dequantise_, settings, settle
from luthier.recipe.resolve import plain, refuse_unquantisable
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run
from luthier.types import Encoded

ORIGIN = "luthier.json"
"""Beside every adapter and whole model of a run: which base it belongs to, and which adapters it carries."""
OWN = "luthier.safetensors"
"""Beside it: the weights of the adapters that PEFT does not know."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def load(
    model: Model,
    adapt: Sequence[Plugin] = (),
    *,
    device: str | None = None,
    train: bool = True,
    seed: int = 0,
    head: bool | heads.HeadCard = False,
    quantize: Plugin | None = None,
    sample: Sequence[Encoded] = (),
) -> Policy:
    """Fetch and load a model; with `train` attach the adapters (none: every weight trains), else freeze everything.

    Weights are of the type that suits the machine unless `model.dtype` says otherwise, added ones fp32. `device`:
    default CUDA where there is one. `seed` draws the added weights. `head` (True, or how it is read) attaches a scalar
    head, which trains with the rest: the one that the model brings along, else zeros. `quantize`: the base in few bits.
    `sample`: rows of the training data, for adapters that measure them first. Raises LuthierError as `fetch` does, and
    when the architecture is no language model.
    """
    if quantize is not None and train:
        refuse_unquantisable(adapt, quantize, ADAPTERS, "quantize")
    policy = _open(fetch(model), model, device, quantize)
    if not head:
        heads.must_speak(policy.folder, policy.module)
    policy.module.requires_grad_(train and quantize is None)
    _remember(policy, named(adapt) if train else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        policy.module = attach(policy.module, policy.adapters, sample)
    if policy.has_adapter:
        policy.module.to(policy.device)
    if isinstance(policy.module, PeftModel):
        for config in policy.module.peft_config.values():
            config.base_model_name_or_path, config.revision = policy.reference, model.revision
        if any(adapter.rewrites_base for adapter in policy.adapters):
            state = get_peft_model_state_dict(policy.module, save_embedding_layers=False)
            policy.started = {name: tensor.detach().clone() for name, tensor in state.items()}
    policy.module.train(train)
    if head:
        card = head if isinstance(head, heads.HeadCard) else None
        policy.head = heads.begin(policy.folder, policy.module, policy.device, card).requires_grad_(train)
    return policy


def sample_rows(adapt: Sequence[Plugin]) -> int:
    """How many rows of the training data the adapters want to see before they begin."""
    return max((adapter.sample_rows for adapter in build(adapt)), default=0)


def _remember(policy: Policy, adapters: Sequence[tuple[str, Adapter]]) -> None:
    policy.adapters = [adapter for _, adapter in adapters]
    policy.adapt = [Plugin(name=name, args=_keys(adapter)) for name, adapter in adapters]


def _keys(adapter: Any) -> dict[str, Any]:
    return {f.name: plain(getattr(adapter, f.name)) for f in fields(adapter) if f.init}


def open_run(run: Run, *, merged: bool = False, device: str | None = None) -> Policy:
    """What the run has trained, for generating: its adapter on its base, or its whole model.

    `merged`: add the adapter into the base's weights in memory, which generates faster but cannot be switched off.
    Raises LuthierError when the run has not finished, or when the base at hand is not the one it was trained on.
    """
    if run.model.is_dir():
        origin = _origin(run.model)
        model = Model(**origin["model"]) if origin else Model(name=str(run.model))
        policy = _open(Fetched(run.model.resolve(), model.name, "run", "", str(run.model.resolve())), model, device)
    elif run.adapter.is_dir():
        policy = open_adapter(run.adapter, merged=merged, device=device)
    else:
        raise LuthierError(
            "the run holds no trained model yet",
            where=str(run.folder),
            fix="let `luthier train` with its recipe end first",
        )
    policy.module.requires_grad_(False)
    policy.module.eval()
    policy.head = heads.read(run.model if run.model.is_dir() else run.adapter, policy.module, policy.device)
    if policy.head is not None:
        policy.head.requires_grad_(False)
    return policy


def _open(fetched: Fetched, model: Model, device: str | None, quantize: Plugin | None = None) -> Policy:
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _dtype(model)
    # a quantised model is put on its device while it is read, piece by piece
    few_bits = {} if quantize is None else {"quantization_config": settings(quantize, dtype), "device_map": {"": where}}
    tokenizer = load_tokenizer(fetched.folder, trust_remote_code=model.trust_remote_code)
    try:
        with quiet():
            module: Any = AutoModelForCausalLM.from_pretrained(
                fetched.folder,
                dtype=dtype,
                trust_remote_code=model.trust_remote_code,
                local_files_only=True,
                **few_bits,
            )
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        raise LuthierError(
            f"cannot load the model: {str(error).strip().splitlines()[0]}",
            where=str(fetched.folder),
            fix="give a language model that transformers knows"
            + ("" if model.trust_remote_code else " (or, if it brings its own code, set model.trust_remote_code)"),
        ) from error
    if quantize is None:
        module.to(where)
    else:
        settle(module, dtype)
    policy = Policy(module, tokenizer, model, fetched.folder, fetched.reference, where, dtype)
    policy.quantize = quantize
    return policy


def _dtype(model: Model) -> torch.dtype:
    return DTYPES[machine.best_dtype() if model.dtype == "auto" else model.dtype]


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder as it stands. Raises LuthierError when there is none that can be read."""
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # tokenizers raises bare Exception for a broken tokenizer.json
        raise LuthierError(
            f"cannot load the tokenizer: {str(error).strip().splitlines()[0]}",
            where=str(folder),
            fix="copy the tokenizer files of the model into the folder",
        ) from error
    return tokenizer


def _origin(folder: Path) -> dict[str, Any]:
    path = folder / ORIGIN
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise LuthierError(
            f"{ORIGIN}, which says whose weights these are, is not whole", where=str(path), fix="copy the folder again"
        ) from error


def _origin_by_peft(folder: Path) -> dict[str, Any]:
    """As `_origin`, from PEFT's own configuration; {} where that names no base."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    base = config.get("base_model_name_or_path")
    if not base:
        return {}
    adapt = [{"name": "peft", "args": {"peft_type": config["peft_type"]}}]
    return {"model": {"name": base, "revision": config.get("revision")}, "folder": base, "digest": None, "adapt": adapt}


def open_adapter(
    folder: Path, *, merged: bool = False, device: str | None = None, model: Model | None = None
) -> Policy:
    """The base that an adapter's folder names (or `model`, as which it is to be opened) with the adapter on it.

    The folder is one of ours, or what plain PEFT has written; that the base is the same is known of ours alone.
    """
    origin = _origin(folder) or _origin_by_peft(folder)
    if not origin:
        raise LuthierError(f"the adapter lacks {ORIGIN}, which names its base", where=str(folder), fix="train it again")
    model, trained = model or Model(**origin["model"]), Model(**origin["model"])
    quantize = Plugin(**origin["quantize"]) if origin.get("quantize") else None
    # other bits come out of weights in another type
    base = _fetch_base(model, origin, folder)
    policy = _open(base, model if quantize is None else trained, device, quantize)
    if merged and quantize is not None:  # to codes of few bits nothing can be added
        policy.dtype, policy.quantize = _dtype(model), None
        dequantise_(policy.module, policy.dtype)
    _remember(policy, named([Plugin(**plugin) for plugin in origin.get("adapt", [{"name": "lora", "args": {}}])]))
    policy.module = attach(policy.module, [adapter for adapter in policy.adapters if adapter.kind != "peft"])
    if (folder / "adapter_config.json").is_file():
        policy.module = _with_adapter(policy.module, folder)
        for adapter in policy.adapters:
            if isinstance(adapter, Tuner):
                adapter.settle(policy.module)
    if policy.attached.own:
        policy.module.to(policy.device)
        _restore(policy, folder)
    if merged:
        policy.module = policy.attached.merge()
        policy.adapters, policy.adapt = [], []
    return policy


def open_base(run: Run, model: Model) -> Policy:
    """The base of what a run has trained, frozen, loaded as `model` says. Raises LuthierError where it is not at hand,
    or not the one that was trained on."""
    folder = run.model if run.model.is_dir() else run.adapter
    policy = _open(_fetch_base(model, _origin(folder), folder), model, None)
    policy.module.requires_grad_(False)
    policy.module.eval()
    return policy


def _fetch_base(model: Model, origin: dict[str, Any], folder: Path) -> Fetched:
    """The base that the weights in `folder` were trained on: by name, else from the folder it lay in while training,
    else from where it lies now if both were moved together. Raises LuthierError where none has its weights."""
    before = [folder.parent / origin[key] for key in ("folder", "beside") if origin.get(key)]
    other, fault = None, None
    for each in (model, *(Model(name=str(path.resolve())) for path in before if path.exists())):
        try:
            fetched = fetch(each)
        except LuthierError as error:
            fault = fault or error
            continue
        found = weights_digest(fetched.folder)
        if found == (origin.get("digest") or found):
            return fetched
        other = other or found
    if other is None:
        raise LuthierError(
            f"the base model that was trained on cannot be opened: {fault and fault.what} ({model.name})",
            where=str(folder),
            fix=f"bring it back there{f', or to {before[0]}' if before else ''}",
        ) from fault
    raise LuthierError(
        f"the base model {model.name!r} at hand is not the one that was trained on "
        f"(weights {other[:12]}, trained on {origin['digest'][:12]})",
        where=str(folder),
        fix=f"bring back the weights that lay in {origin['folder']}, or train again on these",
    )


def _restore(policy: Policy, folder: Path) -> None:
    """Put the weights of our own adapters back."""
    try:
        policy.attached.restore(load_file(folder / OWN))
    except (KeyError, RuntimeError, OSError) as error:
        raise LuthierError(
            f"the adapter does not fit the base model: {str(error).strip().splitlines()[-1].strip()}",
            where=str(folder / OWN),
            fix="open it with the base it was trained on",
        ) from error


@contextmanager
def _complaints() -> Any:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


def _with_adapter(module: Any, folder: Path) -> Any:
    """PEFT's own loading, with its shape errors and its warning of missing keys as errors a user can read."""
    try:
        with _complaints() as caught:
            wrapped = PeftModel.from_pretrained(module, folder)
    except (RuntimeError, ValueError, OSError) as error:
        raise LuthierError(
            f"the adapter does not fit the base model: {str(error).strip().splitlines()[-1].strip()}",
            where=str(folder),
            fix="open it with the base it was trained on",
        ) from error
    missing = [str(item.message) for item in caught if "missing adapter keys" in str(item.message)]
    if missing:
        raise LuthierError(
            f"the adapter's file is incomplete: {missing[0][:200]}", where=str(folder), fix="train it again"
        )
    return mended(wrapped)
