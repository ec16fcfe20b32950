"""How sure a score is, and the difference of two."""

from luthier.evaluate.intervals.bootstrap import interval, resamples
from luthier.evaluate.intervals.estimates import estimates
from luthier.evaluate.intervals.rates import DISCORDANT, Estimate, detectable, holm

__all__ = ["DISCORDANT", "Estimate", "detectable", "estimates", "holm", "interval", "resamples"]
