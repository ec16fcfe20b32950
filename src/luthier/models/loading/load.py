"""Load a model and attach what trains, or open what a run has trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from luthier import machine
from luthier.errors import LuthierError
from luthier.models import heads as scalar
from luthier.models.adapters import ADAPTERS, Adapter, build, named
from luthier.models.adapters.kit.attached import attach
from luthier.models.adapters.peft.few_bits import mended
from luthier.models.adapters.peft.tuner import Tuner
from luthier.models.heads import HeadCard
from luthier.models.loading import foreign
from luthier.models.loading.digest import must_be_whole, weights_digest
from luthier.models.loading.fetching import Fetched, fetch
from luthier.models.loading.quiet import quiet
from luthier.models.loading.tokenizer import load_tokenizer
from luthier.models.policy import Policy
from luthier.models.quantizers import dequantise_, keep_types, settings
from luthier.recipe.resolve import plain, refuse_unquantisable
from luthier.recipe.schema import Model, Plugin
from luthier.run import Run
from luthier.types import Encoded

ORIGIN = "luthier.json"
"""Beside every adapter and whole model of a run: which base it belongs to, and which adapters it carries."""
OWN = "luthier.safetensors"
"""Beside it: the weights of the adapters that PEFT does not know."""
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Beginning:
    """What added weights begin as."""

    seed: int = 0
    """Draws them."""
    heads: Mapping[str, HeadCard] = field(default_factory=dict)
    """Scalar heads by role, each with how it is read, which train with the rest: the reward head that the model brings
    along, else zeros."""
    sample: Sequence[Encoded] = ()
    """Rows of the training data, for adapters that measure them first."""


PLAIN = Beginning()


def load(
    model: Model,
    adapt: Sequence[Plugin] = (),
    *,
    device: str | None = None,
    train: bool = True,
    quantize: Plugin | None = None,
    beginning: Beginning = PLAIN,
) -> Policy:
    """Fetch and load a model; with `train` attach the adapters (none: every weight trains), else freeze everything.

    Weights are of the type that suits the machine unless `model.dtype` says otherwise, added ones fp32. `device`:
    default CUDA where there is one. `quantize`: the base in few bits. Raises LuthierError as `fetch` does, and when
    the architecture is no language model.
    """
    if quantize is not None and train:
        refuse_unquantisable(adapt, quantize, ADAPTERS, "quantize")
    policy = _open(fetch(model), model, device, quantize)
    if not beginning.heads:
        scalar.must_speak(policy.folder, policy.module)
    policy.module.requires_grad_(train and quantize is None)
    _remember(policy, named(adapt) if train else [])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(beginning.seed)
        policy.module = attach(policy.module, policy.adapters, beginning.sample)
    if policy.has_adapter:
        policy.module.to(policy.device)
    if isinstance(policy.module, PeftModel):
        for config in policy.module.peft_config.values():
            config.base_model_name_or_path, config.revision = policy.reference, model.revision
        if any(adapter.rewrites_base for adapter in policy.adapters):
            state = get_peft_model_state_dict(policy.module, save_embedding_layers=False)
            policy.started = {name: tensor.detach().clone() for name, tensor in state.items()}
    policy.module.train(train)
    for role, card in beginning.heads.items():
        begin = scalar.begin if role == scalar.REWARD else scalar.anew
        policy.heads[role] = begin(policy.folder, policy.module, policy.device, card).requires_grad_(train)
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
        origin = origin_of(run.model)
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
    policy.heads = scalar.read(run.model if run.model.is_dir() else run.adapter, policy.module, policy.device)
    for head in policy.heads.values():
        head.requires_grad_(False)
    return policy


def _open(fetched: Fetched, model: Model, device: str | None, quantize: Plugin | None = None) -> Policy:
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = _dtype(model)
    # a quantised model is put on its device while it is read, piece by piece
    few_bits = {} if quantize is None else {"quantization_config": settings(quantize, dtype), "device_map": {"": where}}
    tokenizer = load_tokenizer(fetched.folder, trust_remote_code=model.trust_remote_code)
    must_be_whole(fetched.folder)
    try:
        with quiet():
            module, found = _from_pretrained(
                fetched.folder,
                dtype=dtype,
                trust_remote_code=model.trust_remote_code,
                local_files_only=True,
                output_loading_info=True,
                **few_bits,
            )
    except UNREADABLE as error:
        if "DefaultCPUAllocator" in str(error) or isinstance(error, torch.OutOfMemoryError):
            raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if "ignore_mismatched_sizes" in said:
            said = "its weights are of other sizes than its configuration says"
        raise LuthierError(
            f"cannot load the model: {said}",
            where=str(fetched.folder),
            fix="give a language model that transformers knows"
            + ("" if model.trust_remote_code else " (or, if it brings its own code, set model.trust_remote_code)"),
        ) from error
    _must_be_complete(module, found, fetched.folder)
    if quantize is None:
        module.to(where)
    else:
        keep_types(module, dtype)
    policy = Policy(module, tokenizer, model, fetched.folder, fetched.reference, where, dtype)
    policy.quantize = quantize
    return policy


UNREADABLE = (
    ValueError, TypeError, LookupError, OSError, RuntimeError, AttributeError, ArithmeticError, AssertionError,
    ImportError, SafetensorError,
)  # fmt: skip
"""What transformers raises for files that are damaged or do not go together."""
_from_pretrained: Any = AutoModelForCausalLM.from_pretrained


def _must_be_complete(module: Any, found: Mapping[str, Any], folder: Path) -> None:
    """Raises LuthierError where the files lack weights of the model: transformers draws such at random. What they hold
    beyond it is told."""
    missing = sorted(found["missing_keys"])
    if scalar.is_classifier(folder):  # it may have no output head, see `scalar.must_speak`
        missing = [name for name in missing if module.get_submodule(name.rpartition(".")[0]) is not _output(module)]
    if missing:
        raise LuthierError(
            f"the model's files lack {len(missing):,} of its weights, for instance {missing[0]}: its configuration is "
            "another model's, or a file is missing",
            where=str(folder),
            fix="fetch the model's folder again, config.json and every *.safetensors file",
        )
    unused = sorted(
        name for name in found["unexpected_keys"] if not scalar.is_classifier(folder) or name != scalar.SCORE
    )
    if unused:
        foreign.say(
            f"{folder}: {len(unused):,} tensors of its files are no part of this model, for instance {unused[0]}"
        )


def _output(module: Any) -> Any:
    return module.get_output_embeddings()


def _dtype(model: Model) -> torch.dtype:
    return DTYPES[machine.best_dtype() if model.dtype == "auto" else model.dtype]


def origin_of(folder: Path) -> dict[str, Any]:
    """What `luthier.json` says of where the weights beside it come from; {} where there is none."""
    path = folder / ORIGIN
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise LuthierError(
            f"{ORIGIN}, which says whose weights these are, is not whole", where=str(path), fix="copy the folder again"
        ) from error


def _origin_by_peft(folder: Path) -> dict[str, Any]:
    """As `origin_of`, from PEFT's own configuration; {} where there is none."""
    if not (folder / foreign.CONFIG).is_file():
        return {}
    config = foreign.config(folder)
    base, adapt = config["base_model_name_or_path"], [{"name": "peft", "args": {"peft_type": config["peft_type"]}}]
    return {"model": {"name": base, "revision": config.get("revision")}, "folder": base, "digest": None, "adapt": adapt}


def open_adapter(
    folder: Path, *, merged: bool = False, device: str | None = None, model: Model | None = None
) -> Policy:
    """The base that an adapter's folder names (or `model`, as which it is to be opened) with the adapter on it.

    The folder is one of ours, or what plain PEFT has written; that the base is the same is known of ours alone.
    """
    ours = origin_of(folder)
    origin = ours or _origin_by_peft(folder)
    if not origin:
        raise LuthierError(f"the adapter lacks {ORIGIN}, which names its base", where=str(folder), fix="train it again")
    model, trained = model or Model(**origin["model"]), Model(**origin["model"])
    quantize = Plugin(**origin["quantize"]) if origin.get("quantize") else None
    # other bits come out of weights in another type
    base = fetch_base(model, origin, folder)
    policy = _open(base, model if quantize is None else trained, device, quantize)
    if not ours:
        policy.tokenizer = foreign.tokenizer(folder, policy.tokenizer, trust_remote_code=model.trust_remote_code)
        foreign.grow(folder, policy.module, policy.tokenizer)
    if merged and quantize is not None:  # to codes of few bits nothing can be added
        policy.dtype, policy.quantize = _dtype(model), None
        dequantise_(policy.module, policy.dtype)
    _remember(policy, named([Plugin(**plugin) for plugin in origin.get("adapt", [{"name": "lora", "args": {}}])]))
    policy.module = attach(policy.module, [adapter for adapter in policy.adapters if adapter.kind != "peft"])
    if (folder / "adapter_config.json").is_file():
        policy.module = _with_adapter(policy.module, folder)
        for adapter in policy.adapters:
            if isinstance(adapter, Tuner):
                adapter.prepare_layers(policy.module)
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
    policy = _open(fetch_base(model, origin_of(folder), folder), model, None)
    policy.module.requires_grad_(False)
    policy.module.eval()
    return policy


def fetch_base(model: Model, origin: dict[str, Any], folder: Path) -> Fetched:
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
    except (KeyError, RuntimeError, OSError, SafetensorError) as error:
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
    """PEFT's own loading, with its shape errors and its warnings of what it passes over as errors a user can read."""
    try:
        with _complaints() as caught:
            wrapped = PeftModel.from_pretrained(module, folder)
            if not wrapped.active_peft_config.is_prompt_learning:  # PEFT keeps virtual tokens by other names
                foreign.must_all_fit(wrapped, folder)
    except SafetensorError as error:
        raise foreign.broken(folder, error) from error
    except (RuntimeError, ValueError, TypeError, KeyError, OSError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error).strip().splitlines()[-1].strip()
        raise LuthierError(
            f"the adapter does not fit the base model: {what}",
            where=str(folder),
            fix="open it with the base it was trained on",
        ) from error
    said = [str(item.message) for item in caught]
    missing = next((each for each in said if "missing adapter keys" in each), None)
    if missing:
        raise LuthierError(
            f"the adapter's file is incomplete: {missing[:200]}", where=str(folder), fix="train it again"
        )
    newer = next((each for each in said if "Unexpected keyword arguments" in each), None)
    if newer:
        keys = newer.partition("[")[2].partition("]")[0]
        raise LuthierError(
            f"a newer PEFT has written this adapter: the one here does not know its {keys}",
            where=str(folder / foreign.CONFIG),
            fix="pip install -U peft",
        )
    return mended(wrapped)
