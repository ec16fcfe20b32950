"""Spelling by lists of wrong words and the right ones. No dictionary: those make *chariot* of *chatbot*."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from luthier.data.cleaning.edits import Edit
from luthier.errors import LuthierError

_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
COMMON = {
    "accomodate": "accommodate",
    "acheive": "achieve",
    "acknowlege": "acknowledge",
    "adress": "address",
    "agressive": "aggressive",
    "alot": "a lot",
    "apparantly": "apparently",
    "arguement": "argument",
    "becuase": "because",
    "begining": "beginning",
    "beleive": "believe",
    "calender": "calendar",
    "catagory": "category",
    "cemetary": "cemetery",
    "commitee": "committee",
    "completly": "completely",
    "concious": "conscious",
    "definately": "definitely",
    "definitly": "definitely",
    "dissapear": "disappear",
    "dissapoint": "disappoint",
    "embarass": "embarrass",
    "enviroment": "environment",
    "existance": "existence",
    "familar": "familiar",
    "finaly": "finally",
    "foriegn": "foreign",
    "fourty": "forty",
    "goverment": "government",
    "grammer": "grammar",
    "happend": "happened",
    "harrass": "harass",
    "immediatly": "immediately",
    "independant": "independent",
    "knowlege": "knowledge",
    "libary": "library",
    "maintainance": "maintenance",
    "neccessary": "necessary",
    "noticable": "noticeable",
    "occured": "occurred",
    "occurence": "occurrence",
    "posession": "possession",
    "prefered": "preferred",
    "privelege": "privilege",
    "probaly": "probably",
    "publically": "publicly",
    "realy": "really",
    "recieve": "receive",
    "recomend": "recommend",
    "refered": "referred",
    "rythm": "rhythm",
    "seperate": "separate",
    "sucessful": "successful",
    "suprise": "surprise",
    "teh": "the",
    "tommorow": "tomorrow",
    "tounge": "tongue",
    "truely": "truly",
    "untill": "until",
    "wether": "whether",
    "wich": "which",
    "wierd": "weird",
    "writting": "writing",
    "yuo": "you",
}
"""The commonest slips of English, each a word that is nothing else."""


@dataclass(frozen=True)
class Spelling:
    """Words that are wrong wherever they stand, in small letters, and what they should be."""

    pairs: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, text: str) -> list[Edit]:
        """The wrong words as the right ones, in the capitals they had."""
        edits = []
        for found in _WORD.finditer(text):
            right = self.pairs.get(found[0].lower())
            if right is not None and found[0] != (new := _cased(found[0], right)):
                edits.append(Edit(found.start(), found[0], new))
        return edits


def read(name: str) -> Spelling:
    """`common`, our own short list of English, or a file with a line `wrong right` (tab, comma or ->) for each pair.

    Raises LuthierError for a file that is not there, a line that is no pair, and pairs that lead back to a wrong word.
    """
    if name == "common":
        return Spelling(COMMON)
    try:
        lines = Path(name).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LuthierError(
            f"the list of spellings cannot be read ({error})", where=name, fix="a text file in UTF-8, or `common`"
        ) from error
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        parts = [part.strip() for part in re.split(r"\t|->|,|=", line, maxsplit=1)]
        parts = parts if len(parts) == 2 else line.split(None, 1)
        if len(parts) != 2 or not all(parts) or _WORD.fullmatch(parts[0]) is None:
            raise LuthierError(
                "is no pair of a wrong word and the right one", where=f"{name}:{number}", fix="write: wrong<tab>right"
            )
        pairs[parts[0].lower()] = parts[1]
    for wrong, right in pairs.items():
        for word in _WORD.findall(right):
            if word.lower() in pairs and _cased(word, pairs[word.lower()]) != word:
                raise LuthierError(
                    f"{wrong!r} becomes {right!r}, in which {word!r} is a wrong word, too",
                    where=name, fix="keep one of the two pairs",
                )  # fmt: skip
    return Spelling(pairs)


def _cased(was: str, right: str) -> str:
    if was.isupper() and len(was) > 1:
        return right.upper()
    return right[:1].upper() + right[1:] if was[:1].isupper() else right
