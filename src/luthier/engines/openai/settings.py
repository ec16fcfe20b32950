"""What a recipe says of an endpoint."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from luthier.engines.opening import Opening
from luthier.errors import LuthierError
from luthier.recipe.schema import Why
from luthier.types import Engine

if TYPE_CHECKING:
    from luthier.engines.openai.loading import By
    from luthier.models import OnDisk

LOCAL = ("localhost", "127.0.0.1", "::1")
OFFICIAL = "api.openai.com"
"""The one host that gets $OPENAI_API_KEY without being told so."""


@dataclass(frozen=True)
class OpenAI(Opening):
    """An endpoint that speaks OpenAI's protocol: `luthier serve`, vLLM, llama.cpp, Ollama, a provider. The key for it
    is read from the environment and written nowhere."""

    elsewhere: ClassVar[bool] = True
    scores: ClassVar[bool] = False

    url: str
    """Its base address, for instance http://localhost:8000/v1."""
    model: str
    """What it calls the model that answers."""
    base: str | None = None
    """What it calls the model before training, for tasks that score it too."""
    ask: Annotated[Literal["auto", "chat", "text", "tokens"], Why("messages are what nearly every endpoint takes")] = (
        "auto"
    )
    """chat: messages, and it renders them; text: the prompt as our template renders it; tokens: the same as token ids,
    answered by ids and log-probabilities (vLLM's return_token_ids). auto: chat for a conversation, else text."""
    key_env: str | None = None
    """The environment variable that holds its key. Default: OPENAI_API_KEY, for api.openai.com alone."""
    concurrency: Annotated[int, Field(gt=0)] = 16
    """The most calls under way at a time."""
    timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a byte after which a call has failed."""
    retries: Annotated[int, Field(ge=0)] = 6
    """How often a call that failed for the moment (429, 5xx, no answer) is made again, after longer waits."""
    requests_per_minute: Annotated[int, Field(gt=0)] | None = None
    """The most calls in any minute."""
    tokens_per_minute: Annotated[int, Field(gt=0)] | None = None
    """The most tokens, read and written, in any minute."""
    price_in: Annotated[float, Field(ge=0)] | None = None
    """What a million tokens of prompts cost."""
    price_out: Annotated[float, Field(ge=0)] | None = None
    """What a million tokens of answers cost."""
    max_cost: Annotated[float, Field(gt=0)] | None = None
    """Stop before more than this would be spent, in the currency of the prices."""
    max_total_tokens: Annotated[int, Field(gt=0)] | None = None
    """Stop before more tokens than this would be read and written, in all."""
    limit_key: Annotated[
        Literal["max_tokens", "max_completion_tokens"], Why("the older name, which nearly every endpoint takes")
    ] = "max_tokens"
    """What the endpoint calls the longest answer."""
    cache: Annotated[
        bool | Literal["auto"], Why("a model on this machine may be another tomorrow under the same name")
    ] = "auto"
    """Keep answers on disk and ask no question twice. auto: not for an endpoint on this machine."""
    context: Annotated[int, Field(gt=0)] | None = None
    """The longest sequence its model reads, in tokens, to be told early of prompts that are too long."""

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{self.url!r} is no address: write it as in http://localhost:8000/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError(
                "`url` holds more than the base address; a key belongs into an environment variable (`key_env`)"
            )
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ValueError("`max_cost` needs the prices: set price_in and price_out, per million tokens")

    @property
    def host(self) -> str:
        """The host alone."""
        return urlsplit(self.url).hostname or ""

    @property
    def key_from(self) -> str | None:
        """The environment variable to look into; None: no key is sent."""
        return self.key_env or ("OPENAI_API_KEY" if self.host == OFFICIAL else None)

    @property
    def keeps(self) -> bool:
        """Are answers kept on disk?"""
        return self.host not in LOCAL if self.cache == "auto" else self.cache

    def identity(self) -> dict[str, Any]:
        """Who is asked, and how."""
        return {"url": self.url, "model": self.model, "ask": self.ask}

    def ready(self, *, base: bool) -> None:
        """Raises LuthierError where the key, or the name of the base, is wanting."""
        from luthier.engines.openai.wire import key_of

        key_of(self.key_from, self.url)
        if base and self.base is None:
            raise LuthierError(
                "the model before training is to answer too, and nothing says what the endpoint calls it",
                where=self.url,
                fix="set `engine.openai.base`, or `base: false` on the task",
            )

    def open(self, model: OnDisk, stop_ids: Collection[int]) -> Engine:
        """An engine that asks the endpoint. Raises LuthierError as `ready` does."""
        return self._opened(model, stop_ids)

    def following(self, model: OnDisk, stop_ids: Collection[int], by: By | None) -> Engine:
        """As `Opening.following`."""
        return self._opened(model, stop_ids, by)

    def _opened(self, model: OnDisk, stop_ids: Collection[int], by: By | None = None) -> Engine:
        from luthier.engines.openai.engine import RemoteEngine

        self.ready(base=model.is_base)
        name = self.base if model.is_base and self.base is not None else self.model
        return RemoteEngine(self, name, model.tokenizer, stop_ids, by)
