"""From a GGUF file to a folder that everything reads: safetensors in bf16, tokenizer, template, generation settings."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier import cache
from luthier.errors import LuthierError
from luthier.models.loading.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DIGITS_APART = ("smollm", "starcoder", "refact", "command-r")
"""Vocabularies, by llama.cpp's name of how they cut text, that take each digit alone."""


def convert(gguf: Path, folder: Path) -> None:
    """Unpack the weights of `gguf` to bf16 and write the whole model to `folder`, or nothing.

    Raises LuthierError for a file that is no GGUF or of an architecture that cannot be read, and for a full disk.
    """
    with gguf.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise LuthierError(
                "not a GGUF file (it does not begin with 'GGUF')",
                where=str(gguf),
                fix="fetch it again: what is there may be a web page, or a pointer of Git LFS",
            )
    # Quantised weights take at least 2 bits and at most 16: bf16 needs up to 8 times the file. Blocks of about 4.5
    # bits are the rule, and what is asked for here only spares the work when the disk is surely too small.
    with cache.whole_folder(folder, "the converted model", size=2 * gguf.stat().st_size) as temporary:
        model, tokenizer = _read(gguf)
        with quiet():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def _read(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = getattr(transformers, "GgufConfig", None)  # transformers before 5.20 always unpacks
    options: dict[str, Any] = {} if config is None else {"quantization_config": config(dequantize=True)}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, **options
            )
    except (ValueError, TypeError, LookupError, RuntimeError, OSError, AttributeError, struct.error) as error:
        if "DefaultCPUAllocator" in str(error):
            raise
        raise LuthierError(
            f"this GGUF file cannot be read: {(str(error).strip().splitlines() or [type(error).__name__])[0]}",
            where=str(gguf),
            fix="fetch it again if it was cut short, else use the model's safetensors folder or its hub id instead",
        ) from error
    _forget_quantisation(model)
    _complete(model, tokenizer, gguf)
    return model, tokenizer


def _forget_quantisation(model: PreTrainedModel) -> None:
    """What loading from GGUF leaves behind would make save_pretrained refuse, or the saved model unreadable."""
    loaded: Any = model
    loaded.hf_quantizer = None
    loaded.is_quantized = False
    if getattr(loaded.config, "quantization_config", None) is not None:
        del loaded.config.quantization_config


def _complete(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, gguf: Path) -> None:
    """Set right what the GGUF format keeps only roughly."""
    from transformers import GenerationConfig

    config: Any = model.config
    text = config.get_text_config()
    epsilon = getattr(text, "rms_norm_eps", None)
    if epsilon is not None:
        text.rms_norm_eps = float(f"{epsilon:.6g}")  # the file holds it in single precision: 9.99999975e-06
    config._name_or_path = gguf.stem
    limit = getattr(text, "max_position_embeddings", None)
    if limit:
        tokenizer.model_max_length = limit
    if _split_name(gguf) in DIGITS_APART:
        _split_digits(tokenizer)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>") if "<|im_end|>" in tokenizer.get_vocab() else None
    stops = [tokenizer.eos_token_id] + ([end] if end not in (None, tokenizer.eos_token_id) else [])
    settings: Any = GenerationConfig
    model.generation_config = settings(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=stops[0] if len(stops) == 1 else stops,
        pad_token_id=tokenizer.pad_token_id,
    )


def _split_name(gguf: Path) -> str | None:
    """How the vocabulary's text was cut before merging, by llama.cpp's name."""
    from gguf import GGUFReader

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    return None if field is None else str(field.contents())


def _split_digits(tokenizer: Any) -> None:
    """Each digit is a token of its own, and the space before a number belongs to what precedes it.

    transformers reads these vocabularies as plain byte-level BPE, which cuts "in  1984" at other places.
    """
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True),
        ]
    )
