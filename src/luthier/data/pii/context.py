"""Words near a number that say what it is."""

from __future__ import annotations

import re

PHONE = re.compile(
    r"(?<!\[)(?:\b(?:tele)?phone\b|\btel\b|\bmobile\b|\bcell(?:phone)?\b|\bfax\b|\bcall(?:ed|ing)?\b|\btext (?:me|us|him|her|them)\b|\bdial(?:ed|ling|ing)?\b"
    r"|\bwhats ?app\b|\bhotline\b|\bhelpline\b|\bcontact\b|\breach(?:ed)? (?:me|us|him|her|them|out)\b|\bdesk\b|\boffice\b|\bring\b|\bsms\b|\blandline\b|\bhome ?:|\bwork ?:|\bph\b|\bdirect line\b"
    r"|\btelefon\w*|\bhandy\b|\bmobil\b|\btéléphone\b|\bportable\b|\btel[ée]fono\b|\bm[óo]vil\b|\bcelular\b|\bcellulare\b|\btelefoon\b|\bappel\w*|\bllam\w+"
    r"|电话|手机|联系方式|热线|传真|致电|拨打|座机|来电|联系人|联系我|打给)",
    re.I,
)
AFTER_PHONE = re.compile(r"[ \t]*[(,-]?[ \t]*(?:mobile|cell|office|fax|home|work|phone|tel|desk|手机|电话)\b", re.I)
OTHER = re.compile(
    r"(?:\border|\binvoice|\btracking|\bshipment|\bparcel|\bisbn|\bissn|\bimei|\bsku\b|\bpart n|\bserial|\bversion|\bdoi\b|\barxiv|\brfc\b|\bticket|"
    r"\bmodel\b|\bbatch|\bcommit|\bbuild\b|\bpmid|\bcas\b|\bean\b|\bupc\b|\basin|\btimestamp|\bepoch|\bpatent|\bproduct (?:id|code|number)|\btransaction|"
    r"\breference|\bcase (?:no|number)|\bdocket|\bbarcode|\blot (?:no|number)|\bpolicy|\bconfirmation|"
    r"订单|单号|快递|运单|编号|流水|型号|版本|序列号|批号|条码|专利|档案|书号|时间戳)[^\n\d;。；!?，,]{0,24}$",
    re.I,
)
"""Just before a number, it says that this is a number of a thing."""

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
    "driving_licence": r"driv(?:er|ing)'?s?'?[ -]?licen[cs]e|\bdl (?:no|number|#)|führerschein|permis de conduire|驾驶证|驾照",
    "plate": r"licen[cs]e plate|number plate|plate (?:no|number)|registration (?:no|number|plate)|\bplates?\b|kennzeichen|immatriculation|matrícula|targa|车牌",
}
"""For each rule that needs one, the words that say so."""
_COMPILED = {rule: re.compile(words, re.I) for rule, words in WORDS.items()}
BEFORE, BEHIND = 60, 30


def says(rule: str, text: str, start: int, end: int) -> bool:
    """Is there a word for this kind of number a little before it or after it?"""
    words = _COMPILED[rule]
    before = text[max(0, start - BEFORE) : start].rsplit("\n\n", 1)[-1]
    return bool(words.search(before) or words.search(text[end : end + BEHIND].split("\n", 1)[0]))


def of_a_thing(text: str, start: int) -> bool:
    """Is it the number of an order, a book, a version? Not where a word for a telephone or a card stands between."""
    before = text[max(0, start - 48) : start].rsplit("\n", 1)[-1]
    found = OTHER.search(before)
    return found is not None and not PHONE.search(before, found.start()) and not _COMPILED["card"].search(before, found.start())


BEHIND_PHONE = re.compile(r"\d[ \t]*[(,-]?[ \t]*(?:mobile|cell|office|fax|home|work|phone|tel|desk|手机|电话)\b", re.I)
