"""Objectives: pure maths over ragged Rows. A method is one short class; the loop does everything else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.registry import Registry

OBJECTIVES = Registry(
    "objective",
    {
        "sft": "luthier.objectives.tokens:SFT",
        "pretrain": "luthier.objectives.tokens:Pretrain",
        "dpo": "luthier.objectives.pairs:DPO",
        "ipo": "luthier.objectives.pairs:IPO",
        "hinge": "luthier.objectives.pairs:Hinge",
        "sppo": "luthier.objectives.pairs:SPPO",
        "nca": "luthier.objectives.pairs:NCA",
        "exo": "luthier.objectives.pairs:EXO",
        "apo_zero": "luthier.objectives.pairs:APOZero",
        "apo_down": "luthier.objectives.pairs:APODown",
        "discopop": "luthier.objectives.pairs:DiscoPOP",
        "aot": "luthier.objectives.transport:AOT",
        "orpo": "luthier.objectives.reference_free:ORPO",
        "cpo": "luthier.objectives.reference_free:CPO",
        "simpo": "luthier.objectives.reference_free:SimPO",
        "kto": "luthier.objectives.labels:KTO",
        "bco": "luthier.objectives.labels:BCO",
        "reward": "luthier.objectives.rewards:Reward",
        "outcome_reward": "luthier.objectives.rewards:OutcomeReward",
        "process_reward": "luthier.objectives.rewards:ProcessReward",
        "reinforce": "luthier.objectives.policy.presets:Reinforce",
        "rloo": "luthier.objectives.policy.presets:RLOO",
        "grpo": "luthier.objectives.policy.presets:GRPO",
        "dr_grpo": "luthier.objectives.policy.presets:DrGRPO",
        "gspo": "luthier.objectives.policy.presets:GSPO",
        "reinforce_pp": "luthier.objectives.policy.presets:ReinforcePP",
        "dapo": "luthier.objectives.policy.presets:DAPO",
        "ppo": "luthier.objectives.policy.critic:PPO",
        "vapo": "luthier.objectives.policy.critic:VAPO",
        "online": "luthier.objectives.online:Online",
        "online_dpo": "luthier.objectives.online:OnlineDPO",
        "xpo": "luthier.objectives.online:XPO",
        "nash_md": "luthier.objectives.online:NashMD",
        "gkd": "luthier.objectives.distil:GKD",
        "reverse_kd": "luthier.objectives.distil:ReverseKD",
        "sum": "luthier.objectives.weighted:Sum",
    },
    elsewhere={
        "onlineipo": "write `objective: {online: ipo}`",
        "minillm": "it is called reverse_kd here",
        "sequencekd": "train on what the teacher wrote: recipes/pipelines/sequence_kd.yaml (docs/pipelines.md)",
        **dict.fromkeys(
            ("raft", "rejectionsampling", "bestofn"),
            "it is several stages: recipes/pipelines/raft.yaml, for `luthier run` (docs/pipelines.md)",
        ),
        "star": "it is several stages: recipes/pipelines/star.yaml, for `luthier run` (docs/pipelines.md)",
        "expertiteration": "it is several stages: recipes/pipelines/expert_iteration.yaml (docs/pipelines.md)",
    },
)

__all__ = ["OBJECTIVES", "Rows"]

if TYPE_CHECKING:
    from luthier.objectives.rows import Rows


def __getattr__(name: str) -> Any:
    if name == "Rows":
        from luthier.objectives.rows import Rows

        return Rows
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
