"""Dates and times as phones write them in many countries, read by the evidence of the whole file.

Whether 03/04 is in March or in April no single date says. A day above 12 does; else the order in which the messages run
on, and in which they lie closer together; else the habit that goes with the separator.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Literal

Order = Literal["dmy", "mdy", "ymd"]
Parts = tuple[str, str, str]
BEFORE_NOON = r"[Aa]\.?\s?[Mm]\b\.?|上午|凌晨|清晨|早上|早晨|午前|오전|ص|vorm\.|π\.?\s?μ\.?"
AFTER_NOON = r"[Pp]\.?\s?[Mm]\b\.?|下午|晚上|傍晚|午後|오후|م|nachm\.|μ\.?\s?μ\.?"
NOON = "中午"
HALF = f"(?:{BEFORE_NOON}|{AFTER_NOON}|{NOON})"
"""Which half of the day a time is in."""


def hour(given: int, half: str | None) -> int:
    """The hour of 24."""
    if not half or given > 12:
        return given
    if half == NOON:
        return given if given >= 10 else given + 12
    return given % 12 + (12 if re.fullmatch(AFTER_NOON, half) else 0)


@lru_cache(4096)
def day(parts: Parts, order: Order) -> tuple[int, int, int] | None:
    """Year, month and day, None where there is no such day."""
    found = dict(zip(order, map(int, parts), strict=True))
    year_text = parts[order.index("y")]
    year = found["y"] + 2000 if len(year_text) <= 2 else found["y"]
    try:
        datetime(year, found["m"], found["d"])
    except ValueError:
        return None
    return (year, found["m"], found["d"]) if len(year_text) in (2, 4) else None


@lru_cache(4096)
def possible(parts: Parts) -> tuple[Order, ...]:
    """The orders in which this is a day."""
    orders: tuple[Order, ...] = ("ymd",) if len(parts[0]) == 4 else ("dmy", "mdy", "ymd")
    return tuple(order for order in orders if day(parts, order))


def order_of(dates: Sequence[Parts], separator: str, halves: bool) -> Order | None:
    """In which order these dates are written; None where no order makes days of all of them."""
    unique = [one for one, after in pairwise([*dates, ("", "", "")]) if one != after]
    left = [order for order in ("dmy", "mdy", "ymd") if all(order in possible(one) for one in set(unique))]
    if not left:
        return None
    habit = {".": "dmy", "-": "dmy"}.get(separator, "mdy" if halves else "dmy")

    def unlikely(order: Order) -> tuple[bool, int, float, bool]:
        stamps = [datetime(*found, tzinfo=UTC).timestamp() for one in unique if (found := day(one, order))]
        back = sum(after < before for before, after in pairwise(stamps))
        short_year = order == "ymd" and len(unique[0][0]) <= 2  # hardly anybody writes 23/12/31
        return short_year, back, max(stamps) - min(stamps), order != habit

    return min(left, key=unlikely)  # type: ignore[arg-type]


def instant(date: tuple[int, int, int], clock: tuple[int, int, int]) -> float | None:
    """Seconds since 1970 of a clock without a zone; None where there is no such time."""
    try:
        return datetime(*date, *clock, tzinfo=UTC).timestamp()
    except ValueError:
        return None


__all__ = ["HALF", "Order", "Parts", "day", "hour", "instant", "order_of", "possible"]
