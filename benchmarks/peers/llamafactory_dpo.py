"""LLaMA-Factory's DPO stage on the workload (responses as single messages); the reference is the adapter off."""

import json
from pathlib import Path

from clock import arguments, lines
from llamafactory_stage import train

work, settings, output = arguments()
path = Path(output).with_name("pairs.json")
rows = [row | {"chosen": row["chosen"][0], "rejected": row["rejected"][0]} for row in lines(work)]
path.write_text(json.dumps(rows), encoding="utf-8")
columns = {"messages": "prompt", "chosen": "chosen", "rejected": "rejected"}
tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
tags["system_tag"] = "system"
entry = {"file_name": str(path), "formatting": "sharegpt", "ranking": True, "columns": columns, "tags": tags}
train(work, settings, output, {"stage": "dpo", "pref_beta": work.beta, "pref_loss": "sigmoid"}, entry)
