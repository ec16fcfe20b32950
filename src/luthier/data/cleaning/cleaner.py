"""All rules of cleaning, one after the other until none finds anything more: so a clean text stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Literal

from pydantic import Field

from luthier.data.cleaning import boilerplate, characters, markup, spacing, spelling
from luthier.data.cleaning.edits import Edit, apply, compose, outside
from luthier.data.cleaning.regions import protected

Rule = Callable[[str], Sequence[Edit]]
ROUNDS = 50
_PLAIN = b"\n" + bytes(sign for sign in range(32, 127) if sign not in b"<&|")
_BLANK = (" ", "\n", "")


@dataclass(frozen=True)
class Cleaning:
    """Which rules are at work. Code, formulas and addresses are left to the last byte, whatever is on."""

    mojibake: bool = True
    """Text decoded with the wrong encoding becomes what it was (`luthier[text]`, asked for where such text is met)."""
    composed: bool = True
    """A letter and its accent become one character (NFC)."""
    unseen: bool = True
    """Control and zero-width characters go, but for those that pictures and scripts need."""
    markup: bool = True
    """Tags and entities left over from web pages; not in rows that talk about markup, or ask for it."""
    boilerplate: Annotated[float, Field(ge=0)] = boilerplate.THRESHOLD
    """Lines of advertisement and page furniture go from this score on; 0 keeps them."""
    spacing: bool = True
    """Ends of lines, empty lines and runs of blanks."""
    width: Literal["half"] | None = None
    """`half`: Latin letters and digits as wide as Chinese signs take their common width."""
    script: characters.Chinese | None = None
    """`simplified` or `traditional`: Chinese in that script (`luthier[text]`)."""
    spelling: str | None = None
    """`common`, or a file of wrong and right words, a pair a line."""

    def prepare(self) -> None:
        """Raises LuthierError for a list of spellings that cannot be read, and a package that will surely be missed."""
        _ = self._rules
        if self.script is not None:
            characters.chinese("字", self.script)

    def edits(self, text: str, context: str = "") -> list[Edit]:
        """What to change in a text. `context`: what else its row says, which tells whether tags or adverts are meant.

        Raises LuthierError where a package is needed and missing.
        """
        return [] if self.quiet(text) else self._worked(text, context)

    def _worked(self, text: str, context: str) -> list[Edit]:
        found: list[Edit] = []
        now = text
        for _ in range(ROUNDS):
            before = now
            for name, rule in self._rules:
                changes = rule(now)
                if changes:
                    changes = self._allowed(name, now, changes, context)
                if changes:
                    found, now = compose(text, found, changes), apply(now, changes)
            if now == before:
                break
        return found

    def clean(self, text: str, context: str = "") -> str:
        """The text after the edits."""
        return apply(text, self.edits(text, context))

    def empty(self, text: str) -> str | None:
        """Why nothing of a text that answers no question is worth keeping; None where something is."""
        if not self.boilerplate or not boilerplate.nothing_else(text, self.boilerplate):
            return None
        return "nothing but advertisement"

    def quiet(self, text: str) -> bool:
        """Can no rule find anything? Cheap, and never true where one could: most texts are read no further."""
        if not text.isascii() or self.spelling or text.encode().translate(None, _PLAIN):
            return False
        if text[:1] in _BLANK or text[-1:] in _BLANK or "  " in text:
            return False
        if "\n" not in text:
            return True
        return not (" \n" in text or "\n\n\n" in text or (self.boilerplate and boilerplate.may_have(text)))

    def _allowed(self, name: str, text: str, changes: Sequence[Edit], context: str) -> Sequence[Edit]:
        if name == "always":
            return changes
        if name in ("tags", "entities") and markup.about_markup(text, context):
            return ()
        if name == "tags":
            return changes
        if name == "boilerplate" and boilerplate.asked_for(context):
            return ()
        body = [(len(text) - len(text.lstrip()), len(text.rstrip()))]
        return outside(changes, body if markup.mostly(text) else protected(text))

    @cached_property
    def _rules(self) -> list[tuple[str, Rule]]:
        rules: list[tuple[str, Rule, object]] = [
            ("always", characters.surrogates, True),
            ("mojibake", characters.mojibake, self.mojibake),
            ("unseen", characters.unseen, self.unseen),
            ("composed", characters.composed, self.composed),
            ("spacing", spacing.returns, self.spacing),
            ("tags", markup.tags, self.markup),
            ("entities", markup.entities, self.markup),
            ("boilerplate", partial(boilerplate.lines, threshold=self.boilerplate), self.boilerplate),
            ("width", characters.half_width, self.width),
            ("script", partial(characters.chinese, script=self.script or "simplified"), self.script),
            ("spelling", spelling.read(self.spelling) if self.spelling else spelling.Spelling(), self.spelling),
            ("spacing", spacing.odd_blanks, self.spacing),
            ("spacing", spacing.ends, self.spacing),
            ("spacing", spacing.runs, self.spacing),
            ("spacing", spacing.empty_lines, self.spacing),
        ]
        return [(name, rule) for name, rule, wanted in rules if wanted]
