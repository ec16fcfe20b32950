"""Scorers: how good is this response to this example? A metric, a reward and a filter in one.

A scorer is a frozen dataclass whose fields are its YAML keys and which is called with (Example, Response). The
built-in ones derive from `luthier.scorers.metric.Metric`, which also says how rows add up to one number for a corpus.
"""

from __future__ import annotations

from luthier.registry import Registry

SCORERS = Registry(
    "scorer",
    {
        "exact_match": "luthier.scorers.match:ExactMatch",
        "contains": "luthier.scorers.match:Contains",
        "code": "luthier.scorers.code:Code",
        "generative_rm": "luthier.scorers.judges.generative:GenerativeRM",
        "grm_reward": "luthier.scorers.judges.grading:GRMReward",
        "json_match": "luthier.scorers.json_match:JsonMatch",
        "f1": "luthier.scorers.overlap:F1",
        "bleu": "luthier.scorers.overlap:Bleu",
        "rouge": "luthier.scorers.overlap:Rouge",
        "judge": "luthier.scorers.judges.judge:Judge",
        "maths": "luthier.scorers.maths:Maths",
        "format": "luthier.scorers.shape.form:Format",
        "json_schema": "luthier.scorers.shape.form:JsonSchema",
        "regex": "luthier.scorers.shape.form:Regex",
        "length": "luthier.scorers.shape.size:Length",
        "overlong": "luthier.scorers.shape.size:Overlong",
        "language": "luthier.scorers.shape.wording:Language",
        "repetition": "luthier.scorers.shape.wording:Repetition",
        "python": "luthier.scorers.own:Python",
        "perplexity": "luthier.scorers.perplexity:Perplexity",
        "label_accuracy": "luthier.scorers.preference:LabelAccuracy",
        "preference_accuracy": "luthier.scorers.preference:PreferenceAccuracy",
        "proof": "luthier.scorers.proofs.proof:Proof",
        "reward_model": "luthier.scorers.reward_model:RewardModel",
        "step_accuracy": "luthier.scorers.preference:StepAccuracy",
    },
)
"""The built-in scorers, and those of the entry points `luthier.scorer`."""
