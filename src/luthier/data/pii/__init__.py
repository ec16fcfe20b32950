"""What tells who somebody is: found by rules, checks and words near; masked, or given a stand-in."""

from __future__ import annotations

from luthier.data.pii.finding import find
from luthier.data.pii.found import KINDS, NAMED, Found
from luthier.data.pii.names import Names, Recogniser, as_names, joined
from luthier.data.pii.standins import masked, pseudonyms

__all__ = ["KINDS", "NAMED", "Found", "Names", "Recogniser", "as_names", "find", "joined", "masked", "pseudonyms"]
