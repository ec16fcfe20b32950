"""Models' answers put to a judge: in both orders, alone, beside a known answer; and what comes of it, with its bias."""

from luthier.evaluate.judging.bouts import Bout
from luthier.evaluate.judging.contest import Meeting, held
from luthier.evaluate.judging.win_rate import WinRate, summed

__all__ = ["Bout", "Meeting", "WinRate", "held", "summed"]
