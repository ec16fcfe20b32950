"""TRL's DPOTrainer on the workload: conversational prompt, chosen and rejected; the reference is the adapter off."""

from clock import Clock, arguments, lines
from datasets import Dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

work, settings, output = arguments()
data = Dataset.from_list(lines(work))
micro = settings.pop("per_device_train_batch_size", DPOConfig.per_device_train_batch_size)
config = DPOConfig(
    output_dir=output,
    num_train_epochs=1,
    max_length=work.max_tokens,
    beta=work.beta,
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=work.batch // micro,
    learning_rate=work.lr,
    lr_scheduler_type="constant",
    weight_decay=0.0,
    max_grad_norm=1.0,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    use_cpu=True,  # without it, and without a GPU, TRL's default of bf16 is refused
    seed=work.seed,
    **settings,
)
lora = LoraConfig(
    r=work.rank, lora_alpha=work.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
trainer = DPOTrainer(work.model, args=config, train_dataset=data, peft_config=lora, callbacks=[Clock("trl", "trl")])
trainer.train()
trainer.save_model(output)
