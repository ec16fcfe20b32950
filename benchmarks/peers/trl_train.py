"""TRL on the workload.

SFTTrainer with prompt/completion rows (loss on the completion, its default for them), or DPOTrainer with prompt, chosen
and rejected (the reference is the model without the adapter).
"""

from clock import Clock
from datasets import Dataset
from peft import LoraConfig
from task import arguments, rows, training

work, settings, output = arguments()
if work.stage == "dpo":
    from trl import DPOConfig as Config
    from trl import DPOTrainer as Trainer

    settings["beta"] = work.beta
    judged = [{"prompt": row["messages"], **{key: [row[key]] for key in ("chosen", "rejected")}} for row in rows(work)]
    data = Dataset.from_list(judged)
else:
    from trl import SFTConfig as Config
    from trl import SFTTrainer as Trainer

    data = Dataset.from_list([{"prompt": row["messages"][:1], "completion": row["messages"][1:]} for row in rows(work)])
config = Config(
    **training(work, output, settings, Config.per_device_train_batch_size),
    max_length=work.max_tokens,
    use_cpu=True,  # without it, and without a GPU, TRL's default of bf16 is refused
)
lora = LoraConfig(
    r=work.rank, lora_alpha=work.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
trainer = Trainer(work.model, args=config, train_dataset=data, peft_config=lora, callbacks=[Clock("trl", "trl")])
trainer.train()
trainer.save_model(output)
