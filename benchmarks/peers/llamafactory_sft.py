"""LLaMA-Factory's SFT stage on the workload."""

from clock import arguments
from llamafactory_stage import train

work, settings, output = arguments()
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
entry = {"file_name": work.train, "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
train(work, settings, output, {"stage": "sft"}, entry)
