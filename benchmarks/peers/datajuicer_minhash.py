"""Data-Juicer's MinHash over the texts of a JSONL file: rows, kept, processor seconds and memory, as JSON.

python peers/datajuicer_minhash.py ROWS.jsonl
"""

import json
import re
import resource
import sys
from pathlib import Path

from data_juicer.core.data import NestedDataset
from data_juicer.ops.deduplicator.document_minhash_deduplicator import DocumentMinhashDeduplicator


def processor_seconds() -> float:
    """Of this process and those that it started."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in spent)


rows = [json.loads(line) for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()]
data = NestedDataset.from_list([{"text": row["prompt"] + "\n" + row["answer"]} for row in rows])
step = DocumentMinhashDeduplicator(tokenization="space", window_size=3, jaccard_threshold=0.8)
begun = processor_seconds()
hashed = data.map(step.compute_hash)
kept, _ = step.process(hashed)
seconds = processor_seconds() - begun
peak = int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) / 1024
print(json.dumps({"rows": len(rows), "kept": len(kept), "cpu_seconds": seconds, "peak_mib": peak}))
