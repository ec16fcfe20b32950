"""Check digits: each function says whether a number, without blanks and in capitals, is well formed."""

from __future__ import annotations

import re
from datetime import date

from luthier.data.pii.lengths import IBAN_LENGTHS, PROVINCES


def luhn(digits: str) -> bool:
    """Cards, and many numbers of persons: every second digit doubled, from the right."""
    total = 0
    for place, sign in enumerate(reversed(digits)):
        value = int(sign) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def card(digits: str) -> bool:
    """A number that a card company gives out, of its length, with its check digit; not one digit over and over."""
    size, two, three, four = len(digits), int(digits[:2]), int(digits[:3]), int(digits[:4])
    known = (
        (digits[0] == "4" and size in (13, 16, 19))
        or ((51 <= two <= 55 or 2221 <= four <= 2720) and size == 16)
        or (two in (34, 37) and size == 15)
        or ((two in (36, 38, 39) or 300 <= three <= 305 or three == 309) and size == 14)
        or ((four == 6011 or 644 <= three <= 649 or two == 65) and size in (16, 19))
        or (3528 <= four <= 3589 and size in (16, 19))
        or (two == 62 and 16 <= size <= 19)
        or (four in (5018, 5020, 5038, 5893, 6304, 6759, 6761, 6762, 6763) and 13 <= size <= 19)
        or (2200 <= four <= 2204 and size == 16)
    )
    return known and len(set(digits)) > 1 and luhn(digits)


def iban(value: str) -> bool:
    """ISO 13616: the length of its country, and 1 modulo 97."""
    if len(value) != IBAN_LENGTHS.get(value[:2]):
        return False
    return int("".join(str(int(sign, 36)) for sign in value[4:] + value[:4])) % 97 == 1


def chinese_id(value: str) -> bool:
    """GB 11643: a province, a date, and ISO 7064 MOD 11-2."""
    if value[:2] not in PROVINCES or not _date(value[6:10], value[10:12], value[12:14]):
        return False
    weights = [pow(2, 17 - place, 11) for place in range(17)]
    rest = sum(weight * int(sign) for weight, sign in zip(weights, value, strict=False)) % 11
    return value[17].upper() == "10X98765432"[rest]


def us_ssn(digits: str) -> bool:
    """No area 000, 666 or 9xx, no group 00, no serial number 0000; not one of those known from advertisements."""
    area, group, serial = digits[:3], digits[3:5], digits[5:]
    return (
        area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000" and digits != "078051120"
    )


def german_tax_id(digits: str) -> bool:
    """Eleven digits, not beginning with 0, one of the first ten twice or thrice, ISO 7064 MOD 11,10."""
    counts = sorted(digits[:10].count(sign) for sign in set(digits[:10]))
    if digits[0] == "0" or counts[-1] not in (2, 3) or len(counts) < 8:
        return False
    product = 10
    for sign in digits[:10]:
        rest = (int(sign) + product) % 10 or 10
        product = rest * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def french_nir(value: str) -> bool:
    """Thirteen signs and 97 minus the rest of them; Corsica's departments 2A and 2B count as 19 and 18."""
    body = value[:13].replace("2A", "19").replace("2B", "18")
    months = (*range(1, 13), *range(20, 43), *range(50, 100))
    return body.isdigit() and int(value[3:5]) in months and 97 - int(body) % 97 == int(value[13:])


def spanish_id(value: str) -> bool:
    """DNI and NIE: the letter tells the rest by 23; X, Y and Z of foreigners are 0, 1 and 2."""
    number = value[:-1].translate(str.maketrans("XYZ", "012"))
    return value[-1] == "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23]


def italian_code(value: str) -> bool:
    """Codice fiscale: signs at odd places have values of their own; the sum is a letter."""
    odd = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23)
    total = 0
    for place, sign in enumerate(value[:15]):
        number = int(sign) if sign.isdigit() else ord(sign) - 65
        total += odd[number] if place % 2 == 0 else number
    return ord(value[15]) - 65 == total % 26


def dutch_bsn(digits: str) -> bool:
    """The test of eleven, with −1 for the last digit."""
    total = sum((9 - place) * int(sign) for place, sign in enumerate(digits[:8])) - int(digits[8])
    return total % 11 == 0 and len(set(digits)) > 1


def polish_pesel(digits: str) -> bool:
    """A date whose month tells the century, and weights 1 3 7 9."""
    month = int(digits[2:4])
    century = {0: "19", 1: "20", 2: "21", 3: "22", 4: "18"}[month // 20]
    total = sum(weight * int(sign) for weight, sign in zip((1, 3, 7, 9, 1, 3, 7, 9, 1, 3), digits, strict=False))
    return _date(century + digits[:2], f"{month % 20:02}", digits[4:6]) and (10 - total % 10) % 10 == int(digits[10])


def swedish_number(digits: str) -> bool:
    """Ten digits (or twelve with the century): a date, to whose day 60 may be added, and Luhn over the ten."""
    short = digits[-10:]
    day = int(short[4:6])
    return _date("2000", short[2:4], f"{day - 60 if day > 60 else day:02}") and luhn(short)


def finnish_number(value: str) -> bool:
    """A date, a sign for the century, three digits, and the rest of all nine by 31."""
    rest = int(value[:6] + value[-4:-1]) % 31
    return _date("2000", value[2:4], value[:2]) and value[-1] == "0123456789ABCDEFHJKLMNPRSTUVWXY"[rest]


def belgian_number(digits: str) -> bool:
    """97 less the rest of nine digits; with a 2 before them for those born since 2000."""
    check = int(digits[9:])
    return int(digits[2:4]) % 20 <= 12 and check in (97 - int(digits[:9]) % 97, 97 - int("2" + digits[:9]) % 97)


def portuguese_nif(digits: str) -> bool:
    """Weights from 9 down, modulo 11."""
    rest = sum((9 - place) * int(sign) for place, sign in enumerate(digits[:8])) % 11
    return digits[0] in "1235689" and int(digits[8]) == (0 if rest < 2 else 11 - rest)


def austrian_number(digits: str) -> bool:
    """Weights 3 7 9 (check) 5 8 4 2 1 6, modulo 11, and a date."""
    weights = (3, 7, 9, 0, 5, 8, 4, 2, 1, 6)
    rest = sum(weight * int(sign) for weight, sign in zip(weights, digits, strict=True)) % 11
    return digits[0] != "0" and rest == int(digits[3]) and _date("2000", digits[6:8], digits[4:6])


def irish_pps(value: str) -> bool:
    """Seven digits, weights from 8 down, modulo 23 as a letter; a ninth sign counts nine times its place."""
    total = sum((8 - place) * int(sign) for place, sign in enumerate(value[:7]))
    total += 9 * (ord(value[8]) - 64) if len(value) == 9 and value[8] != "W" else 0
    return value[7] == "WABCDEFGHIJKLMNOPQRSTUV"[total % 23]


def british_nino(value: str) -> bool:
    """Two letters that are given out, six digits, A to D. It has no check digit."""
    one, two = value[0], value[1]
    never = ("BG", "GB", "KN", "NK", "NT", "TN", "ZZ")
    return one not in "DFIQUV" and two not in "DFIOQUV" and value[:2] not in never and value[8] in "ABCD"


def british_nhs(digits: str) -> bool:
    """Weights from 10 down, modulo 11."""
    rest = 11 - sum((10 - place) * int(sign) for place, sign in enumerate(digits[:9])) % 11
    return rest != 10 and rest % 11 == int(digits[9])


def brazilian_cpf(digits: str) -> bool:
    """Two digits of check, modulo 11."""
    for size in (9, 10):
        rest = sum((size + 1 - place) * int(sign) for place, sign in enumerate(digits[:size])) * 10 % 11 % 10
        if rest != int(digits[size]):
            return False
    return len(set(digits)) > 1


def aadhaar(digits: str) -> bool:
    """Verhoeff's check over the dihedral group of ten; it begins with 2 to 9."""
    check = 0
    for place, sign in enumerate(reversed(digits)):
        value = int(sign)
        for _ in range(place % 8):
            value = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)[value]
        check = _dihedral(check, value)
    return check == 0 and digits[0] not in "01"


def _dihedral(one: int, other: int) -> int:
    if one < 5:
        return (one + other) % 5 if other < 5 else 5 + (one + other) % 5
    return 5 + (one - other) % 5 if other < 5 else (one - other) % 5


def _date(year: str, month: str, day: str) -> bool:
    try:
        date(int(year), int(month), int(day))
    except ValueError:
        return False
    return 1800 <= int(year) <= 2199


def compact(value: str) -> str:
    """A number without the signs that part its groups, in capitals."""
    return re.sub(r"[ \-./·\u00a0]", "", value).upper()
