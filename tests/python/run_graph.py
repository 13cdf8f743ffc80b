"""Checks exported graphs with ONNX's own checker and runs them with ONNX Runtime's Python package.

    python run_graph.py REQUEST.json     # {"ids": [...], "prompt": 5, "bundles": ["folder", ...]}

Prints for each bundle its operator domains, the logits after all ids (at once, and token by token behind a prompt) and
the log-probability of every id but the first.
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime


def run(folder, ids, prompt):
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["model"]
    path = folder / manifest["graph"]
    # Shapes are inferred too where every operator is ONNX's own.
    onnx.checker.check_model(str(path), full_check=manifest.get("operators") == "standard")
    graph = onnx.load(str(path), load_external_data=False)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    heads, size = manifest["key_value_heads"], manifest["head_size"]
    empty = np.zeros((1, heads, 0, size), np.float32)

    def step(new, past, targets=()):
        length = len(new) + next(iter(past.values())).shape[2]
        feed = {"input_ids": np.array([new], np.int64), "attention_mask": np.ones((1, length), np.int64),
                "targets": np.array([list(targets)], np.int64).reshape(1, -1), **past}
        out = dict(zip(names, session.run(names, feed)))
        return out, {name.replace("present", "past_key_values"): value for name, value in out.items() if name.startswith("present")}

    start = {f"past_key_values.{layer}.{part}": empty for layer in range(manifest["layers"]) for part in ("key", "value")}
    at_once, _ = step(ids, start)
    stepped, past = step(ids[:prompt], start)
    for token in ids[prompt:]:
        stepped, past = step([token], past)
    scored, _ = step(ids[:-1], start, ids[1:])
    return {
        "domains": sorted({opset.domain for opset in graph.opset_import}),
        "node_domains": sorted({node.domain for node in graph.graph.node}),
        "at_once": at_once["logits"].ravel().tolist(),
        "stepped": stepped["logits"].ravel().tolist(),
        "log_probabilities": scored["log_probabilities"].ravel().tolist(),
    }


request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
print(json.dumps([run(Path(bundle), request["ids"], request["prompt"]) for bundle in request["bundles"]]))
