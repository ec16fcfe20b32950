"""Run by TRL's own interpreter: the losses of TRL's trainers on rows read from stdin, as JSON on stdout.

The trainer is a stand-in that holds what its loss reads; the model is one that gives back the log-probabilities.
"""

import contextlib
import json
import sys
from types import SimpleNamespace

import torch


class Metrics(dict):
    def __missing__(self, key):
        self[key] = []
        return self[key]


def padded(rows):
    longest = max(len(row) for row in rows)
    values = torch.tensor([row + [0.0] * (longest - len(row)) for row in rows], dtype=torch.float32)
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    # one prompt token in front, as every log-probability is of a token that follows another
    return values, torch.cat([torch.zeros(len(rows), 1, dtype=torch.long), mask], 1)


def outputs(values):
    zeros = torch.zeros_like(values)
    return SimpleNamespace(log_probs=values, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool())


def trainer(**fields):
    accelerator = SimpleNamespace(
        device=torch.device("cpu"), gather_for_metrics=lambda x: x, gather=lambda x: x, unwrap_model=lambda x: x
    )
    common = {
        "accelerator": accelerator,
        "model": SimpleNamespace(training=False),
        "_metrics": {"train": Metrics(), "eval": Metrics()},
        "_total_train_tokens": 0,
        "_tp_size": 1,
        "aux_loss_enabled": False,
        "precompute_ref_logps": True,
    }
    return SimpleNamespace(**common, **fields)


def dpo(case):
    from trl.trainer.dpo_trainer import DPOTrainer

    values, mask = padded(case["better"] + case["worse"])
    ref, _ = padded(case["ref_better"] + case["ref_worse"])
    n, keys = len(case["better"]), case["keys"]
    alpha = keys.get("ld_alpha")
    fields = {
        "ld_alpha": alpha,
        "f_divergence_type": "reverse_kl",
        "loss_types": [keys["loss_type"]],
        "loss_weights": [1.0],
        "beta": keys["beta"],
        "label_smoothing": keys.get("label_smoothing", 0.0),
        "use_weighting": False,
        "args": SimpleNamespace(discopop_tau=keys.get("tau", 0.05), gradient_checkpointing_kwargs=None),
    }
    if alpha is None:
        sums = ref.sum(1)
        fields["precompute_ref_logps"] = True
        inputs = {"ref_chosen_logps": sums[:n], "ref_rejected_logps": sums[n:]}
    else:
        inputs = {}
    inputs |= {"input_ids": torch.ones_like(mask), "attention_mask": torch.ones_like(mask), "completion_mask": mask}
    host = trainer(**{k: v for k, v in fields.items() if k != "precompute_ref_logps"})
    if alpha is not None:  # the precomputed sums cannot be shortened: the reference is asked, too
        host.precompute_ref_logps = False
        host.ref_model = lambda **_: outputs(ref)
        host.model = torch.nn.Linear(1, 1)
        import trl.trainer.dpo_trainer as module

        module.disable_gradient_checkpointing = lambda *_: contextlib.nullcontext()
    return DPOTrainer._compute_loss(host, lambda **_: outputs(values), inputs, False)


def kto(case):
    from trl.trainer.kto_trainer import KTOTrainer

    values, mask = padded(case["rows"])
    ref, _ = padded(case["ref"])
    keys = case["keys"]
    host = trainer(
        loss_type="kto",
        beta=keys["beta"],
        calculate_KL=True,
        desirable_weight=keys["lambda_desirable"],
        undesirable_weight=keys["lambda_undesirable"],
        _compute_kl_logps=lambda model, batch: torch.tensor(case["contrast"]),
    )
    inputs = {
        "input_ids": torch.ones_like(mask),
        "attention_mask": torch.ones_like(mask),
        "completion_mask": mask,
        "label": torch.tensor(case["labels"]),
        "ref_logps": ref.sum(1),
        "ref_KL_logps": torch.zeros(len(case["contrast"])),
    }
    return KTOTrainer._compute_loss(host, lambda **_: outputs(values), inputs, False)


def cpo(case):
    from trl.experimental.cpo import CPOTrainer

    keys = case["keys"]
    host = trainer(
        alpha=0.0,
        loss_type=keys["loss_type"],
        beta=keys["beta"],
        label_smoothing=keys["label_smoothing"],
        simpo_gamma=keys.get("gamma", 0.0),
    )
    logps = [torch.tensor([reduce(row, keys) for row in case[side]]) for side in ("better", "worse")]
    return CPOTrainer.cpo_loss(host, *logps)[0].mean()


def reduce(row, keys):
    return sum(row) / len(row) if keys["loss_type"] in ("simpo", "orpo") else sum(row)


def orpo(case):
    from trl.experimental.orpo import ORPOTrainer

    host = trainer(beta=case["keys"]["beta"])
    keys = {"loss_type": "orpo"}
    better, worse = (torch.tensor([reduce(row, keys) for row in case[side]]) for side in ("better", "worse"))
    # the likelihood term of both is ours: TRL's counts the prompt
    return -ORPOTrainer.odds_ratio_loss(host, better, worse)[0].mean() - better.mean()


def reward(case):
    from trl.trainer.reward_trainer import RewardTrainer

    keys = case["keys"]
    host = trainer(args=SimpleNamespace(center_rewards_coefficient=keys["centring"]))
    values = torch.tensor(case["better"] + case["worse"])[:, None]
    inputs = {"margin": torch.tensor(case["margin"]), "attention_mask": torch.ones(1)}
    return RewardTrainer.compute_loss(host, lambda **_: SimpleNamespace(logits=values), inputs)


if __name__ == "__main__":
    found = [float(globals()[case["trainer"]](case)) for case in json.load(sys.stdin)]
    print("RESULT " + json.dumps(found))
