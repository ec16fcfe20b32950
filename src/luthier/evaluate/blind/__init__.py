"""People as judges: models' answers side by side without names, on a local page or on sheets, and what comes of it."""

from luthier.evaluate.blind.folder import Blind, Dealt, deal
from luthier.evaluate.blind.opening import Opened, opened

__all__ = ["Blind", "Dealt", "Opened", "deal", "opened"]
