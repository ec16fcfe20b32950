"""Expert iteration on the shipped theorems: a model that was shown a few proofs finds more, Coq says which are right,
those are learnt, and so on. The pipeline is the one that ships (recipes/pipelines/expert_iteration.yaml), with a model
of a million weights that knows nothing else, so that three seeds take minutes.

Of 222 theorems 40 have a proof to begin with. pass@k on the 56 held-out statements is estimated without bias from 16
answers each (arXiv:2107.03374); its interval is by resampling statements.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from environments import ROOT

from learning import runs
from learning.contest import RARELY

PIPELINE = ROOT / "recipes" / "pipelines" / "expert_iteration.yaml"
DATA = ROOT / "recipes" / "data"
SAMPLES, LONGEST = 16, 64
KS = (1, 4, 16)
WORD = r"[A-Za-z_]+(?:\.[A-Za-z_]+)*|\d+|<->|->|<=|<>|/\\|\\/|\+\+|&&|\|\||::|=>|:=|[^\sA-Za-z0-9_]"
"""A word of Coq as this model reads it."""
SPECIAL = ("<pad>", "<end>", "<unk>", "<prove>")
TEMPLATE = "{% for m in messages %}{{ m['content'] }}{{ ' <prove>' if m['role'] == 'user' else ' <end>' }}{% endfor %}"
ROUNDS = 2


def folder(path: Path, seed: int) -> str:
    """A model that knows nothing, with a token for each word of the theorems and their proofs."""
    import torch
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from luthier.demo.theorems import row, split

    texts = (f"{one['prompt']} {one['proof']}" for part in split() for one in (row(it, proof=True) for it in part))
    known = [*SPECIAL, *sorted({word for text in texts for word in re.findall(WORD, text)})]
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(known)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(WORD), "isolated"), pre_tokenizers.WhitespaceSplit()]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="<end>",
        unk_token="<unk>",
        additional_special_tokens=["<prove>"],
        chat_template=TEMPLATE,
    )
    config = LlamaConfig(
        vocab_size=len(known),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def pipeline(home: Path, seed: int) -> dict[str, Any]:
    """The pipeline that ships, with this model and what a model from nothing needs: all weights, more epochs."""
    given = yaml.safe_load(PIPELINE.read_text(encoding="utf-8").replace("../data/", f"{DATA}/"))
    first, rounds = given["stages"]["first"], given["stages"]["rounds"]
    first["model"] = {"name": folder(home / f"blank-{seed}", seed), "dtype": "fp32"}
    for stage, epochs in ((first, 30), (rounds["stages"]["tuned"], 5)):
        stage |= {"adapt": ["full"], "seed": seed, "evaluate": []}
        stage["train"] |= {"epochs": epochs, "save_every": RARELY}
    rounds["repeat"] = ROUNDS
    rounds["stages"]["proofs"]["seed"] = seed
    return {**given, "output": str(home / f"seed-{seed}")}


def proved(run: Path, said: Path, seed: int) -> list[list[float | None]]:
    """For each held-out statement the score of each of its answers: 1 is proved. `said`: where the answers go."""
    from luthier.scorers.proofs.checker import Claim
    from luthier.scorers.proofs.coq import Coq

    rows = [json.loads(line) for line in (DATA / "theorems-heldout.jsonl").read_text(encoding="utf-8").splitlines()]
    prompts = runs.write(said / "asked.jsonl", [{"prompt": row["prompt"]} for row in rows])
    out, keys = said / "answers.jsonl", (f"max_new_tokens={LONGEST}", "temperature=1.0", f"seed={seed}")
    asked = ("--prompts", prompts, "--n", str(SAMPLES), "--out", str(out), *keys)
    runs.luthier(said / "answers.log", "generate", str(run), *asked)
    answers = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    of_row = [rows[int(re.findall(r"\d+", answer["source"])[-1]) - 1] for answer in answers]
    pairs = list(zip(of_row, answers, strict=True))
    verdicts = Coq().check_many([(Claim(row["statement"], row["header"]), answer["text"]) for row, answer in pairs])
    found: dict[str, list[float | None]] = {row["statement"]: [] for row in rows}
    for (row, answer), verdict in zip(pairs, verdicts, strict=True):
        found[row["statement"]].append(verdict.score if answer["finish"] == "stop" else 0.0)
    return list(found.values())


def passes(scores: Sequence[Sequence[float | None]], k: int) -> list[float]:
    """pass@k of each statement."""
    from luthier.scorers.pass_at_k import mean_pass_at_k

    return [mean_pass_at_k([some], k) or 0.0 for some in scores]


def longer(first: Path, steps: int, output: Path, given: dict[str, Any]) -> Path:
    """The model of the first stage, taught the same 40 proofs for so many steps more: what comes of training alone."""
    stage = {**given["stages"]["first"], "model": {"name": str(first), "dtype": "fp32"}, "output": str(output)}
    kept = {key: value for key, value in stage["train"].items() if key != "epochs"}
    runs.ran({**stage, "train": {**kept, "steps": steps}})
    return output


def of_seed(seed: int) -> dict[str, Any]:
    """The pipeline by one seed, and what its models prove: after the first proofs, and after each round."""
    home = runs.home("theorems")
    given = pipeline(home, seed)
    path, out = home / f"seed-{seed}.yaml", Path(given["output"])
    path.write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
    runs.luthier(home / f"seed-{seed}.log", "run", str(path))
    rounds = [out / "rounds" / str(number) for number in range(1, ROUNDS + 1)]
    steps = json.loads((rounds[-1] / "tuned" / "summary.json").read_text())["steps"]
    models = {"first": out / "first"}
    models["first, for longer"] = longer(out / "first", steps, home / f"longer-{seed}", given)
    models |= {f"round {number}": one / "tuned" for number, one in enumerate(rounds, 1)}
    scores = {name: proved(run, home / f"held-out-{seed}" / name, seed) for name, run in models.items()}
    before, *_, after = (passes(some, 1) for some in scores.values())
    return {
        "scores": {name: {f"pass@{k}": runs.mean(passes(some, k)) for k in KS} for name, some in scores.items()},
        "gain": runs.mean([new - old for new, old in zip(after, before, strict=True)]),
        "kept": [json.loads((one / "right" / "summary.json").read_text()) for one in rounds],
    }


def result(seeds: Sequence[int], at_once: int) -> tuple[dict[str, Any], str]:
    """Every seed."""
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(of_seed, seeds))
    return {"runs": found}, text(seeds, found)


def text(seeds: Sequence[int], found: Sequence[dict[str, Any]]) -> str:
    """A line for each model, a column a seed."""
    heads = ["model", *(f"pass@1, seed {seed}" for seed in seeds), *(f"pass@{k}, mean" for k in KS[1:])]
    lines = [
        [
            name,
            *(runs.shown(one["scores"][name]["pass@1"]) for one in found),
            *(f"{fmean(one['scores'][name][f'pass@{k}']['value'] for one in found):.3f}" for k in KS[1:]),
        ]
        for name in found[0]["scores"]
    ]
    gains = ", ".join(runs.shown(one["gain"], sign=True) for one in found)
    solved = "; ".join(" → ".join(f"{kept['right']:.2f}" for kept in one["kept"]) for one in found)
    return (
        f"Of 56 held-out statements, {SAMPLES} answers each.\n\n{runs.table(heads, lines)}\n\n"
        f"Rise of pass@1 from the first model to the last, by seed: {gains}. Of the answers to the theorems that train "
        f"so many were right, round by round: {solved}.\n"
    )
