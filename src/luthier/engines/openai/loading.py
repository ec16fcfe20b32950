"""Adapters loaded into a server while it runs, by its own words for it: those of `luthier serve`, or vLLM's."""

from __future__ import annotations

from typing import Literal
from urllib.parse import quote

from luthier.engines.openai.wire import Refused, Wire
from luthier.errors import LuthierError

By = Literal["luthier", "vllm"]
THERE = (400, 409)
"""What a server says of a name that it has."""
NOT_THERE = (400, 404)
FIXES = {
    "luthier": "start it with `--adapters FOLDER` and an admin key (`--api-keys FILE`, a line `admin KEY`), name that "
    "FOLDER as rollout.follow.folder, and the variable that holds the key as `key_env`",
    "vllm": "start it with --enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, a --max-lora-rank that suffices, "
    "and a rollout.follow.folder that it sees under the same path",
}


class Loading:
    """The adapters of one server."""

    def __init__(self, wire: Wire, by: By) -> None:
        self._wire, self._by = wire, by

    def load(self, name: str, folder: str) -> None:
        """Have it answer by the adapter in the folder where this name is asked for, whatever had the name before.
        Raises LuthierError where it does not, with what has to be so that it does."""
        try:
            try:
                self._load(name, folder)
            except Refused as error:
                if error.status not in THERE:
                    raise
                self.drop(name)
                self._load(name, folder)
        except Refused as error:
            raise LuthierError(
                f"the adapter {name!r} was not loaded: {error.what}", where=error.where, fix=FIXES[self._by]
            ) from error

    def drop(self, name: str) -> None:
        """Have it forget an adapter. One that it does not know is forgotten already."""
        try:
            if self._by == "luthier":
                self._wire.tell("DELETE", f"/adapters/{quote(name, safe='')}", {})
            else:
                self._wire.tell("POST", "/unload_lora_adapter", {"lora_name": name})
        except Refused as error:
            if error.status not in NOT_THERE:
                raise

    def _load(self, name: str, folder: str) -> None:
        if self._by == "luthier":
            self._wire.tell("POST", "/adapters", {"name": name})
        else:
            self._wire.tell("POST", "/load_lora_adapter", {"lora_name": name, "lora_path": folder})
