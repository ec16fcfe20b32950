"""The adapters beside a base in memory: known by name, loaded when first asked for, the longest unused making room.

Clients name adapters, never places: a name is a folder directly in the one that the server was started with.
"""

from __future__ import annotations

import copy
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.errors import LuthierError
from luthier.registry import suggest
from luthier.run import Run
from luthier.serve.faults import ApiFault
from luthier.serve.metrics import Metrics

if TYPE_CHECKING:
    from luthier.data import Template
    from luthier.engines import LocalEngine
    from luthier.models import Policy

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
WORDS = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")
"""What decides how an adapter's folder reads text."""


@dataclass(eq=False)
class Adapter:
    """One adapter."""

    name: str
    folder: Path
    key: str
    """What the engine knows it by: never used twice, so that nothing of a former adapter of the name is found."""
    created: int = field(default_factory=lambda: int(time.time()))
    loaded: bool = False
    used: float = 0.0
    gone: bool = False
    """Unloaded by a client: it leaves when nobody is answered by it any more."""


class Adapters:
    """Names and adapters: `prepare` and `tidy` are for the engine's thread, the rest for the event loop."""

    def __init__(self, base: Policy, template: Template, engine: LocalEngine, most: int, metrics: Metrics) -> None:
        self._base, self._template, self._engine = base, template, engine
        self._most, self._metrics = most, metrics
        self._by_name: dict[str, Adapter] = {}
        self._by_key: dict[str, Adapter] = {}
        self._templates: dict[str, Template] = {}
        self._made = 0
        self.in_use: Callable[[], set[str | None]] = lambda: set()
        """Keys of the adapters by which somebody is answered now."""

    # names
    def names(self) -> list[Adapter]:
        """All that may be asked for."""
        return sorted(self._by_name.values(), key=lambda one: one.name)

    def get(self, name: str) -> Adapter | None:
        """The adapter of this name."""
        return self._by_name.get(name)

    @property
    def loaded(self) -> int:
        """How many are in memory."""
        return sum(one.loaded for one in list(self._by_key.values()))

    def add(self, name: str, folder: Path) -> Adapter:
        """Make an adapter known. Raises LuthierError where the name is taken."""
        if name in self._by_name:
            raise LuthierError(
                f"two adapters are called {name!r}: {self._by_name[name].folder} and {folder}",
                where=str(folder),
                fix="give one of the folders another name",
            )
        self._made += 1
        made = Adapter(name, folder, f"a{self._made}")
        self._by_name[name] = self._by_key[made.key] = made
        return made

    def remove(self, name: str) -> Adapter:
        """Let nobody ask for it any more. Raises ApiFault (404) where there is none such."""
        if name not in self._by_name:
            raise unknown(name, list(self._by_name))
        made = self._by_name.pop(name)
        made.gone = True
        return made

    def template(self, adapter: Adapter) -> Template:
        """How its rows were rendered: its own tokenizer and template if it brings such; equal files are read once.

        Raises LuthierError where the adapter is not sound: it is looked at before it is first asked.
        """
        from luthier.data import Template
        from luthier.models import embeddings
        from luthier.models.loading import foreign
        from luthier.models.loading.beneath import must_go_on

        must_be_sound(adapter.folder)
        must_go_on(adapter.folder, self._base)
        found = [adapter.folder / name for name in WORDS if (adapter.folder / name).is_file()]
        if not foreign.brings_text(adapter.folder):
            return self._template
        made = hashlib.blake2b(digest_size=16)
        for path in found:
            made.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
        digest = made.hexdigest()
        if digest not in self._templates:
            base = self._base.tokenizer
            if not foreign.brings_tokenizer(adapter.folder):
                base = copy.deepcopy(base)  # it is given the adapter's own template
            tokenizer = foreign.tokenizer(adapter.folder, base)
            self._templates[digest] = Template(tokenizer, embeddings(self._base.module))
        return self._templates[digest]

    # on the engine's thread
    def prepare(self, key: str | None) -> None:
        """See to it that an adapter is in memory. Raises LuthierError where it does not go on the base."""
        if key is None:
            return
        adapter = self._by_key.get(key)
        if adapter is None:
            raise ApiFault(404, "the adapter was unloaded meanwhile", param="model", code="model_not_found")
        adapter.used = time.monotonic()
        if adapter.loaded:
            return
        self._engine.load_adapter(key, str(adapter.folder))
        adapter.loaded = True
        if not self._engine.serves_beside(key):
            self._make_room(adapter)
        self._metrics.count("adapter_loads")

    def tidy(self) -> None:
        """Forget those that were unloaded and answer nobody any more."""
        gone = [one for one in self._by_key.values() if one.gone]
        if gone:
            busy = self.in_use()
            for adapter in gone:
                if adapter.key not in busy:
                    self._drop(adapter)
                    del self._by_key[adapter.key]

    def _make_room(self, newest: Adapter) -> None:
        """For one that the engine does not hold in a pool of its own: others of its kind leave."""
        taken = [one for one in self._by_key.values() if one.loaded and not self._engine.serves_beside(one.key)]
        busy = {*self.in_use(), newest.key}
        for adapter in sorted(taken, key=lambda one: one.used)[: max(0, len(taken) - self._most)]:
            if adapter.key not in busy:
                self._drop(adapter)
                self._metrics.count("adapter_evictions")

    def _drop(self, adapter: Adapter) -> None:
        if adapter.loaded:
            self._engine.drop_adapter(adapter.key)
            adapter.loaded = False


def unknown(name: str, known: list[str]) -> ApiFault:
    """There is no model of this name."""
    what = f"there is no model {name[:200]!r} here; {suggest(name[:200], known)}"
    return ApiFault(404, what, param="model", code="model_not_found")


def found_in(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """The adapters in a folder of runs or of PEFT's folders, by name; and why others cannot be served."""
    found: dict[str, Path] = {}
    left_out: list[str] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and place_of(path) is not None:
            try:
                found[path.name] = place_in(folder, path.name)
            except ApiFault as fault:
                left_out.append(f"{path.name}: {fault.message}")
    return found, left_out


def place_of(path: Path) -> Path | None:
    """Where the adapter of a run, or of a folder of PEFT's, has its files."""
    return next((place for place in (path / "adapter", path) if (place / "adapter_config.json").is_file()), None)


def place_in(folder: Path, name: str) -> Path:
    """The files of the adapter of this name. Raises ApiFault for what is no name of one that lies in the folder."""
    if not NAME.fullmatch(name):
        raise ApiFault(
            400, "an adapter's name has letters, digits, '.', '_' and '-', at most 128 of them", param="name"
        )
    place = place_of(folder / name)
    if place is None:
        raise ApiFault(404, f"there is no adapter {name!r} in the server's folder of adapters", param="name")
    if (place / "head.safetensors").is_file():
        raise ApiFault(400, f"{name!r} is a reward model: it scores answers, it gives none", param="name")
    inside = folder.resolve()
    recipe = Run(folder / name).recipe_path
    for path in (place, *place.iterdir(), *([recipe] if recipe.exists() else [])):
        if not path.resolve().is_relative_to(inside):
            raise ApiFault(400, f"the adapter {name!r} is (or has) a link to a place outside the folder", param="name")
    return place


def must_be_sound(folder: Path) -> None:
    """Raises LuthierError for an adapter whose weights are pickled, damaged, or no numbers."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from luthier.models.loading import foreign

    foreign.config(folder)  # pickles are refused there
    try:
        tensors = load_file(folder / foreign.WEIGHTS)
    except (SafetensorError, OSError, ValueError) as error:
        raise foreign.broken(folder, error) from error
    wrong = next((name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())), None)
    if wrong is not None:
        raise LuthierError(
            f"its weights hold something that is no finite number (in {wrong})",
            where=str(folder / foreign.WEIGHTS),
            fix="train the adapter again",
        )
