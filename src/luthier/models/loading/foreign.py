"""Adapters that others have written with PEFT: what their folder says, which tokenizer goes with them, and whether all
of their weights find a place. Light to import: torch, transformers and peft come when one is opened.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError
from luthier.models.loading.tokenizer import load_tokenizer

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
TEMPLATE = "chat_template.jinja"
SHOWN = 3
"""Names told in a message."""


def is_adapter(folder: Path) -> bool:
    """Does the folder hold an adapter that PEFT has written, whatever lies beside it? Raises LuthierError where it
    holds a whole model too: which of the two is meant cannot be known."""
    if not (folder / CONFIG).is_file():
        return False
    if (folder / "model.safetensors").is_file() or (folder / "model.safetensors.index.json").is_file():
        raise LuthierError(
            f"this folder holds a whole model and an adapter ({CONFIG}), and only one of them can be meant",
            where=str(folder),
            fix="move the adapter's files (adapter_*) into a folder of their own, and name the one or the other",
        )
    return True


def config(folder: Path) -> dict[str, Any]:
    """The adapter's configuration. Raises LuthierError where it cannot be read, names no base or no kind, is no
    adapter of a language model, or its weights are missing or pickled."""
    path = folder / CONFIG
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LuthierError(
            f"the adapter's configuration is no JSON: {error}", where=str(path), fix="fetch it again"
        ) from error
    found = found if isinstance(found, dict) else {}
    missing = [key for key in ("base_model_name_or_path", "peft_type") if not found.get(key)]
    if missing:
        raise LuthierError(
            "this folder holds an adapter, not a model, and "
            + ("names no base" if "base_model_name_or_path" in missing else "does not say of which kind it is"),
            where=str(folder),
            fix=f"write {missing[0]} into its {CONFIG}, or merge it first",
        )
    if found.get("task_type") not in (None, "CAUSAL_LM"):
        raise LuthierError(
            f"this adapter was made for another task than writing text ({found['task_type']})",
            where=str(path),
            fix="give an adapter of a causal language model (CAUSAL_LM)",
        )
    if not (folder / WEIGHTS).is_file():
        pickled = any(folder.glob("adapter_model.bin")) or any(folder.glob("adapter_model.pt"))
        raise LuthierError(
            "the adapter has its weights only as a pickle, which can run code"
            if pickled
            else f"the adapter lacks its weights ({WEIGHTS})",
            where=str(folder),
            fix="convert them to safetensors" if pickled else "fetch that file, too",
        )
    return found


# the tokenizer
def brings_text(folder: Path) -> bool:
    """Does the adapter bring a tokenizer of its own, or at least a chat template?"""
    return brings_tokenizer(folder) or (folder / TEMPLATE).is_file()


def brings_tokenizer(folder: Path) -> bool:
    """Does the adapter bring a whole tokenizer?"""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def tokenizer(folder: Path, base: Any, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer that the adapter was trained with: its own, or the base's (`base`) with its own template.

    Raises LuthierError where the adapter's own means other texts by the base's token ids.
    """
    if not brings_tokenizer(folder):
        if (folder / TEMPLATE).is_file():
            base.chat_template = (folder / TEMPLATE).read_text(encoding="utf-8")
        return base
    own = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    _must_agree(folder, own, base)
    return own


def _must_agree(folder: Path, own: Any, base: Any) -> None:
    """A token may be new, and a placeholder of the base's may have got a name; nothing else may differ."""
    theirs, ours = base.get_vocab(), own.get_vocab()
    renamed = {place: token for token, place in ours.items()}
    special = set(base.added_tokens_decoder)
    moved = [token for token, place in theirs.items() if token in ours and ours[token] != place]
    other = [
        token for token, place in theirs.items() if token not in ours and place in renamed and place not in special
    ]
    if moved or other:
        token = (moved or other)[0]
        there = f"{ours[token]}" if moved else f"{renamed[theirs[token]]!r} at {theirs[token]}"
        raise LuthierError(
            f"the adapter's own tokenizer is not that of its base: {len(moved) + len(other):,} tokens differ, for "
            f"instance {token!r} is {theirs[token]} in the base, and the adapter has {there}",
            where=str(folder),
            fix="take the tokenizer's files out of the folder if they are there by mistake, or give the right base "
            f"(base_model_name_or_path in its {CONFIG})",
        )


def differences(own: Any, base: Any) -> str:
    """What an adapter's tokenizer has of its own, in words; "" where it is the base's."""
    named = {
        "tokens": own.get_vocab() != base.get_vocab(),
        "chat template": own.chat_template != base.chat_template,
        "end token": own.eos_token != base.eos_token,
    }
    found = [name for name, differs in named.items() if differs]
    return " and ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)


@cache
def say(text: str) -> None:
    """One line on stderr, once in a process."""
    from rich.console import Console

    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


# the weights
def grow(folder: Path, module: Any, own: Any) -> None:
    """Give the base as many rows of embeddings as the adapter brings, where it was trained with more tokens than the
    base has. Raises LuthierError for tokens whose rows nobody brings."""
    rows = module.get_input_embeddings().weight.shape[0]
    named = _tables(folder, module)
    brought = named.get("input", rows)
    if brought != rows:
        if named.get("output", brought if _tied(module) else rows) != brought:
            raise LuthierError(
                f"the adapter brings embeddings of {brought:,} tokens and an output of {rows:,}",
                where=str(folder / WEIGHTS),
                fix="save it with its output head, too (PEFT: save_embedding_layers=True)",
            )
        module.resize_token_embeddings(brought, mean_resizing=False)
    known = max(own.get_vocab().values()) + 1
    if known > brought:
        raise LuthierError(
            f"the adapter's tokenizer has {known:,} tokens, its base rows for {rows:,} of them, and the adapter brings "
            "no others: those tokens would mean nothing",
            where=str(folder),
            fix="save the adapter with its embeddings (PEFT: save_embedding_layers=True), or give the base it was "
            "trained on, with its new tokens",
        )


def _tied(module: Any) -> bool:
    head = module.get_output_embeddings()
    return head is None or head.weight is module.get_input_embeddings().weight


def _tables(folder: Path, module: Any) -> dict[str, int]:
    """The rows of the embeddings and of the output head in the adapter's file, of those that are there."""
    from safetensors import SafetensorError, safe_open

    ends = {"input": module.get_input_embeddings(), "output": module.get_output_embeddings()}
    found: dict[str, int] = {}
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            names = list(file.keys())
            for end, part in ends.items():
                place = next((name for name, each in module.named_modules() if each is part), None)
                for name in names:
                    if place and name.endswith((f".{place}.weight", f".{place}.base_layer.weight")):
                        found[end] = file.get_slice(name).get_shape()[0]
    except (SafetensorError, OSError) as error:
        raise broken(folder, error) from error
    return found


def broken(folder: Path, error: Exception) -> LuthierError:
    """The adapter's file cannot be read."""
    return LuthierError(
        f"the adapter's file is damaged or cut short: {str(error).strip().splitlines()[0]}",
        where=str(folder / WEIGHTS),
        fix="fetch it again",
    )


def must_all_fit(module: Any, folder: Path) -> None:
    """Raises LuthierError where the file holds weights that PEFT (0.21.2, `PeftModel.from_pretrained`) found no place
    for, and passed over."""
    from peft import PeftType, get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    tensors = load_file(folder / WEIGHTS)
    if module.active_peft_config.peft_type == PeftType.ADALORA:  # it cuts its layers to size once, as they are loaded
        left = sorted(set(tensors) - set(get_peft_model_state_dict(module, save_embedding_layers=True)))
    else:
        loaded: Any = set_peft_model_state_dict(module, tensors)
        left = list(loaded.unexpected_keys)
    if left:
        more = f" and {len(left) - SHOWN} more" if len(left) > SHOWN else ""
        raise LuthierError(
            f"the adapter does not fit the base model, which has no place for {', '.join(left[:SHOWN])}{more}",
            where=str(folder),
            fix="open it with the base it was trained on",
        )
