"""Who is better, and how sure that is: strengths out of games, length taken out, agreement and bias of judges."""

from luthier.evaluate.ratings.agreement import Agreement, agreement, kappa
from luthier.evaluate.ratings.bias import Bias, bias, needed, provable
from luthier.evaluate.ratings.length import Controlled, controlled
from luthier.evaluate.ratings.strengths import Games, Rating, elo, parts, rated, strengths

__all__ = [
    "Agreement",
    "Bias",
    "Controlled",
    "Games",
    "Rating",
    "agreement",
    "bias",
    "controlled",
    "elo",
    "kappa",
    "needed",
    "parts",
    "provable",
    "rated",
    "strengths",
]
