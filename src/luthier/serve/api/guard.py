"""Who may ask: keys, and whence. Keys are kept as hashes and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from luthier.errors import LuthierError
from luthier.serve.faults import ApiFault

ADMIN = "admin "
"""Begins the line of a key that may load and unload adapters."""


class Guard:
    """The keys of a server."""

    def __init__(self, lines: Sequence[str] = (), *, local: bool = True) -> None:
        """`lines`: one key each, `admin KEY` for one that may do more. `local`: the server is to be reached from this
        machine alone, and then without keys a page from elsewhere is not served through a visitor's browser."""
        self._keys = [(_hash(line.removeprefix(ADMIN).strip()), line.startswith(ADMIN)) for line in lines]
        self._local = local

    def check(self, headers: Mapping[str, str], *, admin: bool = False) -> None:
        """Raises ApiFault: 401 for a key that is missing or wrong, 403 for one that may not do this."""
        if not self._keys:
            self._check_host(headers.get("host", ""))
            if admin:
                raise ApiFault(403, "this needs an admin key, and the server was started without: give it --api-keys "
                                    "FILE with a line `admin KEY`")  # fmt: skip
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        hashed = _hash(given.strip() if scheme.lower() == "bearer" else "")
        may = [kind for key, kind in self._keys if hmac.compare_digest(key, hashed)]
        if not given or not may:
            what = (
                "the API key is not one of this server's"
                if given
                else "an API key is needed: Authorization: Bearer KEY"
            )
            raise ApiFault(401, what, code="invalid_api_key", headers={"www-authenticate": "Bearer"})
        if admin and not any(may):
            raise ApiFault(403, "this needs an admin key", code="insufficient_permissions")

    def _check_host(self, host: str) -> None:
        """A name that somebody has pointed at this machine is not this machine's."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self._local and host and not is_local(name.strip("[]")):
            raise ApiFault(403, f"this server is there for its own machine, and was asked as {host[:100]!r}")


def is_local(host: str) -> bool:
    """Does this address mean the machine itself?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def must_be_guarded(host: str, keys: Sequence[str]) -> None:
    """Raises LuthierError where others could reach a server that has no keys, or a key is too short to be one."""
    if not keys and not is_local(host):
        raise LuthierError(
            f"at {host} other machines could reach the server, and it has no keys",
            where="--host",
            fix="give it keys (--api-keys FILE), or leave --host out",
        )
    for key in keys:
        bare = key.removeprefix(ADMIN).strip()
        if len(bare) < 8 or any(letter.isspace() for letter in bare):
            raise LuthierError(
                "a key must have 8 characters or more, and no white space",
                where="--api-keys",
                fix="make one: python -c 'import secrets; print(secrets.token_urlsafe(24))'",
            )


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
