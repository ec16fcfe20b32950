"""Run by TRL's own interpreter: losses of its reinforcement trainers, and their gradients, on rows read from stdin.

One JSON list on stdout: [loss, gradient of each token, row after row]. The trainer is a stand-in, as in `trl_losses`.
"""

import json
import sys
from types import SimpleNamespace

import torch
from trl_losses import padded, trainer


def host(**fields):
    made = trainer(**fields)
    made.accelerator.num_processes = 1
    made.accelerator.reduce = lambda x, reduction: x
    made.model.training = True
    return made


def given(case):
    values, mask = padded(case["logp"])
    values.requires_grad_()
    ids = torch.ones_like(mask)
    common = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids[:, 1:]}
    columns = {name: padded(case[name])[0] for name in ("old", "ref", "advantage", "entropy", "weight") if name in case}
    return values, {**common, "completion_mask": mask[:, 1:]}, columns


def grpo(case):
    from trl.trainer.grpo_trainer import GRPOTrainer

    values, inputs, columns = given(case)
    keys = case["keys"]
    made = host(
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        importance_sampling_level=keys.get("level", "token"),
        beta=keys.get("beta", 0.0),
        loss_type=keys["loss_type"],
        epsilon_low=keys["low"],
        epsilon_high=keys["high"],
        use_vllm="weight" in columns,
        vllm_importance_sampling_correction=True,
        current_gradient_accumulation_steps=1,
        max_completion_length=keys.get("length", 0),
        _entropy_bonus_enabled="entropy" in keys,
        use_adaptive_entropy=False,
        entropy_coef=keys.get("entropy", 0.0),
        args=SimpleNamespace(
            use_bias_correction_kl=keys.get("by_ratio", False), delta=keys.get("delta"), steps_per_generation=1
        ),
        _get_per_token_logps_and_entropies=lambda *_, **__: (values, columns["entropy"], None),
    )
    made.accelerator.sync_gradients = False
    inputs |= {
        "advantages": columns["advantage"] if keys.get("level") != "sequence" else columns["advantage"][:, 0],
        "old_per_token_logps": columns["old"],
        "ref_per_token_logps": columns["ref"],
        "importance_sampling_ratio": columns.get("weight"),
        "num_items_in_batch": inputs["completion_mask"].sum(),
    }
    return values, GRPOTrainer._compute_loss(made, made.model, inputs)


def rloo(case):
    from trl.trainer.rloo_trainer import RLOOTrainer

    values, inputs, columns = given(case)
    made = host(
        epsilon_low=case["keys"]["low"],
        epsilon_high=case["keys"]["high"],
        _get_per_token_logps_and_entropies=lambda *_, **__: (values, columns["entropy"], None),
    )
    inputs |= {"old_logps": columns["old"].sum(1), "advantages": columns["advantage"][:, 0]}
    return values, RLOOTrainer._compute_loss(made, made.model, inputs)


def gkd(case):
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    student = torch.tensor(case["student"], requires_grad=True)
    teacher = torch.tensor(case["teacher"])
    labels = torch.zeros(student.shape[:2], dtype=torch.long)
    return student, GKDTrainer.generalized_jsd_loss(student, teacher, labels, beta=case["keys"]["beta"])


def answered(case):
    values, loss = globals()[case["trainer"]](case)
    (gradient,) = torch.autograd.grad(loss, values)
    if "logp" in case:
        gradient = torch.cat([row[: len(one)] for row, one in zip(gradient, case["logp"], strict=True)])
    return [float(loss), gradient.flatten().tolist()]


if __name__ == "__main__":
    print("RESULT " + json.dumps([answered(case) for case in json.load(sys.stdin)]))
