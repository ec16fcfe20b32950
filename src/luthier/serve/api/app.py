"""The ASGI application: which path is whose, who may ask, and faults in OpenAI's shape. Nothing stands between it and
the server, so that a client that leaves is noticed at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from luthier.errors import LuthierError
from luthier.registry import suggest
from luthier.serve import faults
from luthier.serve.api import generating, names, reading
from luthier.serve.api.exchange import CROWDED, GONE, Exchange, Left, Receive, Send
from luthier.serve.api.guard import Guard
from luthier.serve.faults import ApiFault
from luthier.serve.house import House

Handler = Callable[[House, Exchange], Awaitable[None]]
OPEN = ("/", "/health")
"""Paths that need no key."""
ALWAYS = ("/health", "/metrics")
"""Paths that are answered while the server ends, too, and on connections beyond its limit."""


@dataclass(frozen=True)
class Route:
    """A path and what each method does there; `below`: everything under it, too."""

    path: str
    handlers: Mapping[str, Handler]
    admin: tuple[str, ...] = ()
    """Methods that need an admin key."""
    below: bool = False

    def matches(self, path: str) -> bool:
        """Is this path meant?"""
        return path.startswith(self.path) and path != self.path if self.below else path == self.path


ROUTES = (
    Route("/", {"GET": names.page}),
    Route("/health", {"GET": names.health}),
    Route("/metrics", {"GET": names.metrics}),
    Route("/v1/models", {"GET": names.models}),
    Route("/v1/models/", {"GET": names.model}, below=True),
    Route("/v1/chat/completions", {"POST": generating.chat}),
    Route("/v1/completions", {"POST": generating.completions}),
    Route("/v1/embeddings", {"POST": reading.embeddings}),
    Route("/v1/score", {"POST": reading.score}),
    Route("/v1/adapters", {"GET": names.adapters, "POST": names.load}, admin=("POST",)),
    Route("/v1/adapters/", {"DELETE": names.unload}, admin=("DELETE",), below=True),
)


class App:
    """Answers each HTTP request."""

    def __init__(self, house: House, guard: Guard) -> None:
        self.house, self._guard = house, guard

    async def __call__(self, scope: Mapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        house, begun = self.house, time.monotonic()
        exchange = Exchange(scope, receive, send, house.settings)
        house.active += 1
        try:
            await self._answered(exchange, bool(scope.get(CROWDED)))
        except (Left, OSError):
            exchange.status = GONE
        finally:
            house.active -= 1
            await exchange.close()
            path = next((route.path for route in ROUTES if route.matches(exchange.path)), "other")
            house.metrics.count("requests", path=path, status=str(exchange.status))
            took = f"{time.monotonic() - begun:.3f} s"
            house.log(
                " ".join([exchange.method, exchange.path[:200], str(exchange.status), took, exchange.note]).rstrip()
            )

    async def _answered(self, exchange: Exchange, crowded: bool) -> None:
        try:
            if crowded and exchange.path not in ALWAYS:
                await exchange.pass_over()
                raise self._crowded()
            await self._handler(exchange)(self.house, exchange)
        except ApiFault as fault:
            await exchange.fail(fault)
        except LuthierError as error:
            await exchange.fail(faults.of(error))
        except (Left, OSError, asyncio.CancelledError):
            raise
        except Exception as error:
            self.house.log(f"fault: {type(error).__name__}")
            await exchange.fail(faults.unexpected(error))

    def _handler(self, exchange: Exchange) -> Handler:
        """Who answers. Raises ApiFault: 404, 405, 401, 403, 503."""
        path, method = exchange.path, "GET" if exchange.method == "HEAD" else exchange.method
        route = next((route for route in ROUTES if route.matches(path)), None)
        self._check_key(exchange, path, route is not None and method in route.admin)
        if route is None:
            near = suggest(path[:200], [route.path for route in ROUTES])
            raise ApiFault(404, f"there is no {path[:200]!r} here; {near}")
        if method not in route.handlers:
            allowed = ", ".join(route.handlers)
            raise ApiFault(405, f"{path[:200]} takes {allowed}, not {exchange.method[:20]}", headers={"allow": allowed})
        if self.house.draining and path not in ALWAYS:
            raise ApiFault(503, "the server is stopping", headers={"retry-after": "10", "connection": "close"})
        return route.handlers[method]

    def _crowded(self) -> ApiFault:
        most = self.house.settings.connections
        return ApiFault(
            503,
            f"the server has {most} connections, and takes no more at a time: come back, or ask on one that is open",
            code="too_many_connections",
            headers={"retry-after": "1", "connection": "close"},
        )

    def _check_key(self, exchange: Exchange, path: str, admin: bool) -> None:
        if path not in OPEN:
            self._guard.check(exchange.headers, admin=admin)
