"""TRL + PEFT + bitsandbytes on one CUDA device, for gpu_adapters.py: MODEL ROWS nf4|int8|None MAX_TOKENS.

Prints one JSON object: peak device memory and tokens a second. Never run where this was written: no GPU was at hand.
"""

from __future__ import annotations

import json
import sys

import torch
from datasets import load_dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from trl import SFTConfig, SFTTrainer

FEW_BITS = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
    "None": None,
}


def main(folder: str, rows: str, quantize: str, max_tokens: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    few_bits = FEW_BITS[quantize]
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.bfloat16, quantization_config=few_bits, device_map={"": 0}
    )
    if few_bits is not None:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir="/tmp/trl-qlora",
            per_device_train_batch_size=4,
            gradient_accumulation_steps=4,
            num_train_epochs=1,
            learning_rate=2e-4,
            max_length=int(max_tokens),
            bf16=True,
            gradient_checkpointing=False,
            save_strategy="no",
            report_to=[],
            include_num_input_tokens_seen="all",
        ),
        train_dataset=load_dataset("json", data_files=rows, split="train"),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
    )
    torch.cuda.reset_peak_memory_stats()
    done = trainer.train()
    tokens = trainer.state.num_input_tokens_seen
    peak = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps({"peak_gib": peak, "tokens_per_s": tokens / done.metrics["train_runtime"]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
