"""Units that answers are given in, and numbers that are words."""

from __future__ import annotations

from fractions import Fraction

_SIZES = {
    "length": {"mm": ".001", "cm": ".01", "dm": ".1", "m": "1", "km": "1000", "in": ".0254", "ft": ".3048",
               "yd": ".9144", "mi": "1609.344"},
    "mass": {"mg": ".001", "g": "1", "kg": "1000", "oz": "28.349523125", "lb": "453.59237"},
    "time": {"s": "1", "min": "60", "h": "3600", "day": "86400", "week": "604800"},
    "volume": {"mL": ".001", "L": "1"},
    "money": {"$": "1", "cent": ".01"},
}  # fmt: skip
_NAMES = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "dm": "decimeter decimetre", "m": "meter metre",
    "km": "kilometer kilometre", "in": "inch", "ft": "foot", "yd": "yard", "mi": "mile", "mg": "milligram", "g": "gram",
    "kg": "kilogram", "oz": "ounce", "lb": "lb pound", "s": "sec second", "min": "min minute", "h": "hr hour",
    "day": "day", "week": "week", "mL": "ml milliliter millilitre", "L": "l liter litre", "$": "USD dollar buck",
    "cent": "cent",
}  # fmt: skip
_PLURALS = {"inch": "inches", "foot": "feet", "USD": "USD"}


def _every() -> dict[str, tuple[str, Fraction]]:
    found = {sign: (kind, Fraction(size)) for kind, sizes in _SIZES.items() for sign, size in sizes.items()}
    for sign, names in _NAMES.items():
        for name in names.split():
            found |= dict.fromkeys((name, _PLURALS.get(name, f"{name}s")), found[sign])
    for name, (_, size) in [(name, of) for name, of in found.items() if of[0] == "length"]:
        for power, word in ((2, "square"), (3, "cubic")):
            spelt = (f"{word} {name}", f"{name}^{power}", f"{name}^{{{power}}}")
            found |= dict.fromkeys(spelt, (f"length^{power}", size**power))
    return found


UNITS = _every()
"""What a unit measures, and its size: two of one kind compare, so that 90 minutes are 1.5 hours."""

SCALES = {"hundred": 100, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

_COUNTED = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
WORDS = {word: value for value, word in enumerate(_COUNTED)}
