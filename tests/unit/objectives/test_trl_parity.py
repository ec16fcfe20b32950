"""Random rows through TRL's own loss functions, in TRL's own environment, and through ours: equal to fp32 rounding."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.objectives import ragged

from luthier.objectives import OBJECTIVES, Rows

ROOT = Path(__file__).parents[3]
PYTHON = ROOT / ".peers" / "trl" / "bin" / "python"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="TRL's environment is not there (.peers/trl)"),
]

DPO: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("dpo", {"beta": 0.3}, {"loss_type": "sigmoid"}),
    ("dpo", {"beta": 0.3, "label_smoothing": 0.2, "robust": True}, {"loss_type": "robust", "label_smoothing": 0.2}),
    ("dpo", {"beta": 0.3, "length_alpha": 0.4}, {"loss_type": "sigmoid", "ld_alpha": 0.4}),
    ("ipo", {"beta": 0.3}, {"loss_type": "ipo"}),
    ("hinge", {"beta": 0.3}, {"loss_type": "hinge"}),
    ("sppo", {"beta": 0.3}, {"loss_type": "sppo_hard"}),
    ("nca", {"beta": 0.3}, {"loss_type": "nca_pair"}),
    ("exo", {"beta": 0.3, "label_smoothing": 0.01}, {"loss_type": "exo_pair", "label_smoothing": 0.01}),
    ("apo_zero", {"beta": 0.3}, {"loss_type": "apo_zero"}),
    ("apo_down", {"beta": 0.3}, {"loss_type": "apo_down"}),
    ("discopop", {"beta": 0.3, "tau": 0.5}, {"loss_type": "discopop", "tau": 0.5}),
    ("aot", {"beta": 0.3, "label_smoothing": 0.1}, {"loss_type": "aot", "label_smoothing": 0.1}),
    ("aot", {"beta": 0.3, "unpaired": True}, {"loss_type": "aot_unpaired"}),
]
KTO = {"beta": 0.3, "lambda_desirable": 1.33, "lambda_undesirable": 0.8}


def sides(chosen: list[ragged.Example], key: str) -> dict[str, list[Any]]:
    return {side: [getattr(e[n], key).tolist() for e in chosen] for n, side in enumerate(("better", "worse"))}


def cases() -> list[tuple[dict[str, Any], Any, Rows]]:
    """What TRL is asked, our objective, and our rows."""
    pairs, alone = ragged.examples(9, seed=5), ragged.examples(9, seed=6, responses=1)
    rows, logp = ragged.rows(pairs), sides(pairs, "logp")
    ref = {f"ref_{side}": values for side, values in sides(pairs, "ref").items()}
    found = []
    for name, ours, theirs in DPO:
        keys = {"beta": ours["beta"], **theirs}
        found.append(({"trainer": "dpo", **logp, **ref, "keys": keys}, OBJECTIVES.build(name, ours), rows))
    for kl_baseline in ([0.9, -0.1, 0.7], [-2.0, -1.0, 0.5]):  # one above 0, one that is clamped
        single = {
            "rows": [e[0].logp.tolist() for e in alone],
            "ref": [e[0].ref.tolist() for e in alone],
            "labels": [e[0].reward > 0.5 for e in alone],
        }
        mean = sum(kl_baseline) / 3
        asked = {"trainer": "kto", **single, "contrast": kl_baseline, "keys": KTO}
        found.append((asked, OBJECTIVES.build("kto", KTO), ragged.rows(alone, kl_baseline=mean)))
    smooth = {"beta": 0.4, "label_smoothing": 0.1}
    for name, ours, theirs in (
        ("cpo", {"alpha": 0.0, **smooth}, {"loss_type": "sigmoid", **smooth}),
        ("simpo", {"gamma": 0.7, **smooth}, {"loss_type": "simpo", "gamma": 0.7, **smooth}),
    ):
        found.append(({"trainer": "cpo", **logp, "keys": theirs}, OBJECTIVES.build(name, ours), rows))
    orpo = {"beta": 0.4}
    found.append(({"trainer": "orpo", **logp, "keys": orpo}, OBJECTIVES.build("orpo", orpo), rows))
    reading = {side: [float(e[n].value[-1]) for e in pairs] for n, side in enumerate(("better", "worse"))}
    margins = [e[0].margin for e in pairs]
    asked = {"trainer": "reward", **reading, "margin": margins, "keys": {"centring": 0.05}}
    found.append((asked, OBJECTIVES.build("reward", {"centring": 0.05}), rows))
    return found


def test_losses_equal_trls() -> None:
    asked = [case for case, _, _ in cases()]
    script = Path(__file__).with_name("trl_losses.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    done = subprocess.run(
        [PYTHON, script], input=json.dumps(asked), capture_output=True, text=True, env=environment, timeout=280
    )
    assert done.returncode == 0, done.stderr[-3000:]
    theirs = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))[7:])
    assert len(theirs) == len(asked) == 19
    for expected, (case, objective, rows) in zip(theirs, cases(), strict=True):
        assert torch.isfinite(torch.tensor(expected))
        ours = float(objective.loss(rows).detach().mean())
        assert ours == pytest.approx(expected, rel=2e-6, abs=1e-6), (case["trainer"], case["keys"])
