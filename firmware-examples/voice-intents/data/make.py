"""Makes {train,validation,test}.jsonl.gz from the task rows of home_assistant and SNIPS: make.py HOME_ASSISTANT SNIPS

Each is a folder with {train,validation,test}.jsonl whose `input` has the utterance in quotes on its first line. What is
kept: id, task, the utterance as `input`, the intent as `target`. Python 3, nothing else; the same bytes every time.
"""
import gzip
import json
import pathlib
import re
import sys

for split in ("train", "validation", "test"):
    lines = []
    for folder in map(pathlib.Path, sys.argv[1:]):
        for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            utterance = re.match(r'[^\n"]*: "(.*)"$', row["input"].split("\n")[0]).group(1)
            kept = {"id": row["id"], "task": row["task"], "input": utterance, "target": row["target"]}
            lines.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    out = pathlib.Path(__file__).with_name(f"{split}.jsonl.gz")
    out.write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), 9, mtime=0))
    print(out.name, len(lines), "rows,", out.stat().st_size, "bytes")
