"""E-mail addresses, logins within addresses of the web, IP and MAC addresses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from luthier.data.pii.found import Found

_LOCAL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_+-])?\Z")
_DOMAIN = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}(?:[A-Za-z]{2,24}|xn--[A-Za-z0-9-]{2,50})(?![A-Za-z0-9_-])"
)
_AT = re.compile(
    r"(?<![A-Za-z0-9._%+-])([A-Za-z0-9][A-Za-z0-9._%+-]{0,62}) ?(?:\[at\]|\(at\)|\{at\}|＠) ?"
    r"((?:[A-Za-z0-9-]{1,40} ?(?:\[dot\]|\(dot\)|\{dot\}|\.) ?){1,4}[A-Za-z]{2,12})\b",
    re.I,
)
_PATH = re.compile(r":(?:[A-Za-z0-9~_./-]*/|[A-Za-z0-9~_.-]+\.git\b)")
_LOGIN = re.compile(r"\b[a-zA-Z][a-zA-Z0-9+.-]{1,15}://([^\s/@:\"'<>]{1,100}:[^\s/@\"'<>]{1,200})@")
_V4 = re.compile(r"(?<![A-Za-z0-9_.])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z0-9_]|\.\d|/\d\d?\b)")
_V4_HOST = re.compile(r"(?<![A-Za-z0-9_.])((?:\d{1,3}\.){3}\d{1,3})/(?:[12]?\d|3[0-2])\b")
_VERSION = re.compile(
    r"(?:\bv(?:er(?:sion)?)?\.?|\brelease|\bsections?|\bchapter|\bclause|\bfirmware|\bbuild|§|版本|固件|第|章节"
    r"|[A-Za-z]/)[ :：=]{0,2}$",
    re.I,
)
_V6 = re.compile(
    r"(?<![A-Za-z0-9_:.])[0-9A-Fa-f]{1,4}:(?:[0-9A-Fa-f]{0,4}:){1,7}(?:[0-9A-Fa-f]{1,4}|(?:\d{1,3}\.){3}\d{1,3})?(?![A-Za-z0-9_:])"
)
_MAC = re.compile(
    r"(?<![0-9A-Za-z:-])[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z]|[:-][0-9A-Fa-f])"
)
_MAC_DOTS = re.compile(r"(?<![0-9A-Za-z.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![0-9A-Za-z]|\.[0-9A-Fa-f])")


def emails(text: str) -> Iterator[Found]:
    """Letters of an address are ASCII: a Chinese word before it is none of it. `git@host:path` is no e-mail."""
    at = text.find("@")
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1, at + 260)
        local = _LOCAL.search(_ascii_tail(text[max(0, at - 64) : at])) if domain is not None else None
        if local is not None and domain is not None and not _is_path(text, local[0], domain.end()):
            yield Found(at - len(local[0]), domain.end(), "email", "email")
        at = text.find("@", at + 1)
    for found in _AT.finditer(text) if "at]" in text or "at)" in text or "at}" in text or "＠" in text else ():
        yield Found(found.start(), found.end(), "email", "email")


_TAIL = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._%+'-")


def _ascii_tail(text: str) -> str:
    """The end of a text, as far as an address may reach back, without the signs with which none begins."""
    start = len(text)
    while start and text[start - 1] in _TAIL:
        start -= 1
    return text[start:].lstrip("._%+'-")


def _is_path(text: str, local: str, end: int) -> bool:
    return local.lower() == "git" or (text[end : end + 1] == ":" and _PATH.match(text, end, end + 200) is not None)


def logins(text: str) -> Iterator[Found]:
    """A name and a password before the host of an address."""
    for found in _LOGIN.finditer(text) if "://" in text and "@" in text else ():
        if not re.search(r"[{}$\[]|^user(?:name)?:pass(?:word)?$", found[1], re.I):
            yield Found(*found.span(1), "login", "login")


def addresses(text: str) -> Iterator[Found]:
    """IP addresses of version 4 and 6. Not the machine itself, masks, whole networks, and numbers of versions."""
    for found in _V4.finditer(text):
        if _is_machine(found[0]) and not _VERSION.search(text, max(0, found.start() - 16), found.start()):
            yield Found(found.start(), found.end(), "ip", "ip_v4")
    for found in _V4_HOST.finditer(text) if "/" in text else ():
        if _is_machine(found[1]) and not found[1].endswith(".0"):
            yield Found(*found.span(1), "ip", "ip_v4")
    for found in _V6.finditer(text) if text.count(":") > 1 else ():
        if _is_machine_v6(found[0]):
            yield Found(found.start(), found.end(), "ip", "ip_v6")


def _is_machine(written: str) -> bool:
    try:
        address = IPv4Address(written)
    except AddressValueError:
        return False
    return not (
        address.is_loopback or address.is_unspecified or address.is_multicast or written.startswith(("255.", "0."))
    )


def _is_machine_v6(written: str) -> bool:
    groups = [group for group in written.split(":") if group]
    if len(groups) < 3 or not any(sign.isdigit() for sign in written) or (len(groups) < 6 and len(groups[0]) < 3):
        return False
    try:
        return not IPv6Address(written).is_loopback
    except AddressValueError:
        return False


def macs(text: str) -> Iterator[Found]:
    """Hardware addresses, but for those of all machines and of none."""
    for pattern in (_MAC, _MAC_DOTS):
        for found in pattern.finditer(text):
            signs = set(found[0].lower()) - set(":-.")
            if len(signs) > 1 and re.search("[0-9]", found[0]) and (":" in found[0] or re.search("[A-Fa-f]", found[0])):
                yield Found(found.start(), found.end(), "mac", "mac")
