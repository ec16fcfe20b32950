"""TRL's GRPO on the on-policy workload, with a clock on each part of a step.

    python trl_grpo.py WORKLOAD.json OUTPUT SETTINGS-as-JSON

Prints a JSON line: seconds of each step and of its sampling and scoring; what is left is training.
"""

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from task import arguments, rows
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

work, settings, output = arguments()
sys.path.append(str(Path(work.reward).parent))
from varied import varied  # noqa: E402  (the contest's own file)


def reward(completions, **given):
    return [varied(completion[0]["content"]) for completion in completions]


class Timed(GRPOTrainer):
    """Counts the seconds of its parts, and the tokens that were sampled."""

    sampling = scoring = 0.0
    tokens = cut = 0

    def _generate(self, prompts):
        began = time.perf_counter()
        made = super()._generate(prompts)
        self.sampling += time.perf_counter() - began
        lengths = [len(ids) for ids in made[1]]
        self.tokens += sum(lengths)
        self.cut += sum(length == work.max_new_tokens for length in lengths)
        return made

    def _calculate_rewards(self, *given):
        began = time.perf_counter()
        scores = super()._calculate_rewards(*given)
        self.scoring += time.perf_counter() - began
        return scores


class Steps(TrainerCallback):
    """A line for each step, from the end of the one before."""

    def __init__(self):
        self.found = []

    def on_train_begin(self, args, state, control, **given):
        self.began = time.time()

    def on_step_end(self, args, state, control, **given):
        now = time.time()
        self.found.append(
            {
                "seconds": now - self.began,
                "sampling": trainer.sampling,
                "scoring": trainer.scoring,
                "tokens": trainer.tokens,
                "cut": trainer.cut,
            }
        )
        self.began = now
        trainer.sampling = trainer.scoring = 0.0
        trainer.tokens = trainer.cut = 0


micro = settings.pop("per_device_train_batch_size", GRPOConfig.per_device_train_batch_size)
config = GRPOConfig(
    output_dir=output,
    max_steps=work.steps,
    per_device_train_batch_size=micro,
    gradient_accumulation_steps=work.prompts * work.n // micro,
    num_generations=work.n,
    max_completion_length=work.max_new_tokens,
    temperature=1.0,
    loss_type="grpo",
    learning_rate=work.lr,
    lr_scheduler_type="constant",
    weight_decay=0.0,
    max_grad_norm=1.0,
    logging_steps=1,
    save_strategy="no",
    report_to="none",
    seed=work.seed,
    use_cpu=True,
    **{"bf16": False, **settings},
)
lora = LoraConfig(
    r=work.rank, lora_alpha=work.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
)
steps = Steps()
trainer = Timed(
    work.model,
    reward_funcs=reward,
    args=config,
    train_dataset=Dataset.from_list([{"prompt": row["messages"]} for row in rows(work)]),
    peft_config=lora,
    callbacks=[steps],
)
trainer.train()
rewards = [line["reward"] for line in trainer.state.log_history if "reward" in line]
versions = {name: version(name) for name in ("trl", "transformers", "peft", "torch")}
print("\n" + json.dumps({"tool": "trl", "steps": steps.found, "rewards": rewards, "versions": versions}), flush=True)
