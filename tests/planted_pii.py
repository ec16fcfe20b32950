"""Texts with planted addresses, numbers and keys, and where each stands; between them texts with numbers of things.

The values are drawn: check digits are found by trying, with the checks that test_checksums.py holds to published
examples.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable
from typing import NamedTuple

from luthier.data.pii import checksums

PRESIDIO = {
    "EMAIL_ADDRESS": "email",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "card",
    "IBAN_CODE": "iban",
    "US_SSN": "us_ssn",
    "IP_ADDRESS": "ip",
}
"""The kinds of presidio-research's sample that are looked for, and what they are called here."""
CHECKED = ("card", "iban", "national_id")


class Planted(NamedTuple):
    """A text, and (start, end, kind, rule) of what was planted in it. `rule` is "" where any will do."""

    text: str
    spans: tuple[tuple[int, int, str, str], ...]


def rows(count: int, seed: int = 0) -> list[Planted]:
    """So many texts; the same for the same seed."""
    draw = random.Random(seed)
    return [_row(draw) for _ in range(count)]


def _row(draw: random.Random) -> Planted:
    if draw.random() < 0.35:
        return Planted(_filled(draw, draw.choice(THINGS)), ())
    kind, rule, templates, make = draw.choices(
        KINDS, [6 if one[0] in ("phone", "email") else 3 if one[0] != "national_id" else 1 for one in KINDS]
    )[0]
    value = make(draw)
    before, behind = draw.choice(templates).split("{}")
    before, behind = _filled(draw, before), _filled(draw, behind)
    around = draw.choice(AROUND)
    head = _filled(draw, around[0]) + before
    return Planted(f"{head}{value}{behind}{around[1]}", ((len(head), len(head) + len(value), kind, rule),))


def _digits(draw: random.Random, count: int) -> str:
    return "".join(draw.choice(string.digits) for _ in range(count))


def _filled(draw: random.Random, text: str) -> str:
    """`#` is a digit, `@h` forty hexadecimal ones."""
    text = text.replace("@h", "".join(draw.choice("0123456789abcdef") for _ in range(40)))
    return "".join(draw.choice("123456789") if sign == "#" else sign for sign in text)


def _tried(draw: random.Random, form: str, check: Callable[[str], bool]) -> str:
    """A value of this form that passes: 9 is a digit, A a letter, d and m a day and a month, c a sign of check."""
    while True:
        made = "".join(
            {
                "9": lambda: _digits(draw, 1),
                "A": lambda: draw.choice("ABCDEFGHJKLMNPRSTWXYZ"),
                "d": lambda: f"{draw.randint(1, 28):02}",
                "m": lambda: f"{draw.randint(1, 12):02}",
                "y": lambda: f"{draw.randint(50, 99)}",
                "c": lambda: draw.choice(string.ascii_uppercase + string.digits),
            }.get(sign, lambda sign=sign: sign)()
            for sign in form
        )
        try:
            if check(checksums.compact(made)):
                return made
        except (ValueError, IndexError, KeyError):
            continue


def _email(draw: random.Random) -> str:
    name = draw.choice(
        ["anna", "j.smith", "li.wei", "bob_77", "m-o'hara", "x", "sales+eu", "Petra.Vogel", "kontakt", "zhang1987"]
    )
    host = draw.choice(
        ["example.com", "mail.uni-bonn.de", "qq.com", "163.com", "a-b.co.uk", "gmail.com", "dayrep.com", "firma.museum"]
    )
    return f"{name}@{host}"


def _card(draw: random.Random) -> str:
    form = draw.choice(
        [
            "4999999999999999",
            "5199999999999999",
            "379999999999999",
            "6011999999999999",
            "6229999999999999",
            "3530999999999999",
        ]
    )
    value = _tried(draw, form, lambda made: checksums.luhn(made) and checksums.card(made))
    cut = draw.choice(["", " ", "-"])
    if len(value) == 15:
        return f"{value[:4]}{cut}{value[4:10]}{cut}{value[10:]}"
    return cut.join(value[at : at + 4] for at in range(0, 16, 4))


def _iban(draw: random.Random) -> str:
    country, form = draw.choice(
        [
            ("DE", "9" * 18),
            ("GB", "AAAA" + "9" * 14),
            ("FR", "9" * 23),
            ("NL", "AAAA" + "9" * 10),
            ("ES", "9" * 20),
            ("NO", "9" * 11),
        ]
    )
    body = "".join(draw.choice("ABCDEFGHKLMNRSTW") if sign == "A" else draw.choice(string.digits) for sign in form)
    number = int("".join(str(int(sign, 36)) for sign in f"{body}{country}00"))
    value = f"{country}{98 - number % 97:02}{body}"
    return " ".join(value[at : at + 4] for at in range(0, len(value), 4)) if draw.random() < 0.5 else value


def _phone_en(draw: random.Random) -> str:
    form = draw.choice(
        [
            "(2##) 5##-####",
            "4##-5##-####",
            "7##.2##.####",
            "+1 3## 5## ####",
            "1-8##-5##-####",
            "+44 20 79## ####",
            "020 79## ####",
            "07### ######",
            "+49 30 ########",
            "030/#######",
            "06 ## ## ## ##",
            "+33 6 ## ## ## ##",
            "(0#) 5### ####",
            "00# ### ####x####",
            "+91 9#### #####",
            "9######",
            "69 9## 8# ##",
        ]
    )
    return _filled(draw, form)


def _phone_zh(draw: random.Random) -> str:
    return _filled(
        draw,
        draw.choice(
            [
                "13#########",
                "159-####-####",
                "186 #### ####",
                "010-6#######",
                "021 5#######",
                "+86 138 #### ####",
                "400-###-####",
                "0755-8#######",
            ]
        ),
    )


def _ip(draw: random.Random) -> str:
    if draw.random() < 0.2:
        return f"2001:db8:{draw.randrange(4096, 65536):x}::{draw.randrange(4096, 65536):x}:{draw.randrange(1, 255):x}"
    return f"{draw.randint(11, 223)}.{draw.randint(0, 255)}.{draw.randint(0, 255)}.{draw.randint(1, 254)}".replace(
        "127.", "126.", 1
    )


def _ssn(draw: random.Random) -> str:
    return f"{draw.randint(1, 665):03}-{draw.randint(1, 99):02}-{draw.randint(1, 9999):04}"


def _mac(draw: random.Random) -> str:
    return draw.choice(":-").join([*(f"{draw.randrange(160, 256):02x}" for _ in range(5)), "4e"])


def _chinese(draw: random.Random) -> str:
    place, year = draw.choice(["110105", "440305", "310115", "510104"]), draw.randint(1950, 2010)
    start = f"{place}{year}{draw.randint(1, 12):02}{draw.randint(1, 28):02}{_digits(draw, 3)}"
    return next(start + sign for sign in "0123456789X" if checksums.chinese_id(start + sign))


def _key(draw: random.Random) -> str:
    signs = string.ascii_letters + string.digits
    prefix, size = draw.choice([("ghp_", 36), ("sk-", 40), ("hf_", 34), ("AIza", 35), ("xoxb-", 40)])
    return prefix + "".join(draw.choice(signs) for _ in range(size - 2)) + "a7"


AROUND = [
    ("", ""),
    ("", ""),
    ("Hello,\n", "\nThanks!"),
    ("您好，", "谢谢。"),
    ("Ticket of ####-0#-1#: ", "."),
    ("We met in 20## at 1#:3#. ", " See you."),
    ("他说：“", "”"),
]
_MAIL = [
    "Write to {} please",
    "email: {}",
    "在github上联系{}就行",
    "<{}>",
    "我的邮箱是{}，请查收",
    "From {} on Monday",
    'to: "{}"',
    "contact ({})",
]
_CALL = [
    "Call me at {} tomorrow",
    "Phone: {}",
    "Tel. {}",
    "My mobile number is {}.",
    "You can reach me on {}",
    "Fax: {}",
    "Please dial {} for help",
    "{} (office)",
    "text me: {}",
    "WhatsApp {}",
]
_CALL_ZH = ["我的电话是{}", "手机号：{}", "请致电{}咨询", "联系电话 {}。", "打{}找他", "传真：{}"]
_NUMBER = ["My card {} was stolen", "Charge {} please", "卡号{}", "card number: {}", "{} is my new card"]
KINDS: list[tuple[str, str, list[str], Callable[[random.Random], str]]] = [
    ("email", "", _MAIL, _email),
    ("phone", "", _CALL, _phone_en),
    ("phone", "", _CALL_ZH, _phone_zh),
    ("card", "", _NUMBER, _card),
    ("iban", "", ["Transfer it to {} today", "IBAN: {}", "账户{}", "pay {}, please"], _iban),
    ("ip", "", ["I was blocked at {}", "server {} is down", "来自{}的请求", "ping {}"], _ip),
    ("mac", "", ["device {} joined", "MAC {}"], _mac),
    ("secret", "", ["export TOKEN={}", "my key is {} so", 'api_key = "{}"'], _key),
    ("national_id", "us_ssn", ["My SSN is {}", "social security number: {}", "{} on the form"], _ssn),
    ("national_id", "chinese_id", ["身份证号{}", "他的证件是{}。", "ID {}"], _chinese),
    (
        "national_id",
        "spanish_id",
        ["DNI {}", "documento {}"],
        lambda draw: _tried(draw, "99999999A", checksums.spanish_id),
    ),
    (
        "national_id",
        "german_tax_id",
        ["Steuer-ID: {}"],
        lambda draw: _tried(draw, "99999999999", checksums.german_tax_id),
    ),
    ("national_id", "dutch_bsn", ["BSN {}"], lambda draw: _tried(draw, "999999999", checksums.dutch_bsn)),
    (
        "national_id",
        "polish_pesel",
        ["PESEL {}", "numer {}"],
        lambda draw: _tried(draw, "ymd99999", checksums.polish_pesel),
    ),
    (
        "national_id",
        "swedish_number",
        ["personnummer {}", "född {}"],
        lambda draw: _tried(draw, "ymd-9999", checksums.swedish_number),
    ),
    ("national_id", "finnish_number", ["tunnus {}"], lambda draw: _tried(draw, "dmy-999A", checksums.finnish_number)),
    (
        "national_id",
        "italian_code",
        ["codice fiscale {}", "CF {}"],
        lambda draw: _tried(draw, "AAAAAAyH15A999A", checksums.italian_code),
    ),
    ("national_id", "french_nir", ["numéro {}"], lambda draw: _nir(draw)),
    ("national_id", "brazilian_cpf", ["CPF {}"], lambda draw: _tried(draw, "999.999.999-99", checksums.brazilian_cpf)),
]


def _nir(draw: random.Random) -> str:
    body = (
        f"{draw.choice('12')}{draw.randint(10, 99)}{draw.randint(1, 12):02}{draw.randint(1, 95):02}{_digits(draw, 6)}"
    )
    return f"{body}{97 - int(body) % 97:02}"


THINGS = [
    "Version 3.1#.4 of 20##-0#-1# fixes ### faults.",
    "Order number 4####-####-###, tracking 1Z####0#########",
    "订单号：20##0#1######### 已发货",
    "commit @h",
    "pi is 3.14159265358979323846, e is 2.718281828459045",
    "ISBN 978-3-16-148410-0, pages 1#2-1#8",
    "git clone git@github.com:team/repo-#.git",
    "The population was 1,4##,###,### in 20##.",
    "x = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]",
    "At 12:30:45 the ratio was 0.###########.",
    "timestamp 17########000",
    "A4 is 210 x 297 mm, 8.27 by 11.69 inches",
    "It cost $1#,###.99 in 199#-20##",
    "Room 4##, floor #, built 19##",
    "127.0.0.1 localhost",
    "UUID 123e4567-e89b-12d3-a456-4266141740##",
    "12 + 34 = 46, 56 * 78 = 4368",
    "快递单号 SF1###########，共3件",
    "https://example.com/item/##########",
]
