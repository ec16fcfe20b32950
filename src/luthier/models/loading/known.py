"""Which models are on this machine: those with a short name, and converted files. Never imports torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from luthier import cache
from luthier.recipe.aliases import ALIASES, Alias


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


def home(name: str) -> Path:
    """The cache folder of a model that Luthier converted itself."""
    return cache.root() / "models" / name


def is_whole(folder: Path) -> bool:
    """Does the folder hold a model that can be loaded: configuration and every safetensors file of its index?"""
    if not (folder / "config.json").is_file():
        return False
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            return all((folder / name).is_file() for name in set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return False
    return (folder / "model.safetensors").is_file()


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
