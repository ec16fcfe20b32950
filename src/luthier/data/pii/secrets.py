"""Keys and tokens: what begins as those who give them out begin them, and what is given to a name for a secret."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from luthier.data.pii.found import Found

_LONG = re.compile(r"[A-Za-z0-9_\-./+=]{16}")
_PREFIXED = re.compile(
    r"(?<![A-Za-z0-9_])(?:(?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}|gh[pousr]_[0-9A-Za-z]{30,251}|github_pat_[0-9A-Za-z_]{50,120}"
    r"|glpat-[0-9A-Za-z_-]{20,60}|xox[abeoprs]-[0-9A-Za-z-]{10,200}|xapp-[0-9]-[0-9A-Za-z-]{20,200}|sk-ant-[0-9A-Za-z_-]{20,200}"
    r"|sk-(?:proj-|svcacct-|or-v1-)?[0-9A-Za-z_-]{20,200}|[sr]k_(?:live|test)_[0-9A-Za-z]{16,120}|whsec_[0-9A-Za-z]{20,80}|AIza[0-9A-Za-z_-]{35}"
    r"|ya29\.[0-9A-Za-z_-]{20,400}|npm_[0-9A-Za-z]{36}|hf_[0-9A-Za-z]{30,60}|SG\.[0-9A-Za-z_-]{16,32}\.[0-9A-Za-z_-]{30,60}|pypi-[0-9A-Za-z_-]{50,300}"
    r"|dop_v1_[0-9a-f]{64}|shpat_[0-9a-fA-F]{32}|LTAI[0-9A-Za-z]{16,24}|AKID[0-9A-Za-z]{32}|gsk_[0-9A-Za-z]{40,60}|r8_[0-9A-Za-z]{37}"
    r"|eyJ[0-9A-Za-z_-]{10,2000}\.eyJ[0-9A-Za-z_-]{10,4000}\.[0-9A-Za-z_-]{10,1000})(?![0-9A-Za-z_])"
)
_HOOK = re.compile(r"https://hooks\.slack\.com/services/([0-9A-Z]{6,14}/[0-9A-Z]{6,14}/[0-9A-Za-z]{16,40})")
_NAMED = re.compile(
    r"(?i)(?:pass(?:word|wd|phrase)?|pwd|secret(?:[_-]?(?:access)?[_-]?key)?|token|api[_-]?key|access[_-]?key|auth(?:orization)?|private[_-]?key|client[_-]?secret"
    r"|密码|口令|密钥|令牌)[\"'”]?[ \t]{0,3}(?:is[ \t]|是|为|=>|:=|[:=：])[ \t]{0,3}(?:bearer[ \t]+"
    r"|basic[ \t]+)?[\"'“]?"
    r"([^\s\"'“”<>,;(){}\[\]，。；]{8,200})"
)
_QUERY = re.compile(
    r"(?i)[?&](?:access_token|api_?key|token|sig(?:nature)?|secret|password|key)=([0-9A-Za-z_\-.~%+/=]{12,400})"
)
_PLACEHOLDER = re.compile(
    r"(?i)your|example|xxx|\*\*\*|\.\.\.|placeholder|changeme|my[_-]|insert|dummy|sample|redacted|process\.env|os\.|config\.|self\.|\$"
)
BEGIN, _END = "-----BEGIN ", "-----END "
_NAMES = (
    "pass",
    "pwd",
    "secret",
    "oken",
    "key",
    "auth",
    "密码",
    "口令",
    "密钥",
    "令牌",
    "Pass",
    "PASS",
    "Secret",
    "SECRET",
    "OKEN",
    "Key",
    "KEY",
    "Auth",
    "AUTH",
    "PWD",
)


def secrets(text: str) -> Iterator[Found]:
    """Private keys, tokens by their prefixes, and values of names such as `password` that look drawn by chance."""
    if BEGIN in text:
        yield from _private_keys(text)
    if _LONG.search(text):
        for found in _PREFIXED.finditer(text):
            if _has_digit(found[0]) and len(set(found[0])) > 8 and not _PLACEHOLDER.search(found[0]):
                yield Found(found.start(), found.end(), "secret", "token")
        for pattern in (_HOOK, _QUERY) if "://" in text else ():
            for found in pattern.finditer(text):
                if _has_digit(found[1]) and _random(found[1], 3.0):
                    yield Found(*found.span(1), "secret", "token")
    if any(name in text for name in _NAMES):
        for found in _NAMED.finditer(text):
            value = found[1].rstrip(".:!?")
            if _mixed(value) and _random(value, 2.7) and not _PLACEHOLDER.search(value):
                yield Found(found.start(1), found.start(1) + len(value), "secret", "named")


def _private_keys(text: str) -> Iterator[Found]:
    """From the line that begins a key to the one that ends it; linear, however many are never ended."""
    at = text.find(BEGIN)
    while at >= 0:
        end = text.find(_END, at)
        if end < 0:
            return
        line = text.find("-----", end + len(_END), end + 80)
        begin = text.rfind(BEGIN, at, end)  # the last that is begun before this end
        if line >= 0 and "PRIVATE KEY" in text[begin : begin + 48]:
            yield Found(begin, line + 5, "secret", "private_key")
        at = text.find(BEGIN, end + len(_END))


def entropy(value: str) -> float:
    """Bits for each character, by how often each comes."""
    return -sum(count / len(value) * math.log2(count / len(value)) for count in Counter(value).values())


def _has_digit(value: str) -> bool:
    return any(sign.isdigit() for sign in value)


def _random(value: str, bits: float) -> bool:
    return entropy(value) >= bits


def _mixed(value: str) -> bool:
    """A value, not a word: letters and digits in it, or a sign of another kind; or long and of both cases."""
    if not value.isascii() or "/" in value[:1] or "://" in value or "@" in value:
        return False
    kinds = [any(test(sign) for sign in value) for test in (str.islower, str.isupper, str.isdigit)]
    special = any(not sign.isalnum() and sign not in "_-." for sign in value)
    return kinds[2] and (kinds[0] or kinds[1]) and (len(value) >= 12 or special or sum(kinds) == 3)
