"""LLaMA-Factory's stage sft or dpo on the workload, through the entry point that `llamafactory-cli train` calls."""

import json
from pathlib import Path

from clock import Clock
from llamafactory.train.tuner import run_exp
from task import arguments, training
from transformers import TrainingArguments

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""As the model's own chat template has it; LLaMA-Factory's copy of the template adds a full stop."""

work, settings, output = arguments()
folder = Path(output)
folder.mkdir(parents=True, exist_ok=True)
paired = work.stage == "dpo"
tags = {"role_tag": "role", "content_tag": "content"}
tags |= {"system_tag": "system", "user_tag": "user", "assistant_tag": "assistant"}
columns = {name: name for name in ("messages", *(("chosen", "rejected") if paired else ()))}
entry = {"file_name": work.train, "formatting": "sharegpt", "columns": columns, "tags": tags, "ranking": paired}
(folder / "dataset_info.json").write_text(json.dumps({"rows": entry}), encoding="utf-8")
own = {
    "model_name_or_path": work.model,
    "stage": work.stage,
    "do_train": True,
    "finetuning_type": "lora",
    "lora_rank": work.rank,
    "lora_alpha": work.alpha,
    "lora_dropout": 0.0,
    "lora_target": "all",
    "template": "smollm2",
    "default_system": SYSTEM,
    "cutoff_len": work.max_tokens,
    "dataset_dir": str(folder),
    "dataset": "rows",
    **({"pref_beta": work.beta, "pref_loss": "sigmoid"} if paired else {}),
}
trainers = training(work, output, settings, TrainingArguments.per_device_train_batch_size)
run_exp(own | trainers, callbacks=[Clock("llamafactory", "llamafactory", "trl")])
