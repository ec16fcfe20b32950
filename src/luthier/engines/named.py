"""Adapters of PEFT's that answer the requests which name them, beside one model in memory.

For all others the model stays what it was: what is loaded is off (or another adapter on) but for the while it is asked.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.errors import LuthierError


class Named:
    """A model and the adapters that were loaded beside its own."""

    def __init__(self, module: Any) -> None:
        from peft import PeftModel

        self._own = module
        """What is asked where no adapter is named."""
        self._peft: Any = module if isinstance(module, PeftModel) else None
        self._loaded: list[str] = []

    @property
    def names(self) -> list[str]:
        """The adapters that may be named."""
        return [] if self._peft is None else list(self._peft.peft_config)

    def check(self, name: str | None) -> None:
        """Raise LuthierError where there is no such adapter."""
        if name is not None and name not in self.names:
            known = ", ".join(self.names) or "none"
            raise LuthierError(
                f"no adapter {name!r} is loaded (loaded: {known})",
                where="adapter",
                fix="load it first, or name another",
            )

    def load(self, name: str, folder: str) -> None:
        """Load an adapter from its folder. Raises LuthierError for a name that is taken, a folder that does not fit."""
        from peft import PeftConfig, get_peft_model
        from safetensors import SafetensorError

        if name in self.names:
            raise LuthierError(
                f"an adapter {name!r} is loaded already", where=folder, fix="drop it first, or give another name"
            )
        if not (Path(folder) / "adapter_config.json").is_file():
            raise LuthierError(
                "there is no adapter in PEFT's format here (no adapter_config.json)",
                where=folder,
                fix="give the `adapter` folder of a run whose adapter is one of PEFT's (lora, dora, oft, …)",
            )
        first = self._peft is None
        with _kept(self._own):
            try:
                config = PeftConfig.from_pretrained(folder)
                config.inference_mode = True
                if first:
                    self._peft = get_peft_model(self._own, config, adapter_name=name)
                self._peft.load_adapter(folder, name, is_trainable=False)
            except (OSError, ValueError, TypeError, KeyError, RuntimeError, SafetensorError) as error:
                self._forget(name)
                raise LuthierError(
                    f"this adapter does not go on the model: {str(error).strip().splitlines()[0]}",
                    where=folder,
                    fix="take one that was trained on this base, of a kind that goes beside those loaded",
                ) from error
            self._loaded.append(name)
            if self._peft is not self._own:
                _switch(self._peft, on=False)

    def drop(self, name: str) -> None:
        """Forget an adapter. Raises LuthierError where none was loaded under this name."""
        if name not in self._loaded:
            known = ", ".join(self._loaded) or "none"
            raise LuthierError(
                f"no adapter {name!r} was loaded (loaded: {known})", where="adapter", fix="name one of these"
            )
        with _kept(self._own):
            self._forget(name)
        self._loaded.remove(name)

    @contextmanager
    def on(self, name: str | None) -> Iterator[Any]:
        """Gives the model that answers: inside the block the adapter is on, alone."""
        self.check(name)
        if name is None:
            yield self._own
            return
        peft = self._peft
        with _kept(self._own):
            before, was_on, was_disabled = peft.active_adapter, _is_on(peft), peft._adapters_disabled
            _switch(peft, on=True)
            # PEFT has no public way to say that prompts are on again inside a block in which they are off
            peft._adapters_disabled = False
            peft.set_adapter(name, inference_mode=True)
            try:
                yield peft
            finally:
                peft.set_adapter(before, inference_mode=True)
                _switch(peft, on=was_on)
                peft._adapters_disabled = was_disabled

    def _forget(self, name: str) -> None:
        """Take an adapter out of the model, as far as it is there; after the last the model is a plain one again."""
        peft = self._peft
        if peft is None or name not in peft.peft_config:
            return
        if peft is self._own or len(peft.peft_config) > 1:
            before = peft.active_adapter
            peft.delete_adapter(name)
            peft.set_adapter(before if before in peft.peft_config else self.names[0], inference_mode=True)
            return
        if _tuned(peft):
            peft.unload()
        self._peft = None


def _tuned(peft: Any) -> bool:
    """Are layers of the model wrapped? (Virtual tokens leave it as it is.)"""
    from peft.tuners.tuners_utils import BaseTuner

    return isinstance(peft.base_model, BaseTuner)


def _is_on(peft: Any) -> bool:
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = (part for part in peft.modules() if isinstance(part, BaseTunerLayer))
    return not any(layer.disable_adapters for layer in layers)


def _switch(peft: Any, *, on: bool) -> None:
    if _tuned(peft):
        peft.base_model.enable_adapter_layers() if on else peft.base_model.disable_adapter_layers()


@contextmanager
def _kept(module: Any) -> Iterator[None]:
    """PEFT marks weights as trained and puts models into evaluation: afterwards what was there is as it was."""
    trains = {id(weight) for weight in module.parameters() if weight.requires_grad}
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for weight in module.parameters():
            weight.requires_grad_(id(weight) in trains)
        for part, training in modes:
            part.training = training
