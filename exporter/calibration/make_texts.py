"""The texts that 4-bit weights are calibrated on where nobody gives others: arithmetic in words, requests, prose and code.

    python make_texts.py GSM8K/train.jsonl > texts.jsonl

GSM8K's file is grade_school_math/data/train.jsonl of github.com/openai/grade-school-math; everything else is of this repository,
as it was at commit 1045a5b.
"""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
LENGTH = 1100  # characters of a text: about 256 tokens


def at_commit(path):
    return subprocess.run(["git", "show", f"1045a5b:{path}"], cwd=REPOSITORY, check=True, capture_output=True).stdout


def problems(count):
    with open(sys.argv[1]) as file:
        rows = [json.loads(line) for line, _ in zip(file, range(count))]
    solved = [f"{row['question']}\n{re.sub('<<.*?>>', '', row['answer'])}" for row in rows]
    return ["\n\n".join(solved[index:index + 3]) for index in range(0, count, 3)]


def requests(count):
    rows = gzip.decompress(at_commit("cli/data/clinc150/train.jsonl.gz")).decode().splitlines()
    inputs = [json.loads(row)["input"] for row in rows[:count]]
    return ["\n".join(inputs[index:index + 25]) for index in range(0, count, 25)]


def pieces(path, starts):
    text = at_commit(path).decode()
    return [text[start:] for start in starts]


texts = problems(18) + requests(50)
texts += pieces("ARCHITECTURE.md", [0, 3200, 7400]) + pieces("README.md", [0, 900, 6200]) + pieces("SECURITY.md", [0])
texts += pieces("evaluation/OUTCOMES.md", [0, 1500]) + pieces("LICENSE-APACHE", [1500, 6000])
texts += pieces("runtime/src/cascade.rs", [0]) + pieces("exporter/tests/fixtures/make_packing.py", [0])
for text in texts:
    print(json.dumps({"text": text[:LENGTH]}, ensure_ascii=False))
