"""The requests alone, so that a row is 16 tokens long and not 50: `clinc150: REQUEST`, a line feed, `Intent:`.

    python3 docs/experiments/intents/requests.py DATA OUT

DATA has clinc150/, hwu64/ and snips/, each with train.jsonl, validation.jsonl and test.jsonl, whose inputs hold the request in
quotation marks; OUT gets the same files with everything else left out.
"""

import json
import pathlib
import sys

data, out = map(pathlib.Path, sys.argv[1:])
for task in ("clinc150", "hwu64", "snips"):
    (out / task).mkdir(parents=True, exist_ok=True)
    for split in ("train", "validation", "test"):
        with open(data / task / f"{split}.jsonl") as rows, open(out / task / f"{split}.jsonl", "w") as short:
            for line in rows:
                row = json.loads(line)
                asked = row["input"].splitlines()[0]
                request = asked[asked.index('"') + 1 : asked.rindex('"')]
                row = {"id": row["id"], "task": task, "input": f"{task}: {request}\nIntent:", "target": row["target"], "metric": "accuracy"}
                print(json.dumps(row, ensure_ascii=False), file=short)
