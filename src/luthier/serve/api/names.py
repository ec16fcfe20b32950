"""What there is and how it is: /v1/models, /v1/adapters, /health, /metrics, and the page."""

from __future__ import annotations

import asyncio
from importlib.resources import files
from typing import Any

from luthier.errors import LuthierError
from luthier.serve import faults
from luthier.serve.adapters import Adapter, Adapters, place_in, unknown
from luthier.serve.api.exchange import Exchange
from luthier.serve.faults import ApiFault
from luthier.serve.house import House
from luthier.serve.readings import Part
from luthier.serve.words.bodies import AdapterName, parse

PAGE_RULES = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"


async def models(house: House, exchange: Exchange) -> None:
    """GET /v1/models."""
    await exchange.json({"object": "list", "data": _models(house)})


async def model(house: House, exchange: Exchange) -> None:
    """GET /v1/models/NAME."""
    found = {one["id"]: one for one in _models(house)}
    name = exchange.path.removeprefix("/v1/models/")
    if name not in found:
        raise unknown(name, list(found))
    await exchange.json(found[name])


def _models(house: House) -> list[dict[str, Any]]:
    found = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "luthier",
            "kind": "base" if adapter is None else "adapter",
            "parent": None if adapter is None else house.opened.name,
            "context": house.context,
            "default": name == house.default,
        }
        for name, created, adapter in house.names()
    ]
    reward = house.opened.reward
    if reward is not None:
        name = reward.folder.resolve().name
        found.append({"id": name, "object": "model", "created": house.started, "owned_by": "luthier", "kind": "reward"})
    return found


async def adapters(house: House, exchange: Exchange) -> None:
    """GET /v1/adapters: the adapters, and whether each is in memory."""
    data = [{"name": one.name, "loaded": one.loaded, "created": one.created} for one in _adapters(house).names()]
    await exchange.json({"object": "list", "data": data})


async def load(house: House, exchange: Exchange) -> None:
    """POST /v1/adapters {"name": NAME}: an adapter that lies in the server's folder of adapters can be asked for."""
    known, name = _adapters(house), parse(await exchange.body(), AdapterName).name
    if house.folder is None:
        raise ApiFault(403, "the server was started without --adapters FOLDER: there is nothing to load from")
    place = await asyncio.to_thread(place_in, house.folder, name)
    if known.get(name) is not None or name == house.opened.name:
        raise ApiFault(409, f"{name!r} is there already; unload it first (DELETE /v1/adapters/{name})", param="name")
    adapter = known.add(name, place)
    try:
        await asyncio.to_thread(known.template, adapter)
        await house.worker.do([Part(lambda: known.prepare(adapter.key))])
    except LuthierError as error:
        _take_back(house, adapter)
        raise faults.of(error, "name") from None
    except BaseException:
        _take_back(house, adapter)
        raise
    await exchange.json({"name": name, "loaded": True})


def _take_back(house: House, adapter: Adapter) -> None:
    _adapters(house).remove(adapter.name)
    house.worker.tidy_up()


async def unload(house: House, exchange: Exchange) -> None:
    """DELETE /v1/adapters/NAME: nobody can ask for it any more; what it has under way ends first."""
    name = exchange.path.removeprefix("/v1/adapters/")
    adapter = _adapters(house).remove(name)
    house.forget(adapter)
    house.worker.tidy_up()
    await exchange.json({"name": name, "unloaded": True})


def _adapters(house: House) -> Adapters:
    if house.adapters is None:
        raise ApiFault(404, "no model that takes adapters is served here")
    return house.adapters


async def health(house: House, exchange: Exchange) -> None:
    """GET /health."""
    status, content = house.health()
    await exchange.json(content, status)


async def metrics(house: House, exchange: Exchange) -> None:
    """GET /metrics."""
    now = house.worker.gauges() | {"adapters_loaded": 0 if house.adapters is None else house.adapters.loaded}
    await exchange.whole(house.metrics.text(now).encode(), "text/plain; version=0.0.4; charset=utf-8")


async def page(house: House, exchange: Exchange) -> None:
    """GET /: the chat page."""
    content = (files("luthier.serve") / "page.html").read_bytes()
    rules = {"content-security-policy": PAGE_RULES, "x-content-type-options": "nosniff", "cache-control": "no-cache"}
    await exchange.whole(content, "text/html; charset=utf-8", headers=rules)
