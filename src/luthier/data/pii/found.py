"""What was found in a text, and where."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Kind = Literal[
    "secret",
    "login",
    "email",
    "iban",
    "card",
    "national_id",
    "ip",
    "mac",
    "phone",
    "passport",
    "driving_licence",
    "plate",
]
KINDS: tuple[str, ...] = get_args(Kind)
"""All kinds, in the order in which they claim a place that two of them want."""

NAMED = ("person", "address", "organisation")
"""What only a recogniser of names finds."""


class Found(NamedTuple):
    """From `start` to `end` stands something of this kind. `rule` says which: us_ssn, private_key, …"""

    start: int
    end: int
    kind: str
    rule: str
