"""The tokenizer of a model folder. Light to import: transformers comes when one is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import LuthierError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder as it stands. Raises LuthierError when there is none that can be read, or the
    model's configuration cannot, which decides what kind of tokenizer it is."""
    from transformers import AutoTokenizer

    for name in ("config.json", "generation_config.json"):
        _must_be_object(folder / name)
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except Exception as error:  # tokenizers raises bare Exception for a broken tokenizer.json
        _must_be_understood(folder, trust_remote_code)
        raise LuthierError(
            f"cannot load the tokenizer: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            where=str(folder),
            fix="copy the tokenizer files of the model into the folder",
        ) from error
    return tokenizer


def _must_be_object(path: Path) -> None:
    try:
        if not path.is_file() or isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
            return
        fault = "it is no object"
    except ValueError as error:
        fault = str(error)
    raise LuthierError(f"cannot read the model's {path.name}: {fault}", where=str(path), fix="fetch it again")


def _must_be_understood(folder: Path, trust_remote_code: bool) -> None:
    """Raises LuthierError where the fault lies in the configuration."""
    from transformers import AutoConfig

    try:
        if (folder / "config.json").is_file():
            AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # huggingface_hub's checks of fields are no kind of ValueError
        raise LuthierError(
            f"the model's configuration makes no sense: {' '.join(str(error).split())[:200]}",
            where=str(folder / "config.json"),
            fix="fetch it again",
        ) from error
