"""Unsloth on the workload as its guides write it: FastLanguageModel, rendered text, train_on_responses_only."""

from unsloth import FastLanguageModel  # isort: skip  (it must come before transformers and trl)
from unsloth.chat_templates import train_on_responses_only  # isort: skip

from clock import Clock
from datasets import Dataset
from task import arguments, rows, training
from trl import SFTConfig, SFTTrainer

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

work, settings, output = arguments()
loading = {key: settings.pop(key) for key in ("dtype",) if key in settings}
checkpointing = settings.pop("use_gradient_checkpointing", "unsloth")
model, tokenizer = FastLanguageModel.from_pretrained(
    work.model, max_seq_length=work.max_tokens, load_in_4bit=False, **loading
)
model = FastLanguageModel.get_peft_model(
    model,
    r=work.rank,
    lora_alpha=work.alpha,
    lora_dropout=0,
    bias="none",
    target_modules=LINEAR,
    use_gradient_checkpointing=checkpointing,
    random_state=work.seed,
)
# without the newline after the last turn: a text that does not end with the end token is given a second one
texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False).rstrip("\n") for row in rows(work)]
config = SFTConfig(
    **training(work, output, settings, rows_at_once=2),  # 2 as in its guides
    max_length=work.max_tokens,
    optim="adamw_torch",
)
clock = Clock("unsloth", "unsloth", "trl")
data = Dataset.from_dict({"text": texts})
trainer = SFTTrainer(model=model, processing_class=tokenizer, train_dataset=data, args=config, callbacks=[clock])
trainer = train_on_responses_only(
    trainer, instruction_part="<|im_start|>user\n", response_part="<|im_start|>assistant\n"
)
trainer.train()
trainer.save_model(output)
