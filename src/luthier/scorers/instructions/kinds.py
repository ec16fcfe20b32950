"""The 25 kinds of instructions of IFEval (arXiv:2311.07911), which a program can check, as functions of the response.

Where the published checkers ask libraries that fetch models (sentences, languages), ours are told from the text: a
sentence ends at its mark and not behind an abbreviation, a language is that of `data.cleaning.language`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.data.cleaning.language import language

Check = Callable[..., bool]
KINDS: dict[str, Check] = {}
"""Name of an instruction as the data has it → its check: the response and the arguments of the instruction."""
OPTIONS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
WORD = re.compile(r"\w+")
TOKEN = re.compile(r"[^\W_]+(?:[.'’-][^\W_]+)*")
_SHORT = """
    mr mrs ms dr prof sr jr st vs etc inc ltd co corp e.g i.e u.s u.k a.m p.m ph.d vol fig approx dept est
"""
ABBREVIATIONS = frozenset(_SHORT.split())
FENCES = re.compile(r"^```(?:json)?|```$", re.IGNORECASE)
CHINESE = {"zh-cn": "zh", "zh-tw": "zh"}


def kind(name: str) -> Callable[[Check], Check]:
    """Decorator: the check of this kind."""

    def add(check: Check) -> Check:
        KINDS[name] = check
        return check

    return add


def _holds(count: int, relation: str, wanted: int) -> bool:
    """`less than` or `at least` so many."""
    return count < wanted if relation == "less than" else count >= wanted


# keywords
@kind("keywords:existence")
def _existence(said: str, *, keywords: Sequence[str]) -> bool:
    return all(re.search(re.escape(word), said, re.IGNORECASE) for word in keywords)


@kind("keywords:frequency")
def _frequency(said: str, *, keyword: str, frequency: int, relation: str) -> bool:
    return _holds(len(re.findall(re.escape(keyword.strip()), said, re.IGNORECASE)), relation, frequency)


@kind("keywords:forbidden_words")
def _forbidden(said: str, *, forbidden_words: Sequence[str]) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", said, re.IGNORECASE) for word in forbidden_words)


@kind("keywords:letter_frequency")
def _letters(said: str, *, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _holds(said.lower().count(letter.lower()), let_relation, let_frequency)


# language and case
@kind("language:response_language")
def _language(said: str, *, language: str) -> bool:
    return _is_in(said, language)


def _is_in(said: str, wanted: str) -> bool:
    """A text of which nothing can be told (no letters) is not held against it."""
    found = language(said).code
    return found in ("und", CHINESE.get(wanted, wanted))


@kind("change_case:english_capital")
def _capital(said: str) -> bool:
    return said.isupper() and _is_in(said.lower(), "en")


@kind("change_case:english_lowercase")
def _lowercase(said: str) -> bool:
    return said.islower() and _is_in(said, "en")


@kind("change_case:capital_word_frequency")
def _capital_words(said: str, *, capital_frequency: int, capital_relation: str) -> bool:
    return _holds(sum(word.isupper() for word in TOKEN.findall(said)), capital_relation, capital_frequency)


# lengths
@kind("length_constraints:number_words")
def _words(said: str, *, num_words: int, relation: str) -> bool:
    return _holds(len(WORD.findall(said)), relation, num_words)


@kind("length_constraints:number_sentences")
def _sentences(said: str, *, num_sentences: int, relation: str) -> bool:
    return _holds(sentences(said), relation, num_sentences)


def sentences(text: str) -> int:
    """How many sentences a text has: a mark ends one if white space or the text's end comes behind it (and quotes),
    and no abbreviation or single letter stands before it; so does an empty line."""
    count = 0
    for paragraph in re.split(r"\n\s*\n", text):
        began = 0
        for match in re.finditer(r"[.!?]+[\"'”’)\]*]*(?=\s|$)|[。！？]+[”’」』）]*", paragraph):
            before = re.search(r"(\S+)$", paragraph[began : match.start()])
            word = before.group(1).lower().lstrip("(\"'“‘*") if before else ""
            ends_all = not paragraph[match.end() :].strip()
            short = word in ABBREVIATIONS or re.fullmatch(r"[a-z]|\d{1,2}", word)
            if match.group()[0] == "." and short and not ends_all:
                continue
            count += bool(WORD.search(paragraph[began : match.start()]))
            began = match.end()
        count += bool(WORD.search(paragraph[began:]))
    return count


@kind("length_constraints:number_paragraphs")
def _paragraphs(said: str, *, num_paragraphs: int) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", said)]
    inner = parts[1:-1]
    return all(inner) and sum(map(bool, parts)) == num_paragraphs


@kind("length_constraints:nth_paragraph_first_word")
def _first_word(said: str, *, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    parts = said.split("\n\n")
    whole = sum(bool(part.strip()) for part in parts)
    if whole != num_paragraphs or nth_paragraph > whole or not parts[nth_paragraph - 1].strip():
        return False
    word = parts[nth_paragraph - 1].split()[0].lstrip("'\"")
    return re.split(r"[.,?!'\"]", word)[0].lower() == first_word.lower()


# content and format
@kind("detectable_content:number_placeholders")
def _placeholders(said: str, *, num_placeholders: int) -> bool:
    return len(re.findall(r"\[.*?\]", said)) >= num_placeholders


@kind("detectable_content:postscript")
def _postscript(said: str, *, postscript_marker: str) -> bool:
    known = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(known.get(postscript_marker, re.escape(postscript_marker.lower())), said.lower()))


@kind("detectable_format:number_bullet_lists")
def _bullets(said: str, *, num_bullets: int) -> bool:
    return len(re.findall(r"^\s*(?:\*[^*].*|-.*)$", said, re.MULTILINE)) == num_bullets


@kind("detectable_format:constrained_response")
def _constrained(said: str) -> bool:
    return any(option in said for option in OPTIONS)


@kind("detectable_format:number_highlighted_sections")
def _highlights(said: str, *, num_highlights: int) -> bool:
    found = re.findall(r"\*([^\n*]*)\*", said) + re.findall(r"\*\*([^\n*]*)\*\*", said)
    return sum(bool(part.strip()) for part in found) >= num_highlights


@kind("detectable_format:multiple_sections")
def _sections(said: str, *, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"\s?{re.escape(section_spliter)}\s?\d+\s?", said)) >= num_sections


@kind("detectable_format:json_format")
def _json(said: str) -> bool:
    try:
        json.loads(FENCES.sub("", said.strip()).strip())
    except (ValueError, RecursionError):
        return False
    return True


@kind("detectable_format:title")
def _title(said: str) -> bool:
    return any(title.strip("<> \t") for title in re.findall(r"<<[^\n]+>>", said))


# the whole response
@kind("combination:two_responses")
def _two(said: str) -> bool:
    parts = [part.strip() for part in said.split("******")]
    inner, whole = parts[1:-1], [part for part in parts if part]
    return all(inner) and len(whole) == 2 and whole[0] != whole[1]


@kind("combination:repeat_prompt")
def _repeats(said: str, *, prompt_to_repeat: str) -> bool:
    return said.strip().lower().startswith(prompt_to_repeat.strip().lower())


@kind("startend:end_checker")
def _ends(said: str, *, end_phrase: str) -> bool:
    return said.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@kind("startend:quotation")
def _quoted(said: str) -> bool:
    bare = said.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


@kind("punctuation:no_comma")
def _no_comma(said: str) -> bool:
    return "," not in said


def follows(name: str, said: str, given: Mapping[str, Any]) -> bool:
    """Does a response follow an instruction? `given`: its arguments; those that are null are none. Nothing said follows
    nothing."""
    return bool(said.strip()) and KINDS[name](said, **{key: value for key, value in given.items() if value is not None})


def loosely(said: str) -> list[str]:
    """A response as it is, without its first line, its last, or both, each with and without asterisks: an instruction
    is loosely followed if one of these follows it."""
    lines = said.split("\n")
    cut = [said, "\n".join(lines[1:]).strip(), "\n".join(lines[:-1]).strip(), "\n".join(lines[1:-1]).strip()]
    return [form for one in cut for form in (one, one.replace("*", ""))]
