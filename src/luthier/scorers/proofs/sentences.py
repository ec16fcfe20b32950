"""A response as the sentences of a Coq proof: tactics, bullets and braces, and nothing else.

Every command of Coq begins with a capital letter or an attribute (`#[…]`), every tactic with a small one, perhaps
behind the name of a module; so a proof is made of tactics by construction, whatever commands there are. How sentences
are told apart here is not what safety hangs on: Coq is handed one at a time and reads no further than the end of the
first it sees.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress

from luthier.scorers.proofs.checker import NotAProof

LONGEST = 20_000
"""Characters of a proof."""
_FENCE = re.compile(r"```[\w-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_BULLET = re.compile(r"-+|\++|\*+|[{}]|(?:\d+|\[\s*\w+\s*\])\s*:\s*\{")
_SELECTOR = re.compile(r"(?:(?:\d+(?:\s*[-,]\s*\d+)*|all|!|\[\s*\w+\s*\])\s*:\s*)?")
_TACTIC = re.compile(r"(?:[A-Z][\w']*\.)*[a-z(\[]")
_STATED = re.compile(
    r"(?:Theorem|Lemma|Fact|Remark|Corollary|Proposition|Property|Example)\s+([\w']+)\s*:\s*(.*)\.\Z|Goal\s+()(.*)\.\Z",
    re.DOTALL,
)
ALLOWED = frozenset({"Unshelve."})
"""The one command of use within a proof that cannot harm."""


def fenced(text: str) -> str:
    """What a response says in its last fenced block; all of it where there is none."""
    blocks = _FENCE.findall(text)
    return str(blocks[-1]) if blocks else text


def plain(text: str) -> str:
    """The text without comments. Raises NotAProof for characters that are not to be seen, and for an open comment."""
    if len(text) > LONGEST:
        raise NotAProof(f"the proof has {len(text):,} characters, more than {LONGEST:,}")
    for one in text:
        if one not in " \t\r\n" and (unicodedata.category(one)[0] in "CZ") and one != " ":
            raise NotAProof(f"the proof holds the character U+{ord(one):04X}")
    kept: list[str] = []
    depth = index = 0
    while index < len(text):
        pair = text[index : index + 2]
        if pair == "(*":
            depth, index = depth + 1, index + 2
        elif pair == "*)" and depth:
            depth, index = depth - 1, index + 2
            kept.append("" if depth else " ")
        elif text[index] == '"':  # Coq reads strings within comments as well
            end = _string(text, index)
            kept.append("" if depth else text[index:end])
            index = end
        else:
            kept.append("" if depth else text[index])
            index += 1
    if depth:
        raise NotAProof("a comment is not closed")
    return "".join(kept)


def _string(text: str, start: int) -> int:
    """Where the string that opens at `start` ends; a doubled quotation mark stands for one of its own."""
    index = start + 1
    while index < len(text):
        if text[index] != '"':
            index += 1
        elif text[index + 1 : index + 2] == '"':
            index += 2
        else:
            return index + 1
    raise NotAProof("a string is not closed")


def split(text: str) -> list[str]:
    """The sentences of a text without comments. Raises NotAProof where the last has no full stop."""
    return list(_sentences(text))


def whole(text: str) -> list[str]:
    """The sentences of a script as far as they are whole: one that breaks off is left out."""
    found: list[str] = []
    with suppress(NotAProof):
        found.extend(_sentences(plain(fenced(text))))
    return found


def _sentences(text: str) -> Iterator[str]:
    index = 0
    while index < len(text):
        if text[index].isspace():
            index += 1
            continue
        bullet = _BULLET.match(text, index)
        end = bullet.end() if bullet else _sentence(text, index)
        yield text[index:end].strip()
        index = end


def _sentence(text: str, start: int) -> int:
    """Where the sentence that begins at `start` ends: at a full stop before white space or the end of the text."""
    index = start
    while index < len(text):
        if text[index] == '"':
            index = _string(text, index)
        elif text[index] == "." and (index + 1 == len(text) or text[index + 1].isspace()):
            return index + 1
        else:
            index += 1
    raise NotAProof("the last sentence has no full stop")


def is_tactic(sentence: str) -> bool:
    """May this sentence stand in a proof?"""
    if sentence in ALLOWED or _BULLET.fullmatch(sentence):
        return True
    selector = _SELECTOR.match(sentence)
    return _TACTIC.match(sentence, selector.end() if selector else 0) is not None


def type_of(statement: str) -> str:
    """What a statement says, without `Theorem name :` and the full stop around it."""
    stated = _STATED.match(statement.strip())
    said = (stated[2] or stated[4]) if stated else statement
    return said.strip().removesuffix(".").strip()


def tactics(response: str, statement: str) -> list[str]:
    """The tactics of a response. It may repeat the statement, word for word, and put `Proof.` and `Qed.` around them.

    Raises NotAProof, in words that say what else it holds.
    """
    found = split(plain(fenced(response)))
    if found and _STATED.match(found[0]):
        if type_of(found[0]).split() != type_of(statement).split():
            raise NotAProof("it states another theorem")
        del found[0]
    if found and found[0] == "Proof.":
        del found[0]
    if found and found[-1] in ("Qed.", "Defined."):
        del found[-1]
    if not found:
        raise NotAProof("there is no proof")
    for sentence in found:
        if not is_tactic(sentence):
            raise NotAProof(f"not a tactic: {sentence[:80]}")
    return found
