"""Words near a number that say what it is. All are looked for in the text in small letters (`lowered`)."""

from __future__ import annotations

import re

PHONE = re.compile(
    r"(?<![a-z\[])(?:(?:tele|cell)?phone\b|tel\b|mobile?\b|cell\b|fax\b|call(?:ed|ing)?\b|text (?:me|us|him|her"
    r"|them)\b|dial(?:ed|ling|ing)?\b"
    r"|whats ?app\b|hotline\b|helpline\b|contact\b|reach(?:ed)? (?:me|us|him|her|them|out)\b|desk\b|office\b"
    r"|ring\b|sms\b|landline\b"
    r"|home ?:|work ?:|ph\b|direct line\b|telefon\w*|handy\b|téléphone\b|portable\b|tel[ée]fono\b|m[óo]vil\b"
    r"|celular\b|cellulare\b"
    r"|telefoon\b|appel\w*|llam\w+)|电话|手机|联系方式|热线|传真|致电|拨打|座机|来电|联系人|联系我|打给"
)
_BEHIND_PHONE = re.compile(r"[ \t]*[(,-]?[ \t]*(?:(?:mobile|cell|office|fax|home|work|phone|tel|desk)\b|手机|电话)")
_STEMS = (
    "phone",
    "tel",
    "mobil",
    "cell",
    "fax",
    "call",
    "text ",
    "dial",
    "whats",
    "hotline",
    "helpline",
    "contact",
    "reach",
    "desk",
    "office",
    "ring",
    "sms",
    "landline",
    "home",
    "work",
    "ph",
    "direct",
    "handy",
    "portable",
    "vil",
    "appel",
    "llam",
    "电话",
    "手机",
    "联系",
    "热线",
    "传真",
    "致电",
    "拨打",
    "座机",
    "来电",
    "打给",
)
_THING = re.compile(
    r"(?<![a-z])(?:order|invoice|tracking|shipment|parcel|isbn|issn|imei|sku\b|part n|serial|version|doi\b"
    r"|arxiv|rfc\b|ticket|model\b|batch|commit"
    r"|build\b|pmid|cas\b|ean\b|upc\b|asin|timestamp|epoch|patent|product (?:id|code|number)|transaction"
    r"|reference|case (?:no|number)|docket|barcode"
    r"|lot (?:no|number)|policy|confirmation)|订单|单号|快递|运单|编号|流水|型号|版本|序列号|批号|条码|专利"
    r"|档案|书号|时间戳"
)
_APART = re.compile(r"[\n\d;。；!?，,]")
WORDS = {
    "card": r"card|visa|mastercard|amex|卡",
    "us_ssn": r"\bssn\b|social security|\btax ?id|\bitin\b",
    "german_tax_id": r"steuer|\btin\b|\bidnr|tax (?:id|number)",
    "dutch_bsn": r"\bbsn\b|burgerservice|sofinummer",
    "portuguese_nif": r"\bnif\b|contribuinte|tax (?:id|number)",
    "austrian_number": r"\bsvnr|sozialversicherung|versicherungsnummer",
    "irish_pps": r"\bpps",
    "british_nhs": r"\bnhs\b",
    "brazilian_cpf": r"\bcpf\b",
    "aadhaar": r"aadhaar|\buidai\b|आधार",
    "belgian_number": r"rijksregister|registre national|national (?:number|register)|\binsz\b|\bniss\b",
    "danish_cpr": r"\bcpr\b|personnummer",
    "old_chinese_id": r"身份证",
    "passport": r"passport|passeport|reisepass|pasaporte|passaporto|护照|通行证",
    "driving_licence": r"driv(?:er|ing)'?s?'?[ -]?licen[cs]e|\bdl (?:no|number|#)|führerschein|permis de "
    "conduire|驾驶证|驾照",
    "plate": r"licen[cs]e plate|number plate|plate (?:no|number)|registration (?:no|number|plate)|\bplates?\b"
    "|kennzeichen|immatriculation|matrícula"
    r"|targa|车牌",
}
"""For each rule that needs one, the words that say so."""
_COMPILED = {rule: re.compile(words) for rule, words in WORDS.items()}
_BEFORE, _AFTER = 60, 30


def lowered(text: str) -> str:
    """The text in small letters, place by place the same."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(sign.lower() if len(sign.lower()) == 1 else sign for sign in text)


def told(rule: str, low: str) -> bool:
    """Does the text have a word for this kind of number at all?"""
    return _COMPILED[rule].search(low) is not None


def says(rule: str, low: str, start: int, end: int) -> bool:
    """Is there a word for this kind of number a little before it or after it?"""
    words = _COMPILED[rule]
    before = low[max(0, start - _BEFORE) : start].rsplit("\n\n", 1)[-1]
    return bool(words.search(before) or words.search(low[end : end + _AFTER].split("\n", 1)[0]))


def of_a_thing(low: str, start: int) -> bool:
    """Is it the number of an order, a book, a version? So says a word just before it, unless one for a telephone or a
    card stands between."""
    begin = max(0, start - 48)
    words = [found.end() for found in _THING.finditer(low, begin, start)]
    if not words or start - words[-1] > 24 or _APART.search(low, words[-1], start):
        return False
    return not PHONE.search(low, words[-1], start) and not _COMPILED["card"].search(low, words[-1], start)


def phone_words(low: str) -> list[tuple[int, int]]:
    """Where words for a telephone stand."""
    if not any(stem in low for stem in _STEMS):
        return []
    return [found.span() for found in PHONE.finditer(low)]


def phone_behind(low: str, end: int) -> bool:
    """Does a word for a telephone follow at once?"""
    return _BEHIND_PHONE.match(low, end) is not None
